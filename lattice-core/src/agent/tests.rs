mod policies;

use std::collections::BTreeSet;

use super::*;
use crate::admission::ComponentShape;
use crate::id::LinkName;
use crate::inventory::tests::host_id;
use crate::link::{KeyValueSettings, KindSettings, LinkSettings};
use crate::policy::accept::Holding;
use crate::policy::force::Preset;
use crate::trust::clock::{Standing, Time};
use crate::wire::assignment::{InstancePolicy, Limits, ProviderKind};

const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
const STORE: &str = "wasi:keyvalue/store@0.2.0-draft";
const NOW: Duration = Duration::from_secs(100);

fn id(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

fn kv() -> ProviderId {
    ProviderId::new("kv").unwrap()
}

fn code(imports: &[&str]) -> LoadedCode {
    let imports = imports.iter().map(|i| (*i).to_owned()).collect();
    LoadedCode { shape: ComponentShape { imports, exports: BTreeSet::from([HANDLER.to_owned()]) }, claim: None }
}

fn kv_link(bucket: &str) -> LinkAssignment {
    LinkAssignment {
        name: LinkName::new("default").unwrap(),
        contract: Contract::KeyValue,
        provider: kv(),
        settings: LinkSettings {
            timeout_ms: 1,
            retry_count: 0,
            retry_delay_ms: 0,
            permissions: BTreeSet::new(),
            env: BTreeMap::new(),
            kind: KindSettings::KeyValue(KeyValueSettings { bucket: bucket.into(), region: None }),
        },
    }
}

fn component(code: &[u8], links: Vec<LinkAssignment>) -> ComponentAssignment {
    ComponentAssignment {
        image: "a.wasm".into(),
        digest: Digest::of(code),
        instances: 4,
        policy: InstancePolicy::PerMessage,
        limits: Limits::default(),
        config: BTreeMap::new(),
        links,
        ownership: None,
    }
}

fn assignment(generation: u64, providers: &[&str], components: &[(&str, ComponentAssignment)]) -> Assignment {
    let provider = ProviderAssignment { kind: ProviderKind::KvNats, config: BTreeMap::new() };
    Assignment {
        generation: Generation(generation),
        providers: providers.iter().map(|name| (ProviderId::new(*name).unwrap(), provider.clone())).collect(),
        components: components.iter().map(|(name, spec)| (id(name), spec.clone())).collect(),
        ..Assignment::empty(host_id(0))
    }
}

fn enforced(force: &InForce) -> Enforced {
    Enforced::new(&Holding::default(), force, Preset::Open, Standing::Trusted, &BTreeMap::new())
}

fn agent() -> Agent {
    let force = Arc::new(InForce::of_bundles([], Preset::Open, Time::exact(0)));
    let enforced = enforced(&force);
    Agent::new(host_id(0), Incarnation::new("01").unwrap(), force, enforced)
}

fn actions(agent: &mut Agent) -> Vec<Action> {
    std::iter::from_fn(|| agent.poll_action())
        .filter(|action| !matches!(action, Action::Persist(_) | Action::Record(..) | Action::Audit(..) | Action::Report))
        .collect()
}

fn state(agent: &Agent, name: &str) -> String {
    agent.components().find(|(actor, ..)| actor.as_str() == name).map(|(_, state, ..)| state.to_string()).unwrap()
}

#[test]
fn from_assignment_to_running() {
    let mut agent = agent();
    let spec = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_assignment(assignment(1, &["kv"], &[("a", spec.clone())]), false).unwrap();
    assert!(matches!(actions(&mut agent).as_slice(), [Action::StartProvider(..), Action::Load(..)]));
    assert_eq!((state(&agent, "a").as_str(), agent.applied()), ("starting", Generation(0)));
    agent.handle_loaded(&id("a"), &spec.digest, Ok(code(&[STORE])), NOW);
    assert_eq!(state(&agent, "a"), "waiting: provider kv is starting");
    agent.handle_provider(&kv(), Ok(()), NOW);
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(spec))]);
    assert_eq!((state(&agent, "a").as_str(), agent.applied()), ("running", Generation(1)));
}

#[test]
fn without_its_link_an_actor_waits_and_with_it_it_runs() {
    let mut agent = agent();
    let bare = component(b"a", vec![]);
    agent.handle_assignment(assignment(1, &["kv"], &[("a", bare.clone())]), false).unwrap();
    agent.handle_provider(&kv(), Ok(()), NOW);
    agent.handle_loaded(&id("a"), &bare.digest, Ok(code(&[STORE])), NOW);
    assert_eq!(state(&agent, "a"), "waiting: no link for wasi:keyvalue/store");
    assert_eq!(agent.applied(), Generation(1));
    assert_eq!(agent.components().next().unwrap().3, 0);
    actions(&mut agent);

    let linked = component(b"a", vec![kv_link("edge-data")]);
    agent.handle_assignment(assignment(2, &["kv"], &[("a", linked.clone())]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(linked.clone()))]);
    let moved = component(b"a", vec![kv_link("other")]);
    agent.handle_assignment(assignment(3, &["kv"], &[("a", moved.clone())]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(moved))]);
    agent.handle_assignment(assignment(4, &["kv"], &[("a", bare)]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::Stop(id("a"))]);
    agent.handle_assignment(assignment(5, &[], &[("a", linked)]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::StopProvider(kv())]);
    assert_eq!(state(&agent, "a"), "waiting: provider kv does not run here");
}

