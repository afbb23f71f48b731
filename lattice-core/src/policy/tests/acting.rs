//! What the policies in force allow and stop.

use std::time::Duration;

use super::super::effects::{self, Change, Effect};
use super::super::force::{Denied, InForce, Preset};
use super::super::report::{Compliance, Enforced, Refusal, Wanted, compliance};
use super::super::rules::Point;
use super::*;
use crate::admission::ComponentShape;
use crate::contract::Contract;
use crate::id::{ActorId, Digest, LinkName, ProviderId};
use crate::link::{KindSettings, LinkSpec, StoreSettings};
use crate::trust::clock::Standing;
use crate::wire::assignment::{ComponentAssignment, InstancePolicy, Limits, LinkAssignment};

fn force(bundles: &[Bundle]) -> InForce {
    let mut host = Host::new();
    for bundle in bundles {
        host.takes(bundle);
    }
    InForce::new(&host.holding, Preset::Open, host.time)
}

fn policy(allowed: &[&str], denied: &[&str]) -> Bundle {
    with(1, |b| (b.policy.allowed_contracts, b.policy.denied_contracts) = (rules(allowed), rules(denied)))
}

fn named(name: &str, mut bundle: Bundle) -> Bundle {
    bundle.policy.policy_id = id(name);
    bundle
}

fn why(force: &InForce, point: Point) -> String {
    force.check(point).err().map_or_else(String::new, |denied| denied.problem(point).message)
}

#[test]
fn deny_wins_over_allow() {
    let found = force(&[policy(&["*"], &["wasi:keyvalue"])]);
    assert_eq!(why(&found, Point::KeyValueStore), "capability denied: wasmcloud:keyvalue: policy edge v1 denies it (rule `wasi:keyvalue`)");
    assert!(found.check(Point::MessagingHandler).is_ok());
    // In whichever policy, and however narrow the one that allows.
    let two = [named("a", policy(&["wasmcloud:keyvalue"], &[])), named("b", policy(&["*"], &["wasmcloud:key*"]))];
    assert!(why(&force(&two), Point::KeyValueBatch).contains("policy b v1 denies it"));
    let two = [named("z", policy(&["wasmcloud:keyvalue"], &[])), named("b", policy(&["*"], &["*"]))];
    for point in Point::ALL {
        assert!(force(&two).check(point).is_err());
    }
}

#[test]
fn what_no_policy_allows_is_denied() {
    let found = force(&[named("a", policy(&["wasmcloud:messaging"], &[])), named("b", policy(&["wasi:keyvalue/store"], &[]))]);
    assert!(found.check(Point::MessagingConsumer).is_ok() && found.check(Point::KeyValueStore).is_ok());
    assert!(why(&found, Point::KeyValueAtomics).ends_with("no policy allows it (in force: a v1, b v1)"));
    assert!(
        found.check(Point::HttpIncoming).unwrap_err().problem(Point::HttpIncoming).hint.unwrap().contains("add `wasmcloud:httpserver`")
    );
    let nothing = force(&[policy(&[], &[])]);
    assert!(Point::ALL.into_iter().all(|point| nothing.check(point).is_err()));
}

#[test]
fn the_articles_policy() {
    let seed = r#"{"policy_id":"edge-default","version":1,"allowed_contracts":["wasmcloud:keyvalue","wasmcloud:httpserver","wasmcloud:messaging"],
        "denied_contracts":[],"max_actor_memory_mb":64,"network_restrictions":["internal-only"]}"#;
    let read: SecurityPolicy = serde_json::from_str(seed).unwrap();
    assert_eq!(read, SecurityPolicy::edge_default().unwrap());
    let found = force(&[with(1, |b| b.policy = read)]);
    assert!(found.check(Point::KeyValueStore).is_ok() && found.check(Point::HttpOutgoing).is_err());
    assert_eq!((found.memory_mb(32), found.memory_mb(128)), (32, 64));
    assert!(found.may_connect("10.0.0.1".parse().unwrap()).is_ok());
    let outside = found.may_connect("8.8.8.8".parse().unwrap()).unwrap_err().problem(Point::HttpOutgoing);
    assert!(outside.message.ends_with("policy edge-default v1 restricts the network to internal addresses, and 8.8.8.8 is none"));
}

