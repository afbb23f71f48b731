//! Verdicts on claims: one test for each question that [`verify`] asks, so that none can be left out unnoticed.

use super::sections::{CLAIM_SECTION, TOKEN_SECTION, append};
use super::*;
use crate::trust::clock::{Reading, Time};
use crate::trust::envelope::{seal, signed_bytes};
use crate::trust::testing::{Hashes, key, sign};

const NOW: u64 = 1_795_000_000;
const DAY: u64 = 86_400;

/// Makes another token of a sound one.
type Rewrite = Box<dyn Fn(&str) -> String>;

/// What a component says, and who says it; each test changes one thing.
struct Signing {
    code: Vec<u8>,
    claim: Claim,
    /// Whose key makes the claim's signature.
    by: PublicKey,
    /// The token, if there is one.
    token: Option<Rewrite>,
}

impl Signing {
    fn new(code: &[u8]) -> Self {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        append(&mut component, "code", code);
        let claim = Claim {
            name: "edge-processor".into(),
            version: "1.2.0".parse().unwrap(),
            revision: 3,
            digest: Digest::of(&component),
            allow: BTreeSet::from(["wasmcloud:keyvalue".to_owned(), "wasmcloud:messaging".to_owned()]),
            issued_at: NOW - DAY,
            not_before: NOW - DAY,
            expires: NOW + DAY,
            issuer: key('A', 'B'),
            subject: key('M', 'B'),
            lattice: None,
        };
        Self { code: component, claim, by: key('A', 'B'), token: None }
    }

    fn version(version: &str, revision: u32, code: &[u8]) -> Self {
        let mut signing = Self::new(code);
        (signing.claim.version, signing.claim.revision) = (version.parse().unwrap(), revision);
        signing
    }

    fn component(&self) -> Vec<u8> {
        let mut component = self.code.clone();
        let body = self.claim.encode();
        let signature = sign(&self.by, &signed_bytes(Purpose::Claim, &body));
        append(&mut component, CLAIM_SECTION, &seal(&self.claim.issuer, &signature, &body));
        if let Some(change) = &self.token {
            let hash = sections::token_hash(&component).unwrap();
            let unsigned = token::unsigned(&self.claim, &hash, "id");
            let signed = token::signed(&unsigned, &sign(&self.claim.issuer, unsigned.as_bytes()));
            append(&mut component, TOKEN_SECTION, change(&signed).as_bytes());
        }
        component
    }

    fn carried(&self) -> Carried {
        Carried::read(&self.component()).unwrap()
    }
}

/// A host that trusts the account `AB…`.
struct Host {
    trusted: BTreeSet<PublicKey>,
    revoked: BTreeSet<PublicKey>,
    permits: BTreeSet<Permit>,
    marks: Marks,
    lattice: LatticeName,
    time: Time,
}

impl Host {
    fn new() -> Self {
        Self {
            trusted: BTreeSet::from([key('A', 'B')]),
            revoked: BTreeSet::new(),
            permits: BTreeSet::new(),
            marks: Marks::default(),
            lattice: LatticeName::new("default").unwrap(),
            time: Time::exact(NOW),
        }
    }

    fn asks(&self, carried: &Carried) -> Result<Verified, Refused> {
        let place = Place { lattice: &self.lattice, time: self.time };
        let rules = Rules { trusted: &self.trusted, revoked: &self.revoked, permits: &self.permits, marks: &self.marks, place };
        verify(carried, &rules, &Hashes)
    }

    fn starts(&mut self, signing: &Signing) -> Result<Verified, Refused> {
        let verified = self.asks(&signing.carried())?;
        verified.remember(&mut self.marks);
        Ok(verified)
    }

    fn why(&self, signing: &Signing) -> String {
        self.asks(&signing.carried()).map_or_else(|refused| refused.to_string(), |_| "accepted".into())
    }
}

