//! What claims and policies do to the actors of a host.

use super::*;
use crate::claims::{Claim, Permit};
use crate::link::LinkSpec;
use crate::policy::Bundle;
use crate::policy::rules::Rule;
use crate::policy::tests::{NOW as NOW_S, with};
use crate::trust::PublicKey;
use crate::trust::testing::key;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::new(*text).unwrap()).collect()
}

/// In force under one policy that allows everything but for `change`.
fn force(change: impl FnOnce(&mut Bundle)) -> Arc<InForce> {
    Arc::new(InForce::of_bundles([&with(1, change)], Preset::Open, Time::exact(NOW_S)))
}

fn denying(contracts: &[&str]) -> Arc<InForce> {
    force(|bundle| bundle.policy.denied_contracts = rules(contracts))
}

fn open() -> Arc<InForce> {
    force(|_| {})
}

fn expired() -> Arc<InForce> {
    force(|bundle| bundle.expires = NOW_S - 1)
}

fn messaging_link(change: impl FnOnce(&mut crate::link::MessagingSettings)) -> LinkAssignment {
    let (name, provider) = (LinkName::new("default").unwrap(), kv());
    let link = LinkSpec {
        source: id("a"),
        target: provider.clone(),
        contract: Contract::Messaging,
        name: name.clone(),
        values: BTreeMap::new(),
        permissions: Default::default(),
        env_mapping: BTreeMap::new(),
        config: Vec::new(),
    };
    let mut settings = link.settings(&BTreeMap::new()).unwrap();
    if let KindSettings::Messaging(kind) = &mut settings.kind {
        change(kind);
    }
    LinkAssignment { name, contract: Contract::Messaging, provider, settings }
}

fn claimed(issuer: PublicKey, allow: &[&str], code: LoadedCode) -> LoadedCode {
    let claim = Claim {
        name: "a".to_owned(),
        version: "1.0.0".parse().unwrap(),
        revision: 0,
        digest: Digest::of(b"a"),
        allow: allow.iter().map(|contract| (*contract).to_owned()).collect(),
        issued_at: 1,
        not_before: 1,
        expires: 2,
        issuer,
        subject: key('M', 'A'),
        lattice: None,
    };
    LoadedCode { claim: Some(Arc::new(claim)), ..code }
}

/// A host that runs `a`, and what it was told of it.
fn running(links: Vec<LinkAssignment>, loaded: LoadedCode) -> (Agent, ComponentAssignment) {
    let mut agent = agent();
    let spec = component(b"a", links);
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &spec.digest, Ok(loaded), NOW);
    assert_eq!(actions(&mut agent).last(), Some(&Action::Run(id("a"), Box::new(spec.clone()))));
    (agent, spec)
}

/// What is said: the kinds and sentences of events, and what the audit gets.
fn words(agent: &mut Agent) -> (Vec<(EventKind, String)>, Vec<String>) {
    let (mut events, mut audit) = (Vec::new(), Vec::new());
    while let Some(action) = agent.poll_action() {
        if let Action::Record(kind, message, _) = action {
            events.push((kind, message));
        } else if let Action::Audit(actor, what) = action {
            audit.push(format!("{actor}: {what}"));
        }
    }
    (events, audit)
}

#[test]
fn what_a_policy_denies_stops_and_comes_back_at_once() {
    let (mut agent, spec) = running(vec![kv_link("edge-data")], code(&[STORE]));
    agent.handle_force(denying(&["wasi:keyvalue"]));
    assert_eq!(actions(&mut agent), [Action::Stop(id("a"))]);
    assert!(state(&agent, "a").starts_with("failed: capability denied: wasmcloud:keyvalue: policy edge v1 denies it"));
    assert!(agent.is_forbidden(&id("a")));
    agent.handle_force(denying(&["wasi:keyvalue"]));
    assert_eq!(agent.poll_action(), None, "once");
    agent.handle_force(open());
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(spec))], "without loading again");
    assert!(!agent.is_forbidden(&id("a")));
}

#[test]
fn what_a_policy_denies_is_never_told_to_run() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_force(denying(&["wasi:keyvalue"]));
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    assert!(agent.is_forbidden(&id("a")), "its links tell it before its code is there");
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &spec.digest, Ok(code(&[STORE])), NOW);
    let orders = actions(&mut agent);
    assert!(matches!(orders.as_slice(), [Action::StartProvider(..), Action::Load(..)]), "{orders:?}");
    assert_eq!(agent.applied(), Generation(1), "that is all that can be done");
}