#[test]
fn the_strictest_limits_count() {
    let capped = |name: &str, cap: Option<u32>| named(name, with(1, |b| b.policy.max_actor_memory_mb = cap));
    let found = force(&[capped("a", Some(64)), capped("b", None), capped("c", Some(16))]);
    assert_eq!(found.memory_cap().map(|(cap, policy)| (cap, policy.to_string())), Some((16, "c v1".into())));
    assert_eq!(force(&[capped("b", None)]).memory_mb(999), 999);
    let two = [named("a", bundle(1)), named("b", with(1, |b| b.policy.network_restrictions = vec![INTERNAL_ONLY.into()]))];
    assert_eq!(force(&two).internal_only().map(ToString::to_string), Some("b v1".into()));
    assert!(force(&[bundle(1)]).may_connect("8.8.8.8".parse().unwrap()).is_ok());
}

#[test]
fn presets_and_losses() {
    let none = Holding::default();
    let open = InForce::new(&none, Preset::Open, Time::exact(NOW));
    assert!(open.may_start().is_ok() && Point::ALL.into_iter().all(|point| open.check(point).is_ok()));
    let deny = InForce::new(&none, Preset::Deny, Time::exact(NOW));
    assert_eq!(deny.may_start(), Err(&Denied::Preset));
    assert!(Point::ALL.into_iter().all(|point| deny.check(point) == Err(&Denied::Preset)));
    // A policy that is gone denies, whatever the preset and whatever else is held.
    let mut host = Host::new();
    host.takes(&bundle(3));
    host.takes(&named("other", bundle(1)));
    let after = host.restarted(|_, documents| {
        let Stored::Found(found) = documents else { panic!("no documents") };
        found.remove(&id("edge"));
    });
    let lost = InForce::new(&after.holding, Preset::Open, after.time);
    assert!(lost.may_start().is_err() && Point::ALL.into_iter().all(|point| lost.check(point).is_err()));
    assert!(why(&lost, Point::HttpIncoming).contains("version 3 of edge was in force here"));
    // One that is for others now leaves the preset.
    host.takes(&with(4, |b| b.scope = "region=us".parse().unwrap()));
    host.takes(&named("other", with(2, |b| b.scope = "region=us".parse().unwrap())));
    assert!(InForce::new(&host.holding, Preset::Open, host.time).check(Point::HttpOutgoing).is_ok());
    assert!(InForce::new(&host.holding, Preset::Deny, host.time).check(Point::HttpOutgoing).is_err());
}

#[test]
fn time_takes_away_and_gives_nothing() {
    let mut host = Host::new();
    host.takes(&policy(&["*"], &["wasmcloud:keyvalue"]));
    host.takes(&named("later", with(1, |b| b.expires = NOW + 2 * DAY)));
    let at = |now| InForce::new(&host.holding, Preset::Open, Time::exact(now));
    assert_eq!(at(NOW).next_expiry(), Some(NOW + DAY));
    assert!(at(NOW + DAY - 1).may_start().is_ok());
    let expired = at(NOW + DAY);
    assert!(expired.may_start().unwrap_err().to_string().starts_with("policy edge v1 expired"));
    assert!(expired.check(Point::MessagingHandler).is_ok(), "what runs goes on");
    assert!(expired.check(Point::KeyValueStore).is_err(), "and what is denied stays denied");
    assert_eq!((expired.next_expiry(), at(NOW + 9 * DAY).next_expiry()), (Some(NOW + 2 * DAY), None));
}

fn link(contract: Contract, values: &[(&str, &str)]) -> LinkAssignment {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let spec = LinkSpec {
        source: ActorId::new("a").unwrap(),
        target: ProviderId::new("p").unwrap(),
        contract,
        name: LinkName::new("default").unwrap(),
        values,
        permissions: BTreeSet::new(),
        env_mapping: BTreeMap::new(),
        config: Vec::new(),
    };
    let settings = spec.settings(&spec.merged_values([])).unwrap();
    LinkAssignment { name: spec.name, contract, provider: spec.target, settings }
}