/// The sentence for a component that differs from a good one in one thing.
fn why(change: impl FnOnce(&mut Signing)) -> String {
    let mut signing = Signing::new(b"code");
    change(&mut signing);
    Host::new().why(&signing)
}

#[test]
fn a_good_claim_holds() {
    let mut signing = Signing::new(b"code");
    let found = Host::new().asks(&signing.carried()).unwrap();
    assert_eq!((found.claim(), found.forced_below()), (&signing.claim, None));
    signing.token = Some(Box::new(str::to_owned));
    assert_eq!(Host::new().asks(&signing.carried()).unwrap().claim(), &signing.claim);
    let decoded = serde_json::from_slice(&serde_json::to_vec(&signing.carried()).unwrap()).unwrap();
    assert!(Host::new().asks(&decoded).is_ok(), "it can be kept beside compiled code");
}

#[test]
fn unsigned() {
    let bare = Carried::read(&Signing::new(b"code").code).unwrap();
    assert_eq!(Host::new().asks(&bare).unwrap_err().to_string(), "it is not signed");
    let token_only = Carried { token: Some("a.b.c".into()), ..bare };
    assert!(Host::new().asks(&token_only).unwrap_err().to_string().contains("a wascap token alone"));
}

#[test]
fn issuers() {
    assert!(why(|s| (s.claim.issuer, s.by) = (key('A', 'X'), key('A', 'X'))).contains("is not trusted here"));
    assert!(why(|s| (s.claim.issuer, s.by) = (key('U', 'B'), key('U', 'B'))).contains("a key of kind `user`"));
    assert!(why(|s| (s.claim.issuer, s.by) = (key('O', 'B'), key('O', 'B'))).contains("a key of kind `operator`"));
    let revoking = Host { revoked: BTreeSet::from([key('A', 'B')]), ..Host::new() };
    assert!(revoking.why(&Signing::new(b"code")).contains("was revoked"));
    // Not even a key that somebody trusts by mistake.
    let careless = Host { trusted: BTreeSet::from([key('U', 'B')]), ..Host::new() };
    let mut by_user = Signing::new(b"code");
    (by_user.claim.issuer, by_user.by) = (key('U', 'B'), key('U', 'B'));
    assert!(careless.why(&by_user).contains("a key of kind `user`"));
}

#[test]
fn signatures() {
    assert!(why(|s| s.by = key('A', 'X')).starts_with("wrong signature"));
    // A body that names somebody else than the line above it, signed by the one above.
    let signing = Signing::new(b"code");
    let mut component = signing.code.clone();
    let body = Claim { issuer: key('A', 'X'), ..signing.claim.clone() }.encode();
    append(&mut component, CLAIM_SECTION, &seal(&signing.by, &sign(&signing.by, &signed_bytes(Purpose::Claim, &body)), &body));
    let refused = Host::new().asks(&Carried::read(&component).unwrap()).unwrap_err();
    assert!(matches!(refused, Refused::Signature { .. }), "{refused}");
    // A signature over the same bytes for another purpose.
    let body = signing.claim.encode();
    let mut component = signing.code.clone();
    append(&mut component, CLAIM_SECTION, &seal(&signing.by, &sign(&signing.by, &signed_bytes(Purpose::Policy, &body)), &body));
    assert!(Host::new().asks(&Carried::read(&component).unwrap()).unwrap_err().to_string().starts_with("wrong signature"));
}

#[test]
fn other_code() {
    let found = why(|s| append(&mut s.code, "more", b"code"));
    assert!(found.starts_with("the code was changed after it was signed"), "{found}");
    // The claim of one component on another.
    let (mut signing, other) = (Signing::new(b"code"), Signing::new(b"other"));
    signing.code = other.code;
    assert!(Host::new().why(&signing).starts_with("the code was changed"));
}