#[test]
fn what_only_the_code_can_tell_is_denied_when_it_is_there() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_force(denying(&["wasi:keyvalue/store"]));
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    agent.handle_provider(&kv(), Ok(()), NOW);
    assert_eq!(state(&agent, "a"), "starting", "it may use another interface of the contract");
    words(&mut agent);
    agent.handle_loaded(&id("a"), &spec.digest, Ok(code(&[STORE])), NOW);
    assert!(agent.is_forbidden(&id("a")));
    let (events, audit) = words(&mut agent);
    assert!(events.iter().all(|(kind, _)| *kind != EventKind::ActorRunning), "it is not said to run: {events:?}");
    assert!(audit[0].starts_with("a: not allowed to run: failed: capability denied: wasmcloud:keyvalue"), "{audit:?}");
}

#[test]
fn what_runs_goes_on_under_an_expired_policy_and_nothing_starts() {
    let (mut agent, spec) = running(vec![kv_link("edge-data")], code(&[STORE]));
    agent.handle_force(expired());
    assert_eq!((actions(&mut agent), state(&agent, "a")), (vec![], "running".to_owned()));
    let fewer = ComponentAssignment { instances: 1, ..spec.clone() };
    let other = component(b"b", vec![]);
    agent.handle_assignment(assignment(2, &["kv"], &[("a", fewer.clone()), ("b", other.clone())]), false).unwrap();
    agent.handle_loaded(&id("b"), &other.digest, Ok(code(&[])), NOW);
    assert_eq!(actions(&mut agent), [Action::Load(id("b"), other.digest), Action::Run(id("a"), Box::new(fewer))]);
    assert!(state(&agent, "b").starts_with("failed: actor start failed: policy edge v1 expired"), "{}", state(&agent, "b"));
    // What fails then is said by its own name.
    agent.handle_run_failed(&id("a"), "pool is full".into());
    assert_eq!((state(&agent, "a").as_str(), agent.is_forbidden(&id("a"))), ("failed: pool is full", true));
    agent.handle_force(open());
    agent.handle_assignment(assignment(3, &["kv"], &[("a", spec)]), false).unwrap();
    agent.handle_force(expired());
    actions(&mut agent);
    // Other code of it is something that starts; until it is there the one that runs goes on.
    let newer = component(b"c", vec![kv_link("edge-data")]);
    agent.handle_assignment(assignment(4, &["kv"], &[("a", newer.clone())]), false).unwrap();
    assert_eq!(state(&agent, "a"), "running");
    agent.handle_loaded(&id("a"), &newer.digest, Ok(code(&[STORE])), NOW);
    assert!(agent.is_forbidden(&id("a")));
}

#[test]
fn while_other_code_is_loaded_the_one_that_runs_is_judged() {
    let (mut agent, _) = running(vec![kv_link("edge-data")], code(&[STORE]));
    let newer = component(b"b", vec![]);
    agent.handle_assignment(assignment(2, &["kv"], &[("a", newer.clone())]), false).unwrap();
    agent.handle_force(denying(&["wasi:keyvalue/store"]));
    assert_eq!(actions(&mut agent), [Action::Load(id("a"), newer.digest.clone()), Action::Stop(id("a"))]);
    agent.handle_loaded(&id("a"), &newer.digest, Ok(code(&[])), NOW);
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(newer))], "which needs none of it");
}

#[test]
fn a_revoked_key_stops_what_it_signed() {
    let (mut agent, spec) = running(vec![], claimed(key('A', 'C'), &[], code(&[])));
    let revoking = |name| force(move |bundle| bundle.revoked_keys = BTreeSet::from([key('A', name)]));
    agent.handle_force(revoking('D'));
    assert_eq!(actions(&mut agent), []);
    agent.handle_force(revoking('C'));
    assert_eq!(actions(&mut agent), [Action::Stop(id("a"))]);
    let why = format!("failed: actor start failed: invalid claim: the key of its issuer {} was revoked", key('A', 'C'));
    assert!(state(&agent, "a").starts_with(&why), "{}", state(&agent, "a"));
    agent.handle_force(open());
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(spec))]);
}

#[test]
fn refused_code_is_tried_again_when_trust_changes() {
    let mut agent = agent();
    let spec = component(b"a", vec![]);
    agent.handle_assignment(assignment(1, &[], &[("a", spec.clone())]), false).unwrap();
    let refused = |may_help| Err((Obstacle::Forbidden("older".into()), may_help));
    let again = [Action::Load(id("a"), spec.digest.clone())];
    let changes: [fn(&mut Bundle); 2] = [
        |bundle| bundle.allow_older = [Permit { name: "a".to_owned(), digest: Digest::of(b"a") }].into(),
        |bundle| bundle.revoked_keys = [key('A', 'D')].into(),
    ];
    for change in changes {
        agent.handle_loaded(&id("a"), &spec.digest, refused(true), NOW);
        agent.handle_force(denying(&[]));
        actions(&mut agent);
        agent.handle_loaded(&id("a"), &spec.digest, refused(true), NOW);
        agent.handle_force(denying(&["wasmcloud:httpserver"]));
        assert_eq!(actions(&mut agent), [], "that tells nothing about code");
        agent.handle_force(force(change));
        assert_eq!(actions(&mut agent), again);
    }
    agent.handle_loaded(&id("a"), &spec.digest, refused(false), NOW);
    agent.handle_force(open());
    assert_eq!(actions(&mut agent), [], "nothing helps");
}