#[test]
fn stale_and_foreign_assignments_are_refused_by_name() {
    let mut agent = agent();
    agent.handle_assignment(assignment(5, &[], &[]), false).unwrap();
    agent.handle_assignment(assignment(5, &[], &[]), false).unwrap();
    let check = |agent: &mut Agent, offered, expected: &str| {
        assert_eq!(agent.handle_assignment(offered, false).unwrap_err().to_string(), expected);
    };
    check(&mut agent, assignment(4, &[], &[]), "assignment of generation 4 is stale: generation 5 is in force");
    check(
        &mut agent,
        assignment(5, &["kv"], &[]),
        "assignment of generation 5 differs from the one of the same generation that is in force",
    );
    let foreign = Assignment { host: host_id(1), ..assignment(6, &[], &[]) };
    check(&mut agent, foreign, &format!("assignment is for host {}", host_id(1)));
    assert_eq!(agent.assignment().unwrap().generation, Generation(5));
}

#[test]
fn what_fails_is_tried_again_later_and_bad_code_is_not() {
    let mut agent = agent();
    let spec = component(b"a", vec![]);
    agent.handle_assignment(assignment(1, &[], &[("a", spec.clone())]), false).unwrap();
    actions(&mut agent);
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Failed("no such artifact".into()), true)), NOW);
    assert_eq!((state(&agent, "a").as_str(), agent.applied()), ("failed: no such artifact", Generation(1)));
    let at = agent.poll_timeout().unwrap();
    assert_eq!(at, NOW + LOAD_BACKOFF);
    agent.handle_timeout(at);
    assert!(matches!(actions(&mut agent).as_slice(), [Action::Load(..)]));
    assert_eq!(agent.poll_timeout(), None);
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Failed("no such artifact".into()), true)), at);
    assert_eq!(agent.poll_timeout(), Some(at + LOAD_BACKOFF * 2));
    agent.handle_loaded(&id("a"), &spec.digest, Err((Obstacle::Failed("not a component".into()), false)), at);
    assert_eq!(agent.poll_timeout(), None);
    let wrong = LoadedCode { shape: ComponentShape::default(), claim: None };
    agent.handle_loaded(&id("a"), &spec.digest, Ok(wrong), at);
    assert!(state(&agent, "a").starts_with("failed: it exports neither"));
}

#[test]
fn a_failed_run_is_not_repeated_with_the_same_settings() {
    let mut agent = agent();
    let spec = component(b"a", vec![]);
    agent.handle_assignment(assignment(1, &[], &[("a", spec.clone())]), false).unwrap();
    agent.handle_loaded(&id("a"), &spec.digest, Ok(code(&[])), NOW);
    agent.handle_run_failed(&id("a"), "pool is full".into());
    actions(&mut agent);
    assert_eq!(state(&agent, "a"), "failed: pool is full");
    let other = ComponentAssignment { instances: 1, ..spec };
    agent.handle_assignment(assignment(2, &[], &[("a", other.clone())]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(other))]);
}

#[test]
fn new_code_replaces_the_old_only_when_it_is_loaded() {
    let mut agent = agent();
    let (old, new) = (component(b"a", vec![]), component(b"b", vec![]));
    agent.handle_assignment(assignment(1, &[], &[("a", old.clone())]), false).unwrap();
    agent.handle_loaded(&id("a"), &old.digest, Ok(code(&[])), NOW);
    actions(&mut agent);
    agent.handle_assignment(assignment(2, &[], &[("a", new.clone())]), false).unwrap();
    assert_eq!(actions(&mut agent), [Action::Load(id("a"), new.digest.clone())]);
    assert_eq!((state(&agent, "a").as_str(), agent.applied()), ("running", Generation(1)));
    agent.handle_loaded(&id("a"), &old.digest, Ok(code(&[])), NOW);
    assert_eq!(actions(&mut agent), [], "an answer about the old code is none about the new");
    agent.handle_loaded(&id("a"), &new.digest, Ok(code(&[])), NOW);
    assert_eq!(actions(&mut agent), [Action::Run(id("a"), Box::new(new))]);
    assert_eq!(agent.applied(), Generation(2));
}

#[test]
fn a_stop_order_is_for_one_start() {
    let mut agent = agent();
    let stop = |incarnation: &str| Assignment { stop: Some(Incarnation::new(incarnation).unwrap()), ..assignment(1, &[], &[]) };
    let other = stop("02");
    agent.handle_assignment(other, false).unwrap();
    assert!(!agent.is_draining());
    let mine = Assignment { generation: Generation(2), ..stop("01") };
    agent.handle_assignment(mine, false).unwrap();
    assert!(agent.is_draining() && actions(&mut agent).contains(&Action::Drain));
    agent.handle_drain();
    assert_eq!(actions(&mut agent), [], "draining starts once");
}

#[test]
fn the_last_assignment_is_kept_unless_it_came_from_there() {
    let mut agent = agent();
    agent.handle_assignment(assignment(1, &[], &[]), true).unwrap();
    assert!(!std::iter::from_fn(|| agent.poll_action()).any(|action| matches!(action, Action::Persist(_))));
    agent.handle_assignment(assignment(2, &[], &[]), false).unwrap();
    assert!(std::iter::from_fn(|| agent.poll_action()).any(|action| matches!(action, Action::Persist(_))));
}
