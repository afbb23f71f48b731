//! What a host takes and refuses, and what is left after a restart.

use super::*;

#[test]
fn newer_versions_replace_older_ones() {
    let mut host = Host::new();
    assert_eq!(host.takes(&bundle(1)), Outcome::Taken { policy: id("edge"), from: None, to: 1 });
    assert_eq!(host.takes(&bundle(1)), Outcome::Same);
    assert_eq!(host.takes(&bundle(4)), Outcome::Taken { policy: id("edge"), from: Some(1), to: 4 });
    assert_eq!(host.version(), Some(4));
    host.takes(&with(1, |b| b.policy.policy_id = id("other")));
    assert_eq!(host.holding.bundles().count(), 2);
}

#[test]
fn replays_and_equivocation() {
    let mut host = Host::new();
    host.takes(&bundle(4));
    assert_eq!(host.why(&signed(&bundle(3))), "version 3 of edge is older than 4, which was seen here");
    let other = with(4, |b| b.policy.denied_contracts = rules(&["wasmcloud:keyvalue"]));
    assert!(host.why(&signed(&other)).starts_with("version 4 of edge was seen with other content"));
    let longer = with(4, |b| b.expires += 1);
    assert!(host.why(&signed(&longer)).contains("other content"), "its validity is content");
    assert_eq!(host.version(), Some(4));
}

#[test]
fn absurd_jumps() {
    let mut host = Host::new();
    assert!(host.why(&signed(&bundle(u64::MAX))).contains("too far above 0"));
    assert!(host.why(&signed(&bundle(MAX_FIRST_VERSION + 1))).contains("too far"));
    host.takes(&bundle(7));
    assert!(host.why(&signed(&bundle(7 + (1 << 63)))).contains("too far above 7"));
    assert!(host.why(&signed(&bundle(8 + MAX_JUMP))).contains("too far above 7"));
    host.takes(&bundle(7 + MAX_JUMP));
    // Not even in steps beyond the end.
    let mut at_the_end = Host::new();
    at_the_end.takes(&bundle(MAX_FIRST_VERSION));
    assert!(at_the_end.why(&signed(&bundle(MAX_FIRST_VERSION + 1))).contains("too far"));
    assert!(at_the_end.why(&signed(&with(0, |_| ()))).contains("versions begin with 1"));
}

#[test]
fn keys() {
    let mut host = Host::new();
    host.takes(&bundle(1));
    let by = |signer: PublicKey, version| signed(&with(version, |b| b.issuer = signer));
    assert!(host.why(&by(key('A', 'X'), 2)).contains("does not sign policies here"));
    assert!(host.why(&signed_by(&bundle(2), &key('A', 'X'))).starts_with("wrong signature"));
    // The line above names a trusted key, the document another.
    let body = with(2, |b| b.issuer = key('O', 'B')).encode();
    let swapped = seal(&key('A', 'B'), &sign(&key('A', 'B'), &signed_bytes(Purpose::Policy, &body)), &body);
    assert!(host.why(&swapped).starts_with("wrong signature"));
    // A signature of the same key over the same bytes, made for a claim.
    let body = bundle(2).encode();
    let claim = seal(&key('A', 'B'), &sign(&key('A', 'B'), &signed_bytes(Purpose::Claim, &body)), &body);
    assert!(host.why(&claim).starts_with("wrong signature"));
    // A kind of key that signs no policies, trusted by mistake.
    host.keys.insert(key('U', 'B'));
    assert!(host.why(&by(key('U', 'B'), 2)).contains("does not sign policies"));
    host.offer(&by(key('O', 'B'), 2)).unwrap();
    assert_eq!(host.version(), Some(2));
}

#[test]
fn revoked_keys_sign_nothing_more() {
    let mut host = Host::new();
    host.takes(&bundle(1));
    host.takes(&with(1, |b| {
        (b.policy.policy_id, b.issuer) = (id("keys"), key('O', 'B'));
        b.revoked_keys.insert(key('A', 'B'));
    }));
    assert!(host.why(&signed(&bundle(2))).ends_with("was revoked"));
    assert_eq!(host.version(), Some(1), "what was in force stays");
    assert_eq!(host.takes(&bundle(1)), Outcome::Same, "and is not refused at the next look");
    host.takes(&with(2, |b| b.issuer = key('O', 'B')));
    let itself = with(3, |b| b.revoked_keys.extend([key('A', 'B')]));
    assert!(Host::new().why(&signed(&itself)).contains("revokes the key that signed it"));
}