#[test]
fn a_refusal_is_said_once() {
    let mut agent = agent();
    let spec = component(b"a", vec![]);
    agent.handle_assignment(assignment(1, &[], &[("a", spec.clone())]), false).unwrap();
    let mut refuse = |why: &str| {
        agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Forbidden(why.into()), true)), NOW);
        let (events, audit) = words(&mut agent);
        let refusals: Vec<String> = events.into_iter().filter(|(kind, _)| *kind == EventKind::ClaimRefused).map(|(_, what)| what).collect();
        agent.handle_timeout(agent.poll_timeout().unwrap());
        (refusals, audit)
    };
    assert_eq!(refuse("expired"), (vec!["a: expired".to_owned()], vec!["a: not allowed to run: failed: expired".to_owned()]));
    assert_eq!(refuse("expired"), (vec![], vec![]));
    assert_eq!(refuse("older"), (vec!["a: older".to_owned()], vec!["a: not allowed to run: failed: older".to_owned()]));
    // Nor again because something else was wrong in between.
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Failed("no such artifact".into()), true)), NOW);
    agent.handle_force(denying(&["wasmcloud:messaging"]));
    assert_eq!(words(&mut agent).1, Vec::<String>::new(), "that says nothing of what is allowed");
    agent.handle_timeout(agent.poll_timeout().unwrap());
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Forbidden("older".into()), true)), NOW);
    assert!(words(&mut agent).0.iter().all(|(kind, _)| *kind != EventKind::ClaimRefused));
    // Of other code it is said anew.
    let other = component(b"b", vec![]);
    agent.handle_assignment(assignment(2, &[], &[("a", other.clone())]), false).unwrap();
    assert_eq!(words(&mut agent).1, Vec::<String>::new(), "nothing is allowed yet");
    agent.handle_loaded(&id("a"), &other.digest, Err((Obstacle::Forbidden("older".into()), true)), NOW);
    assert!(words(&mut agent).0.iter().any(|(kind, _)| *kind == EventKind::ClaimRefused));
}

#[test]
fn what_is_refused_and_denied_keeps_its_word_while_it_is_tried_again() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_force(denying(&["wasi:keyvalue"]));
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Forbidden("older".into()), true)), NOW);
    words(&mut agent);
    agent.handle_timeout(agent.poll_timeout().unwrap());
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Forbidden("older".into()), true)), NOW);
    let (events, audit) = words(&mut agent);
    assert_eq!((events.iter().filter(|(kind, _)| *kind == EventKind::ActorFailed).count(), audit), (0, vec![]));
}

#[test]
fn links_that_a_claim_does_not_allow_keep_an_actor_from_running() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &spec.digest, Ok(claimed(key('A', 'C'), &["wasmcloud:messaging"], code(&[STORE]))), NOW);
    assert!(state(&agent, "a").starts_with("failed: capability denied: wasmcloud:keyvalue: the claim of a does not allow it"));
    assert!(agent.is_forbidden(&id("a")) && !actions(&mut agent).contains(&Action::Run(id("a"), Box::new(spec.clone()))));
    let bare = component(b"a", vec![]);
    agent.handle_assignment(assignment(2, &["kv"], &[("a", bare)]), false).unwrap();
    assert_eq!(state(&agent, "a"), "waiting: no link for wasi:keyvalue/store");
}

#[test]
fn who_is_beyond_policy_needs_a_claim_that_says_so() {
    let check = |system: bool, allow: &[&str]| {
        let mut agent = agent();
        let spec = component(b"a", vec![messaging_link(|link| link.system = system)]);
        agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
        agent.handle_provider(&kv(), Ok(()), NOW);
        agent.handle_loaded(&id("a"), &spec.digest, Ok(claimed(key('A', 'C'), allow, code(&[]))), NOW);
        state(&agent, "a")
    };
    assert_eq!(check(false, &["wasmcloud:messaging"]), "running");
    let denied = check(true, &["wasmcloud:messaging"]);
    assert!(denied.starts_with("failed: capability denied: lattice:store: the claim of a does not allow it"), "{denied}");
    assert_eq!(check(true, &["wasmcloud:messaging", "lattice:store"]), "running");
}