#[test]
fn tokens_that_do_not_hold() {
    let with = |change: fn(&str) -> String| why(|s| s.token = Some(Box::new(change)));
    fn header(text: &str, header: &str) -> String {
        let rest = text.split_once('.').unwrap().1.rsplit_once('.').unwrap().0;
        let message = format!("{}.{rest}", crate::trust::base64::encode(header.as_bytes()));
        token::signed(&message, &sign(&key('A', 'B'), message.as_bytes()))
    }
    fn content(text: &str, change: impl Fn(&mut token::Said)) -> String {
        let mut said = token::unverified(text).unwrap();
        change(&mut said);
        let head = text.split_once('.').unwrap().0;
        let message = format!("{head}.{}", crate::trust::base64::encode(&serde_json::to_vec(&said).unwrap()));
        token::signed(&message, &sign(&key('A', 'B'), message.as_bytes()))
    }
    let check = |change: fn(&str) -> String, part: &str| {
        let found = with(change);
        assert!(found.starts_with("the wascap token beside the claim") && found.contains(part), "{found}");
    };
    check(|_| "a.b".into(), "three parts");
    check(|text| format!("{text}.x"), "three parts");
    check(|text| header(text, r#"{"typ":"jwt","alg":"none"}"#), "algorithm `none`");
    check(|text| header(text, r#"{"typ":"JWT","alg":"HS256"}"#), "algorithm `HS256`");
    check(|text| header(text, r#"{"typ":"JWS","alg":"Ed25519"}"#), "type `JWS`");
    check(|text| header(text, r#"{"typ":"jwt","alg":"Ed25519","kid":"x"}"#), "unknown field `kid`");
    check(|text| header(text, r#"{"typ":[[[[[]]]]],"alg":"Ed25519"}"#), "nested deeper");
    // The header of another token under this one's signature.
    check(|text| text.replacen(text.split('.').next().unwrap(), "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5IiB9", 1), "not signed");
    // Two signatures, of which one is bad: nothing counts.
    check(|text| format!("{}.{}", text.rsplit_once('.').unwrap().0, crate::trust::base64::encode(&[7; 64])), "not signed");
    check(|text| format!("{}.", text.rsplit_once('.').unwrap().0), "not signed");
    check(|text| format!("{}.!", text.rsplit_once('.').unwrap().0), "no base 64");
    check(|text| content(text, |said| said.iss = key('A', 'X').to_string()), "another issuer");
    check(|text| content(text, |said| said.sub = key('M', 'X').to_string()), "another subject");
    check(|text| content(text, |said| said.exp = None), "another time");
    check(|text| content(text, |said| said.nbf = Some(1)), "another time");
    check(|text| content(text, |said| said.wascap = None), "nothing about");
    check(|text| content(text, |said| said.wascap.as_mut().unwrap().hash = "00".into()), "other code");
    check(|text| content(text, |said| said.wascap.as_mut().unwrap().caps.clear()), "other capabilities");
    check(|text| content(text, |said| said.wascap.as_mut().unwrap().rev = Some(9)), "another name or version");
    assert_eq!(with(|text| content(text, |_| {})), "accepted");
}

#[test]
fn texts_that_are_too_large() {
    let large = vec![b' '; MAX_CLAIM_BYTES + 1];
    assert!(Claim::decode(&large).unwrap_err().contains("at most 16384"));
    let token = format!("a.{}.c", crate::trust::base64::encode(&large));
    assert!(token::unverified(&token).unwrap_err().contains("at most 16384"));
}

#[test]
fn no_issuer_fills_a_disk_with_names() {
    let mut marks = Marks::default();
    let mut claim = Signing::new(b"code").claim;
    let raised = (0..5000).filter(|n| {
        claim.name = n.to_string();
        marks.raise(&claim)
    });
    assert_eq!(raised.count(), 4096);
    assert_eq!(marks.all().count(), 4096);
}

#[test]
fn a_claim_that_is_good_does_not_save_a_token_by_another_key() {
    let mut signing = Signing::new(b"code");
    signing.token = Some(Box::new(|text| {
        let (message, _) = text.rsplit_once('.').unwrap();
        token::signed(message, &sign(&key('A', 'X'), message.as_bytes()))
    }));
    assert!(Host::new().why(&signing).contains("is not signed by the claim's issuer"));
}

#[test]
fn lattices() {
    let lattice = |name: &str| Some(LatticeName::new(name).unwrap());
    assert_eq!(why(|s| s.claim.lattice = lattice("default")), "accepted");
    assert!(why(|s| s.claim.lattice = lattice("other")).contains("signed for lattice `other`, not for `default`"));
}

#[test]
fn validity() {
    assert!(why(|s| s.claim.expires = NOW).starts_with("expired "));
    assert_eq!(why(|s| s.claim.expires = NOW + 1), "accepted");
    assert!(why(|s| s.claim.not_before = NOW + 1).starts_with("not valid before "));
    assert_eq!(why(|s| s.claim.not_before = NOW), "accepted");
}

#[test]
fn clocks_that_are_wrong_by_years() {
    let at = |wall_s, server_s| Host {
        time: Time::of(&Reading { wall_s, built_s: NOW - 30 * DAY, floor_s: NOW - DAY / 2, server_s }),
        ..Host::new()
    };
    let (behind, ahead) = (NOW - 3650 * DAY, NOW + 3650 * DAY);
    let good = Signing::new(b"code");
    let mut ended = Signing::new(b"code");
    (ended.claim.not_before, ended.claim.expires) = (NOW - 3 * DAY, NOW - DAY);
    let mut later = Signing::new(b"code");
    later.claim.not_before = NOW - DAY / 4;
    let check = |host: &Host, signing: &Signing, part: &str| {
        let found = host.why(signing);
        assert!(found.contains(part), "{found} ~ {part}");
    };
    check(&at(behind, None), &good, "accepted");
    check(&at(behind, None), &ended, "this host's clock is wrong");
    // What begins between the floor and now cannot be told from the future.
    check(&at(behind, None), &later, "not valid before");
    check(&at(behind, Some(NOW)), &later, "accepted");
    check(&at(ahead, Some(NOW)), &good, "accepted");
    check(&at(ahead, None), &good, "expired ");
    let hint = at(behind, None).asks(&ended.carried()).unwrap_err().problem("a.wasm", None, &BTreeSet::new()).hint.unwrap();
    assert!(hint.starts_with("set the host's clock"), "{hint}");
}

#[test]
fn nothing_older_than_what_was_seen() {
    let mut host = Host::new();
    host.starts(&Signing::version("1.2.0", 3, b"new")).unwrap();
    let check = |host: &Host, version: &str, revision: u32, code: &[u8], part: &str| {
        let found = host.why(&Signing::version(version, revision, code));
        assert!(found.contains(part), "{version} {revision}: {found}");
    };
    check(&host, "1.2.0", 3, b"new", "accepted");
    check(&host, "1.2.0", 2, b"old", "edge-processor 1.2.0 rev 2 is older than 1.2.0 rev 3, which was seen here");
    check(&host, "1.1.9", 9, b"new", "is older than");
    check(&host, "1.2.0", 3, b"other", "was seen with other code");
    check(&host, "1.2.0", 4, b"other", "accepted");
    check(&host, "2.0.0", 0, b"other", "accepted");
    // Signed again with another validity: the same code under the same version.
    let mut again = Signing::version("1.2.0", 3, b"new");
    again.claim.expires += DAY;
    assert_eq!(host.why(&again), "accepted");
    // Other names and other issuers have versions of their own.
    let mut other = Signing::version("0.1.0", 0, b"old");
    other.claim.name = "another".into();
    assert_eq!(host.why(&other), "accepted");
    // What was refused has left no trace.
    let seen: Vec<String> = host.marks.all().map(|(_, name, mark)| format!("{name} {mark}")).collect();
    assert_eq!(seen, ["edge-processor 1.2.0 rev 3"]);
    let marks: Marks = serde_json::from_slice(&serde_json::to_vec(&host.marks).unwrap()).unwrap();
    assert_eq!(marks, host.marks);
}

#[test]
fn marks_rise_with_what_holds_only() {
    let mut host = Host::new();
    let first = host.starts(&Signing::version("1.0.0", 0, b"a")).unwrap();
    assert!(!first.remember(&mut host.marks), "it is remembered already");
    for (change, part) in [
        ((|s: &mut Signing| s.by = key('A', 'X')) as fn(&mut Signing), "wrong signature"),
        (|s| s.claim.expires = NOW, "expired"),
        (|s| append(&mut s.code, "x", b""), "changed"),
        (|s| s.claim.lattice = Some(LatticeName::new("other").unwrap()), "lattice"),
    ] {
        let mut signing = Signing::version("9.0.0", 0, b"b");
        change(&mut signing);
        assert!(host.starts(&signing).unwrap_err().to_string().contains(part));
    }
    host.starts(&Signing::version("1.0.1", 0, b"c")).unwrap();
}

#[test]
fn a_policy_admin_lets_older_code_in() {
    let mut host = Host::new();
    host.starts(&Signing::version("2.0.0", 0, b"new")).unwrap();
    let old = Signing::version("1.0.0", 0, b"old");
    host.permits.insert(Permit { name: "edge-processor".into(), digest: old.claim.digest.clone() });
    let verified = host.starts(&old).unwrap();
    assert_eq!(verified.forced_below().unwrap().to_string(), "2.0.0 rev 0");
    assert_eq!(host.marks.of(&key('A', 'B'), "edge-processor").unwrap().to_string(), "2.0.0 rev 0", "the mark stays");
    assert!(host.why(&Signing::version("1.0.0", 0, b"third")).contains("is older"));
    let mut renamed = Signing::version("1.0.0", 0, b"old");
    renamed.claim.name = "another".into();
    host.starts(&{
        let mut newer = Signing::version("2.0.0", 0, b"x");
        newer.claim.name = "another".into();
        newer
    })
    .unwrap();
    assert!(host.why(&renamed).contains("is older"), "for one name only");
}

#[test]
fn claims_that_make_no_sense() {
    let check = |change: fn(&mut Claim), part: &str| {
        let found = why(|s| change(&mut s.claim));
        assert!(found.starts_with("the claim makes no sense: ") && found.contains(part), "{found}");
    };
    check(|c| c.name = String::new(), "its name");
    check(|c| c.name = "a\nb".into(), "its name");
    check(|c| c.name = "a".repeat(64), "its name");
    check(|c| c.expires = c.not_before, "ends before");
    check(|c| (c.not_before, c.expires) = (0, u64::MAX), "ten years");
    check(|c| c.subject = key('A', 'B'), "no module key");
    check(|c| c.allow = (0..65).map(|n| n.to_string()).collect(), "64 contracts");
    // Bodies that no claim of ours encodes to, signed all the same.
    let signing = Signing::new(b"code");
    let text = String::from_utf8(signing.claim.encode()).unwrap();
    let expires = format!(",\"expires\":{}", signing.claim.expires);
    for (body, part) in [
        (text.replace("{\"name\"", "{\"hosts\":[],\"name\""), "unknown field `hosts`"),
        (text.replace(&expires, ""), "missing field `expires`"),
        (text.replace(&expires, &format!("{expires}{expires}")), "duplicate field"),
        (text.replace("\"1.2.0\"", "\"99999999.0\""), "version"),
        (text.replace(":3,", ":1e309,"), "out of range"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        ("[".repeat(100), "nested deeper"),
    ] {
        let mut component = signing.code.clone();
        append(
            &mut component,
            CLAIM_SECTION,
            &seal(&signing.by, &sign(&signing.by, &signed_bytes(Purpose::Claim, body.as_bytes())), body.as_bytes()),
        );
        let found = Host::new().asks(&Carried::read(&component).unwrap()).unwrap_err().to_string();
        assert!(found.contains(part), "{found} ~ {part}");
    }
}

#[test]
fn every_cut_of_a_signed_file_is_refused() {
    let mut signing = Signing::new(b"code");
    signing.token = Some(Box::new(str::to_owned));
    let whole = signing.component();
    let end_of_claim = whole.len() - sections::strip(&whole).unwrap().len();
    assert!(end_of_claim > 0);
    let mut accepted = 0;
    for end in 0..whole.len() {
        let Ok(carried) = Carried::read(&whole[..end]) else { continue };
        accepted += u32::from(Host::new().asks(&carried).is_ok());
    }
    // Only the token is missing from the one that is left: the claim is whole, and hosts decide by it.
    assert_eq!(accepted, 1);
}

#[test]
fn problems_name_the_command() {
    let signing = Signing::version("1.2.0", 3, b"code");
    let problem =
        |refused: Refused, carried: Option<&Carried>| refused.problem("file:///a b/x.wasm", carried, &BTreeSet::from([key('A', 'B')]));
    let unsigned = problem(Refused::Unsigned { token_only: false }, None);
    assert_eq!((unsigned.code, unsigned.code.exit_code()), (ErrorCode::InvalidClaim, 6));
    assert_eq!(unsigned.message, "actor start failed: invalid claim: it is not signed");
    assert_eq!(
        unsigned.hint.unwrap(),
        "re-sign it: lattice-ctl claim sign '/a b/x.wasm' --name <name> --issuer keys/account.nk --subject keys/module.nk"
    );
    let carried = signing.carried();
    let expired = problem(Refused::Expired { expires: NOW, now: Time::exact(NOW + 5) }, Some(&carried));
    assert!(expired.message.starts_with("actor start failed: invalid claim: expired 2026-11-18 "), "{}", expired.message);
    let same_again = "--name edge-processor --issuer keys/account.nk --subject keys/module.nk \
                      --ver 1.2.0 --rev 3 --allow wasmcloud:keyvalue,wasmcloud:messaging";
    assert!(expired.hint.as_ref().unwrap().ends_with(same_again), "{:?}", expired.hint);
    let seen = Signing::version("2.0.0", 7, b"other").claim.mark();
    let other = problem(Refused::Equivocal { name: "edge-processor".into(), claimed: signing.claim.mark(), seen }, Some(&carried));
    assert!(other.hint.unwrap().contains("--ver 2.0.0 --rev 8"));
    let foreign = problem(Refused::Foreign { issuer: key('A', 'X') }, Some(&carried));
    assert!(foreign.hint.unwrap().starts_with("sign it with a key that is trusted here, like ABBBBBBBBB: "));
}

#[test]
fn links_that_the_claim_does_not_allow() {
    let mut claim = Signing::new(b"code").claim;
    claim.allow = BTreeSet::from(["wasi:keyvalue/store@0.2.0-draft".to_owned(), "acme:gpio".to_owned()]);
    assert!(claim.check_link("edge", Contract::KeyValue, "a.wasm").is_ok(), "either spelling");
    let denied = claim.check_link("edge", Contract::Messaging, "a.wasm").unwrap_err();
    assert_eq!(denied.code, ErrorCode::CapabilityDenied);
    assert!(denied.message.starts_with("capability denied: wasmcloud:messaging: the claim of edge does not allow it"), "{denied}");
    let hint = denied.hint.unwrap();
    assert!(hint.contains("--rev 4 --allow acme:gpio,wasi:keyvalue/store@0.2.0-draft,wasmcloud:messaging"), "{hint}");
    claim.allow.clear();
    for contract in Contract::ALL {
        assert!(!claim.allows(contract));
    }
}