fn actor(contracts: &[Contract]) -> ComponentAssignment {
    ComponentAssignment {
        image: "a.wasm".into(),
        digest: Digest::of(b""),
        instances: 1,
        policy: InstancePolicy::PerMessage,
        limits: Limits::default(),
        config: BTreeMap::new(),
        links: contracts.iter().map(|contract| link(*contract, &[])).collect(),
        ownership: None,
    }
}

fn shape(imports: &[&str], exports: &[&str]) -> ComponentShape {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    ComponentShape { imports: set(imports), exports: set(exports) }
}

const STORE: &str = "wasi:keyvalue/store@0.2.0-draft";
const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
const CONSUMER: &str = "wasmcloud:messaging/consumer@0.2.0";
const HTTP: &str = "wasi:http/incoming-handler@0.2.2";

#[test]
fn which_actors_cannot_work() {
    use Contract::{HttpClient, HttpServer, KeyValue, Messaging};
    let check =
        |denied: &[&str], contracts: &[Contract], shape: Option<ComponentShape>, stops_at: Option<Point>, still_denied: &[Point]| {
            let found = effects::effect(&force(&[policy(&["*"], denied)]), &actor(contracts), shape.as_ref());
            match (found, stops_at) {
                (Effect::Stops { point, .. }, Some(expected)) => assert_eq!(point, expected, "{denied:?}"),
                (Effect::Runs { denied: points, .. }, None) => {
                    assert_eq!(points, still_denied.iter().copied().collect(), "{denied:?}");
                }
                (found, expected) => panic!("{denied:?}: {found:?}, expected {expected:?}"),
            }
        };
    let edge = || Some(shape(&[STORE, CONSUMER], &[HANDLER]));
    let both = || Some(shape(&[], &[HANDLER, HTTP]));
    let edge_links = [KeyValue, Messaging];
    check(&[], &edge_links, edge(), None, &[]);
    check(&["wasmcloud:keyvalue"], &edge_links, edge(), Some(Point::KeyValueStore), &[]);
    check(&["wasi:keyvalue/atomics"], &edge_links, edge(), None, &[]);
    check(&["wasmcloud:messaging"], &edge_links, edge(), Some(Point::MessagingConsumer), &[]);
    check(&["wasmcloud:messaging/handler"], &edge_links, edge(), Some(Point::MessagingHandler), &[]);
    check(&["wasmcloud:httpclient"], &edge_links, edge(), None, &[]);
    // One way in is left.
    check(&["wasmcloud:httpserver"], &[Messaging, HttpServer], both(), None, &[Point::HttpIncoming]);
    check(&["wasmcloud:httpserver", "wasmcloud:messaging"], &[Messaging, HttpServer], both(), Some(Point::MessagingHandler), &[]);
    check(&["wasmcloud:httpserver"], &[HttpServer], both(), Some(Point::HttpIncoming), &[]);
    // Before the code is loaded: a contract counts as denied if all of it is.
    check(&["wasi:keyvalue/atomics"], &edge_links, None, None, &[Point::KeyValueAtomics]);
    check(&["wasi:keyvalue/*"], &edge_links, None, Some(Point::KeyValueStore), &[]);
    check(&["wasmcloud:httpclient"], &[HttpClient, Messaging], None, Some(Point::HttpOutgoing), &[]);
    check(&["wasmcloud:httpserver"], &[HttpServer, Messaging], None, None, &[Point::HttpIncoming]);
    // Without links nothing is used, so nothing is denied.
    check(&["*"], &[], edge(), None, &[]);
}

#[test]
fn lattices_own_actors_are_beyond_policy() {
    let mut system = actor(&[Contract::KeyValue]);
    let found = force(&[policy(&[], &["*"])]);
    assert!(matches!(effects::effect(&found, &system, None), Effect::Stops { .. }));
    let mut messaging = link(Contract::Messaging, &[]);
    let KindSettings::Messaging(settings) = &mut messaging.settings.kind else { panic!("no messaging") };
    settings.system = true;
    system.links.push(messaging);
    let runs = Effect::Runs { denied: BTreeSet::new(), memory_mb: 64 };
    assert_eq!(effects::effect(&found, &system, None), runs);
    assert!(effects::may_start(&InForce::new(&Holding::default(), Preset::Deny, Time::exact(NOW)), &system, None).is_ok());
}