#[test]
fn another_network_makes_links_to_other_servers_anew() {
    let internal = || force(|bundle| bundle.policy.network_restrictions = vec!["internal-only".to_owned()]);
    let (mut agent, spec) = running(vec![messaging_link(|link| link.cluster_uri = Some("nats://away:4222".into()))], code(&[]));
    agent.handle_force(internal());
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(spec.clone()))]);
    agent.handle_run_failed(&id("a"), "not internal".into());
    actions(&mut agent);
    agent.handle_force(open());
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(spec))], "what could not be made is tried again");
    agent.handle_force(denying(&["wasmcloud:httpserver"]));
    assert_eq!(actions(&mut agent), [], "only when that has changed");
    let (mut agent, _) = running(vec![messaging_link(|_| {})], code(&[]));
    agent.handle_force(internal());
    assert_eq!(actions(&mut agent), [], "the lattice's own server stays");
    // What is about to be replaced as well.
    let (mut agent, old) = running(vec![messaging_link(|link| link.cluster_uri = Some("nats://away:4222".into()))], code(&[]));
    let newer = ComponentAssignment { digest: Digest::of(b"b"), ..old.clone() };
    agent.handle_assignment(assignment(2, &["kv"], &[("a", newer.clone())]), false).unwrap();
    agent.handle_force(internal());
    assert_eq!(actions(&mut agent), [Action::Load(id("a"), newer.digest), Action::Run(id("a"), Box::new(old))]);
}

#[test]
fn what_changes_for_an_actor_is_said() {
    const CONSUMER: &str = "wasmcloud:messaging/consumer@0.2.0";
    let (mut agent, _) = running(vec![kv_link("edge-data"), messaging_link(|_| {})], code(&[STORE, CONSUMER]));
    words(&mut agent);
    let mut change = |force: Arc<InForce>| {
        agent.handle_force(force);
        let (events, audit) = words(&mut agent);
        let (kind, said) = events.into_iter().next().unwrap();
        assert_eq!(audit.first(), Some(&format!("a: {said}")));
        (kind, said)
    };
    let stopped = "actor a stopped: capability denied: wasmcloud:keyvalue: policy edge v1 denies it (rule `wasi:keyvalue`)";
    assert_eq!(change(denying(&["wasi:keyvalue"])), (EventKind::PolicyStopped, stopped.to_owned()));
    assert_eq!(change(open()), (EventKind::PolicyResumed, "actor a may run again".to_owned()));
    let capped = |mb| force(move |bundle| bundle.policy.max_actor_memory_mb = Some(mb));
    let given = Limits::default().memory_mb;
    let told = |to, from| format!("actor a may hold {to} MiB from the next growth on, {from} MiB before");
    assert_eq!(change(capped(1)), (EventKind::PolicyStopped, told(1, given)));
    assert_eq!(change(open()), (EventKind::PolicyResumed, told(given, 1)));
}

#[test]
fn what_is_enforced_is_acknowledged_at_once_and_once() {
    let mut agent = agent();
    agent.handle_enforced(enforced(&denying(&[])));
    assert_eq!((agent.poll_action(), agent.poll_action()), (Some(Action::Report), None));
    assert_eq!(agent.enforced().policies.values().collect::<Vec<_>>(), [&1]);
    agent.handle_enforced(enforced(&denying(&[])));
    assert_eq!(agent.poll_action(), None);
}

#[test]
fn what_a_claim_forbids_is_told_from_what_fails() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Forbidden("expired".into()), true)), NOW);
    assert_eq!((state(&agent, "a").as_str(), agent.is_forbidden(&id("a"))), ("failed: expired", true));
    agent.handle_timeout(agent.poll_timeout().unwrap());
    agent.settle();
    assert!(agent.is_forbidden(&id("a")), "also while it is tried again");
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Failed("no such artifact".into()), true)), NOW);
    assert_eq!((state(&agent, "a").as_str(), agent.is_forbidden(&id("a"))), ("failed: no such artifact", false));
    agent.handle_force(denying(&["wasi:keyvalue"]));
    assert_eq!((state(&agent, "a").as_str(), agent.is_forbidden(&id("a"))), ("failed: no such artifact", true), "whatever else is wrong");
    assert_eq!(words(&mut agent).1.last().unwrap(), "a: not allowed to run: failed: no such artifact");
    agent.handle_force(open());
    agent.handle_loaded(&id("a"), &spec.digest, Ok(code(&[])), NOW);
    assert_eq!((state(&agent, "a").as_str(), agent.is_forbidden(&id("a"))), ("running", false));
    assert_eq!(words(&mut agent).1.last().unwrap(), "a: allowed to run again");
}