#[test]
fn other_lattices_and_times() {
    let mut host = Host::new();
    host.takes(&bundle(1));
    let mut why = |change: fn(&mut Bundle)| host.why(&signed(&with(2, change)));
    assert_eq!(why(|b| b.lattice = LatticeName::new("other").unwrap()), "it is for lattice `other`, not for `default`");
    assert!(why(|b| b.not_before = NOW + 1).contains("not valid before"));
    assert!(why(|b| b.expires = NOW).contains("expired"));
    assert_eq!(host.version(), Some(1));
    // What was too early is taken when it is time, and blocks nothing meanwhile.
    host.time = Time::exact(NOW + 1);
    host.takes(&with(2, |b| b.not_before = NOW + 1));
}

#[test]
fn scopes() {
    let check = |text: &str, expected: bool| {
        let scope: Scope = text.parse().unwrap();
        assert_eq!(scope.covers(&Host::new().facts()), expected, "{text}");
        assert_eq!(scope.to_string(), text);
        assert_eq!(serde_json::from_value::<Scope>(serde_json::to_value(&scope).unwrap()).unwrap(), scope);
    };
    check("all", true);
    check("region=eu", true);
    check("region=us", false);
    check("label:tier=edge", true);
    check("label:tier=cloud", false);
    check("label:rack=1", false);
    check("host=NEDGE01", true);
    check("host=NEDGE0", false);
    check(&format!("host=N{}", "B".repeat(55)), true);
    for bad in ["", "eu", "region=", "region=a b", "label=x", "label:=x", "label:a=", "host=*", "ALL", "label:a=\n"] {
        assert!(bad.parse::<Scope>().is_err(), "{bad}");
    }
    assert!(format!("label:a={}", "b".repeat(129)).parse::<Scope>().is_err());
}

#[test]
fn a_newer_version_for_others_takes_the_older_one_away() {
    let elsewhere = |version| with(version, |b| b.scope = "region=us".parse().unwrap());
    let mut host = Host::new();
    assert_eq!(host.takes(&elsewhere(1)), Outcome::Elsewhere { policy: id("edge"), from: None, to: 1 });
    assert_eq!(host.takes(&elsewhere(1)), Outcome::Same);
    host.takes(&bundle(2));
    assert_eq!(host.takes(&elsewhere(3)), Outcome::Elsewhere { policy: id("edge"), from: Some(2), to: 3 });
    assert_eq!((host.version(), host.holding.lost()), (None, None));
    assert!(host.why(&signed(&bundle(2))).contains("older than 3"), "what is for others counts, too");
    assert_eq!(host.restarted(|_, _| ()).holding, host.holding);
}

/// So many keys, none like another.
fn keys_by_number(count: usize) -> impl Iterator<Item = PublicKey> {
    let letter = |digit: usize| char::from(b'A' + u8::try_from(digit).unwrap());
    (0..count).map(move |n| PublicKey::new(format!("A{}{}{}", letter(n / 26), letter(n % 26), "X".repeat(53))).unwrap())
}

fn permit(number: usize) -> Permit {
    Permit { name: number.to_string(), digest: crate::id::Digest::of(b"code") }
}