#[test]
fn starting_is_asked_more_than_running() {
    let mut host = Host::new();
    host.takes(&bundle(1));
    let later = InForce::new(&host.holding, Preset::Open, Time::exact(NOW + DAY));
    let edge = actor(&[Contract::Messaging]);
    assert!(matches!(effects::effect(&later, &edge, None), Effect::Runs { .. }));
    assert!(matches!(effects::may_start(&later, &edge, None), Err((None, Denied::Expired { .. }))));
    let contracts = BTreeSet::from([Contract::Messaging, Contract::KeyValue]);
    assert!(effects::admits(&force(&[bundle(1)]), &contracts).is_ok());
    assert_eq!(InForce::of_bundles([&bundle(1)], Preset::Open, host.time), force(&[bundle(1)]), "the plan sees what a host will");
    let (point, why) = effects::admits(&force(&[policy(&["wasmcloud:messaging"], &[])]), &contracts).unwrap_err();
    assert_eq!(point, Some(Point::KeyValueStore));
    assert!(why.start_problem().message.starts_with("actor start failed: no policy allows it"));
    assert!(effects::admits(&later, &contracts).is_err());
}

#[test]
fn events_tell_what_changed() {
    let name = |text: &str| ActorId::new(text).unwrap();
    let actors = [
        (name("edge"), actor(&[Contract::Messaging, Contract::KeyValue]), shape(&[STORE], &[HANDLER])),
        (name("web"), actor(&[Contract::HttpServer, Contract::Messaging]), shape(&[], &[HANDLER, HTTP])),
    ];
    let under = |bundle: Bundle| -> BTreeMap<ActorId, Effect> {
        let force = force(&[bundle]);
        actors.iter().map(|(id, spec, shape)| (id.clone(), effects::effect(&force, spec, Some(shape)))).collect()
    };
    let changes = |from: Bundle, to: Bundle| effects::changes(&under(from), &under(to));

    let found = changes(bundle(1), policy(&["*"], &["wasmcloud:keyvalue", "wasmcloud:httpserver"]));
    let [(edge, Change::Stopped { point: Point::KeyValueStore, why }), (web, Change::Denied(points))] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((edge.as_str(), web.as_str(), points), ("edge", "web", &BTreeSet::from([Point::HttpIncoming])));
    assert_eq!(why.to_string(), "policy edge v1 denies it (rule `wasmcloud:keyvalue`)");
    let back = changes(policy(&["*"], &["wasmcloud:keyvalue", "wasmcloud:httpserver"]), bundle(1));
    assert_eq!(back, [(name("edge"), Change::Resumed), (name("web"), Change::Allowed(BTreeSet::from([Point::HttpIncoming])))]);
    let capped = changes(bundle(1), with(1, |b| b.policy.max_actor_memory_mb = Some(8)));
    assert_eq!(capped, [(name("edge"), Change::Memory { from: 64, to: 8 }), (name("web"), Change::Memory { from: 64, to: 8 })]);
    assert_eq!(changes(bundle(1), bundle(1)), []);
    // An actor that is not known before is only worth a word if it is stopped.
    assert_eq!(effects::changes(&BTreeMap::new(), &under(bundle(1))), []);
    assert_eq!(effects::changes(&BTreeMap::new(), &under(policy(&["*"], &["*"]))).len(), 2);
}