#[test]
fn documents_that_make_no_sense() {
    let mut host = Host::new();
    host.takes(&bundle(1));
    let signed_body = |body: &[u8]| seal(&key('A', 'B'), &sign(&key('A', 'B'), &signed_bytes(Purpose::Policy, body)), body);
    let text = String::from_utf8(bundle(2).encode()).unwrap();
    let mut check = |body: String, part: &str| {
        let found = host.why(&signed_body(body.as_bytes()));
        assert!(found.contains(part), "{found} ~ {part}");
    };
    check("{}".into(), "missing field `policy`");
    check(text.replace("\"allowed_contracts\":[\"*\"],", ""), "missing field `allowed_contracts`");
    check(text.replace("\"lattice\"", "\"hosts\":[],\"lattice\""), "unknown field `hosts`");
    check(text.replace("\"version\":2", "\"version\":2,\"version\":2"), "duplicate field");
    check(text.replace("\"version\":2", "\"version\":-2"), "invalid value");
    check(text.replace("\"version\":2", "\"version\":1e309"), "out of range");
    check(text.replace("[\"*\"]", "[\"(a+)+$\"]"), "may only hold letters");
    check(text.replace("\"edge\"", "\"../../etc\""), "may only hold letters");
    check(text.replace("[\"*\"]", &format!("{}{}", "[".repeat(50), "]".repeat(50))), "nested deeper");
    check(text.replace("\"network_restrictions\":[]", "\"network_restrictions\":[\"no-radio\"]"), "`no-radio` is not known");
    check(text.replace("\"denied_contracts\"", "\"max_actor_memory_mb\":0,\"denied_contracts\""), "max_actor_memory_mb is 0");
    check(text.replace(&format!("\"expires\":{}", NOW + DAY), "\"expires\":5"), "ends before");
    check(text.replace(&format!("\"expires\":{}", NOW + DAY), &format!("\"expires\":{}", u64::MAX)), "ten years");
    check(format!("{text} x"), "trailing");
    let many = with(2, |b| b.policy.denied_contracts = vec![Rule::new("a").unwrap(); MAX_RULES]);
    assert!(host.why(&signed(&many)).contains("10001 rules"));
    let keys = with(2, |b| b.revoked_keys = keys_by_number(MAX_KEYS + 1).collect());
    assert!(host.why(&signed(&keys)).contains("revokes more than 256 keys"));
    let permits = with(2, |b| b.allow_older = (0..=MAX_KEYS).map(permit).collect());
    assert!(host.why(&signed(&permits)).contains("more than 256 pieces"));
    assert!(Bundle::decode(&vec![b' '; MAX_BUNDLE_BYTES + 1]).unwrap_err().to_string().contains("at most 786432"));
    assert!(host.why(&vec![b'x'; MAX_BUNDLE_BYTES + 1]).contains("at most 786432"));
    assert!(host.why(b"").contains("no line"));
    assert_eq!(host.version(), Some(1));
    // The largest policy that may be written can be sent.
    let full = with(2, |b| {
        b.policy.allowed_contracts.clear();
        b.policy.denied_contracts = vec![Rule::new(format!("wasmcloud:{}", "x".repeat(50))).unwrap(); MAX_RULES];
    });
    host.takes(&full);
}

#[test]
fn every_cut_of_a_document_is_refused() {
    let whole = signed(&bundle(1));
    for end in 0..whole.len() {
        assert!(Host::new().offer(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_host_knows_its_policies_after_a_restart() {
    let mut host = Host::new();
    host.takes(&bundle(3));
    assert_eq!(host.restarted(|_, _| ()).holding, host.holding);
    // Expired in the meantime: it is in force all the same.
    host.time = Time::exact(NOW + 30 * DAY);
    assert_eq!(host.restarted(|_, _| ()).holding, host.holding);
    // A new host holds nothing, and has lost nothing.
    let fresh = Host::new().restarted(|marks, documents| (*marks, *documents) = (Stored::Absent, Stored::Absent));
    assert_eq!(fresh.holding, Holding::default());
    // Versions that were seen are known from the documents, too.
    let mut found = host.restarted(|marks, _| *marks = Stored::Absent);
    assert!(found.why(&signed(&bundle(2))).contains("older than 3"));
}

#[test]
fn what_is_lost_is_known_to_be_lost() {
    let mut host = Host::new();
    host.takes(&bundle(3));
    let cut = |documents: &mut Stored<Documents>| {
        let Stored::Found(found) = documents else { panic!("no documents") };
        for document in found.values_mut() {
            document.truncate(document.len() / 2);
        }
    };
    let check = |lost: &Host, part: &str| {
        let why = lost.holding.lost().unwrap_or_default();
        assert!(why.contains(part), "{why} ~ {part}");
    };
    let mut after = host.restarted(|_, documents| cut(documents));
    check(&after, "version 3 of edge was in force here and cannot be read or verified any more");
    check(&host.restarted(|_, documents| *documents = Stored::Absent), "version 3 of edge");
    check(&host.restarted(|_, documents| *documents = Stored::Unreadable("cut".into())), "the policies cannot be read: cut");
    check(&host.restarted(|marks, _| *marks = Stored::Unreadable("cut".into())), "versions that were seen");
    // An older document in the place of the newer one.
    let old = String::from_utf8(signed(&bundle(2))).unwrap();
    let swapped = |documents: &mut Stored<Documents>| *documents = Stored::Found(BTreeMap::from([(id("edge"), old.clone())]));
    check(&host.restarted(|_, documents| swapped(documents)), "version 3 of edge");
    // The key is not trusted any more.
    host.keys = BTreeSet::from([key('O', 'B')]);
    check(&host.restarted(|_, _| ()), "version 3 of edge");
    host.keys = BTreeSet::from([key('A', 'B')]);
    // Another policy's document in its place.
    let other = String::from_utf8(signed(&with(3, |b| b.policy.policy_id = id("other")))).unwrap();
    let foreign = BTreeMap::from([(id("edge"), other)]);
    let moved = host.restarted(|marks, documents| (*marks, *documents) = (Stored::Absent, Stored::Found(foreign)));
    assert_eq!((moved.holding.bundles().count(), moved.holding.lost().is_some()), (0, true));

    // The same document brings it back, even if it has expired since; an older one does not.
    assert!(after.why(&signed(&bundle(2))).contains("older than 3"));
    after.holding.complete();
    assert!(after.holding.lost().is_some(), "a store without it does not make it forgotten");
    after.time = Time::exact(NOW + 30 * DAY);
    assert!(after.takes(&bundle(3)).changed());
    after.holding.complete();
    assert_eq!((after.holding.lost(), after.version()), (None, Some(3)));
}

#[test]
fn a_host_that_is_elsewhere_now_asks_what_is_meant_for_it() {
    let mut host = Host::new();
    let local = with(1, |b| b.scope = Scope::Region(host.region.clone()));
    host.takes(&local);
    let (marks, documents) = (Stored::Found(host.holding.marks().clone()), Stored::Found(host.holding.documents()));
    host.region = Region::new("elsewhere").unwrap();
    host.holding = Holding::restore(marks, documents, &host.judge(), &Hashes);
    assert!(host.holding.lost().is_some(), "nothing is allowed until it knows");
    assert_eq!(host.takes(&local), Outcome::Elsewhere { policy: id("edge"), from: None, to: 1 });
    host.holding.complete();
    assert_eq!((host.holding.lost(), host.version()), (None, None));
}

#[test]
fn no_more_policies_than_a_host_keeps() {
    let mut host = Host::new();
    for number in 0..accept::MAX_POLICIES {
        host.takes(&with(1, |b| b.policy.policy_id = id(&format!("p{number}"))));
    }
    assert!(host.why(&signed(&bundle(1))).contains("holds 64 policies already"));
    host.takes(&with(2, |b| b.policy.policy_id = id("p0")));
    // Nor does it take more of them from its disk.
    let found = host.restarted(|_, documents| {
        let Stored::Found(documents) = documents else { panic!("no documents") };
        documents.insert(id("edge"), String::from_utf8(signed(&bundle(1))).unwrap());
    });
    assert_eq!(found.holding.bundles().count(), accept::MAX_POLICIES);
}

#[test]
fn a_wrong_clock_takes_nothing_that_it_should_not() {
    use crate::trust::clock::Reading;
    let at = |wall_s, server_s| Time::of(&Reading { wall_s, built_s: NOW - 90 * DAY, floor_s: NOW - DAY, server_s });
    let mut host = Host::new();
    host.time = at(0, None);
    let fresh = with(1, |b| b.not_before = NOW - DAY / 2);
    assert!(host.why(&signed(&fresh)).contains("not valid before"), "by the floor it is too early");
    host.time = at(0, Some(NOW));
    host.takes(&fresh);
    // Ten years ahead without anybody to tell: what is new counts as expired, what is in force stays.
    host.time = at(NOW + 3650 * DAY, None);
    assert!(host.why(&signed(&bundle(2))).contains("expired"));
    assert_eq!(host.version(), Some(1));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        proptest::prop_assert!(Host::new().offer(&bytes).is_err());
    }

    /// Whatever is offered in whatever order, the version in force never falls.
    #[test]
    fn versions_never_fall(offers: Vec<(u8, bool, bool)>) {
        let mut host = Host::new();
        let mut highest = 0;
        for (version, good, mine) in offers {
            let offered = with(u64::from(version), |b| if !mine { b.scope = "region=us".parse().unwrap() });
            let signer = if good { key('A', 'B') } else { key('A', 'X') };
            let _ = host.offer(&signed_by(&offered, &signer));
            let seen = host.holding.marks().get(&id("edge")).map_or(0, |mark| mark.version);
            proptest::prop_assert!(seen >= highest);
            highest = seen;
            host = host.restarted(|_, _| ());
            proptest::prop_assert_eq!(host.holding.lost(), None);
        }
    }
}