#[test]
fn who_complies() {
    let mut host = Host::new();
    let said = |host: &Host, refused: &[(&str, &str)]| {
        let force = InForce::new(&host.holding, Preset::Deny, host.time);
        let refused = refused.iter().map(|(document, why)| (id("edge"), Refusal::new(document.as_bytes(), why))).collect();
        let report = Enforced::new(&host.holding, &force, Preset::Deny, Standing::Trusted, &refused);
        serde_json::from_slice::<Enforced>(&serde_json::to_vec(&report).unwrap()).unwrap()
    };
    let wanted = |version: u64, scope: &str| {
        let document = Digest::of(version.to_string().as_bytes());
        Wanted { policy: id("edge"), version, scope: scope.parse().unwrap(), document }
    };
    let stands = |host: &Host, wanted: &Wanted, refused: &[(&str, &str)]| compliance(wanted, &host.facts(), Some(&said(host, refused)));
    assert_eq!(stands(&host, &wanted(1, "all"), &[]), Compliance::Behind { has: None });
    assert_eq!(stands(&host, &wanted(1, "region=us"), &[]), Compliance::Complies);
    assert!(said(&host, &[]).no_starts.unwrap().contains("no policy has reached this host"));
    host.takes(&bundle(2));
    assert_eq!(stands(&host, &wanted(2, "all"), &[]), Compliance::Complies);
    assert_eq!(stands(&host, &wanted(3, "all"), &[]), Compliance::Behind { has: Some(2) });
    assert_eq!(stands(&host, &wanted(3, "region=us"), &[]), Compliance::Behind { has: Some(2) });
    assert_eq!(stands(&host, &wanted(3, "all"), &[("3", "expired")]), Compliance::Refuses { has: Some(2), why: "expired".into() });
    assert_eq!(stands(&host, &wanted(3, "all"), &[("before 3", "expired")]), Compliance::Behind { has: Some(2) }, "another one");
    assert_eq!(stands(&host, &wanted(2, "all"), &[("2", "its key was revoked")]), Compliance::Complies);
    let misplaced = Wanted { policy: id("other"), ..wanted(3, "all") };
    assert_eq!(stands(&host, &misplaced, &[("3", "no")]), Compliance::Refuses { has: None, why: "no".into() }, "wherever it stands");
    host.takes(&with(3, |b| b.scope = "region=us".parse().unwrap()));
    assert_eq!(stands(&host, &wanted(3, "region=us"), &[]), Compliance::Complies);
    assert_eq!(compliance(&wanted(3, "all"), &host.facts(), None), Compliance::Silent);
    assert_eq!(said(&host, &[("3", &"é".repeat(1000))]).refused[&id("edge")].why, "é".repeat(300));
}

#[test]
fn the_control_plane_s_buckets_are_for_system_actors_alone() {
    assert!(effects::is_system_link(&KindSettings::Store(StoreSettings::default())));
}

#[test]
fn rules_that_fit_nothing_are_named() {
    let found = policy(&["wasmcloud:*", "wasmcloud:keyvalu"], &["acme:gpio"]);
    assert_eq!(found.idle_rules().map(Rule::as_str).collect::<Vec<_>>(), ["wasmcloud:keyvalu", "acme:gpio"]);
}

/// A look, not a check: `cargo test -p lattice-core ten_thousand_rules -- --nocapture` prints what rules cost.
#[test]
fn ten_thousand_rules() {
    const CALLS: u32 = 1_000_000;
    let cost = |count: usize| {
        let mut rules: Vec<Rule> = (0..count).map(|number| Rule::new(format!("acme:*x*{number}")).unwrap()).collect();
        let last = rules.len().saturating_sub(1);
        rules[last] = Rule::new("wasi:http/*").unwrap();
        let mut host = Host::new();
        host.takes(&with(1, |b| b.policy.denied_contracts = rules));
        let (made, found) = timed(|| InForce::new(&host.holding, Preset::Deny, host.time));
        assert!(found.check(Point::HttpOutgoing).is_err() && found.check(Point::KeyValueStore).is_ok());
        let (asked, _) = timed(|| {
            for number in 0..CALLS {
                let point = if number % 2 == 0 { Point::KeyValueStore } else { Point::MessagingConsumer };
                assert!(std::hint::black_box(&found).check(std::hint::black_box(point)).is_ok());
            }
        });
        println!("{count} rules: made in {made:?}, {} ps a call", asked.as_nanos() * 1000 / u128::from(CALLS));
    };
    cost(1);
    // One more allows everything else.
    cost(MAX_RULES - 1);
}

#[expect(clippy::disallowed_methods, reason = "measures, decides nothing")]
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = std::time::Instant::now();
    let result = work();
    (start.elapsed(), result)
}
