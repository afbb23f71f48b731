//! Desired state, plan, events and requests on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::desired::{Change, Desired, Stamp};
use lattice_core::id::{ConfigName, Digest, Generation, HostId, HostName, Incarnation, Region, Revision};
use lattice_core::plan::{Head, Plan, PlanState};
use lattice_core::subject::{self, Verb};
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::event::{Event, EventKind};
use lattice_nats::{AskError, CommitError, Lattice, StoreError};
use support::{DEADLINE, World, host};

fn stamp() -> Stamp {
    Stamp { by: "test".to_owned(), at_ms: 1 }
}

/// The keys that set config `name` to `value` on top of `before`.
fn edit(before: &Desired, name: &str, value: &str) -> Vec<Change> {
    let mut after = before.clone();
    after.put_config(ConfigName::new(name).unwrap(), BTreeMap::from([("value".to_owned(), value.to_owned())])).unwrap();
    before.diff(&after, &stamp())
}

fn value_of<'a>(desired: &'a Desired, name: &str) -> Option<&'a str> {
    desired.configs.get(name).and_then(|config| config.values.get("value")).map(String::as_str)
}

fn plan(generation: u64, hosts: &[HostId]) -> Plan {
    let (generation, parent) = (Generation(generation), Generation(generation - 1));
    let head = Head { generation, parent, desired_rev: Revision(0), verdict_rev: Revision(0), digest: Digest::of(b"") };
    let assignment = |host: &HostId| Assignment { generation, parent, ..Assignment::empty(host.clone()) };
    Plan {
        head,
        changed: hosts.iter().map(|host| (host.clone(), assignment(host))).collect(),
        more: false,
        choices: BTreeMap::new(),
        displaced: Vec::new(),
        moved: Vec::new(),
        left_behind: Vec::new(),
        troubles: BTreeMap::new(),
        handing_over: false,
    }
}

#[tokio::test]
async fn what_was_committed_is_read_back() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    assert!(!lattice.exists().await.unwrap());
    assert!(matches!(lattice.read_desired().await, Err(StoreError::Missing { .. })));
    lattice.ensure().await.unwrap();
    lattice.ensure().await.expect("a second time is fine");
    assert!(lattice.exists().await.unwrap());

    let (empty, start) = lattice.read_desired().await.unwrap();
    assert_eq!((empty.clone(), start), (Desired::default(), Revision(0)));
    let first = lattice.commit_desired(&edit(&empty, "a", "1"), start).await.unwrap();
    let (desired, revision) = lattice.read_desired().await.unwrap();
    assert_eq!((value_of(&desired, "a"), revision), (Some("1"), first));
    assert_eq!(desired.changed["config.a"], stamp());

    let mut without = desired.clone();
    without.delete_config(&ConfigName::new("a").unwrap(), &[]).unwrap();
    let second = lattice.commit_desired(&desired.diff(&without, &stamp()), revision).await.unwrap();
    let (desired, revision) = lattice.read_desired().await.unwrap();
    assert_eq!((desired, revision), (Desired::default(), second));
    assert_eq!(lattice.commit_desired(&[], revision).await.unwrap(), revision, "nothing to write");
}

#[tokio::test]
async fn one_of_eight_racers_wins() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let (empty, revision) = lattice.read_desired().await.unwrap();
    let mut racers = Vec::new();
    for number in 0..8 {
        let racer = Lattice::new(world.connect().await, lattice.name().clone());
        let mut changes = edit(&empty, "mine", &number.to_string());
        changes.extend(edit(&empty, &format!("of-{number}"), "x"));
        changes.extend(edit(&empty, "third", "x"));
        racers.push(tokio::spawn(async move { racer.commit_desired(&changes, revision).await }));
    }
    let mut won = Vec::new();
    for (number, racer) in racers.into_iter().enumerate() {
        match racer.await.unwrap() {
            Ok(new) => won.push((number, new)),
            Err(CommitError::Conflict { expected, found }) => {
                assert!(expected == revision && found.is_none_or(|found| found == Revision(3)))
            }
            Err(error) => panic!("neither won nor lost: {error}"),
        }
    }
    let [(number, new)] = won[..] else { panic!("{won:?}") };
    let (desired, revision) = lattice.read_desired().await.unwrap();
    assert_eq!((value_of(&desired, "mine"), revision), (Some(number.to_string().as_str()), new));
    assert_eq!(desired.configs.len(), 3, "nothing of the losers");
}

#[tokio::test]
async fn a_thousand_keys_go_into_one_batch_and_no_more() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let key = |number: usize| Change { key: format!("app.a{number}"), value: Some(b"{}".to_vec()) };
    let too_many: Vec<Change> = (0..1001).map(key).collect();
    assert!(matches!(lattice.commit_desired(&too_many, Revision(0)).await, Err(CommitError::TooMany { size: 1001, limit: 1000 })));
    let all = lattice.commit_desired(&too_many[..1000], Revision(0)).await.unwrap();
    assert_eq!(all, Revision(1000));
    assert_eq!(lattice.read_desired().await.unwrap().1, all);
}

#[tokio::test]
async fn a_plan_is_committed_over_its_parent_only() {
    let world = World::start().await;
    let lattice = world.ready().await;
    assert_eq!(lattice.read_plan().await.unwrap(), PlanState::default());
    assert_eq!(lattice.read_head().await.unwrap(), None);
    let hosts = [host('A'), host('B')];
    let first = plan(1, &hosts);
    let revision = lattice.commit_plan(&first, Revision(0)).await.unwrap();

    let state = lattice.read_plan().await.unwrap();
    assert_eq!(state, PlanState::default().after(&first, revision));
    assert_eq!(lattice.read_assignment(&hosts[0]).await.unwrap().as_ref(), first.changed.get(&hosts[0]));
    assert_eq!(lattice.read_assignment(&host('C')).await.unwrap(), None);

    for stale in [Revision(0), Revision(revision.0 - 1)] {
        let refused = lattice.commit_plan(&plan(2, &hosts), stale).await;
        assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(lattice.read_plan().await.unwrap(), state, "a refused plan leaves nothing behind");
    lattice.commit_plan(&plan(2, &hosts[..1]), revision).await.unwrap();
    let state = lattice.read_plan().await.unwrap();
    assert_eq!(state.generation(), Generation(2));
    assert_eq!(state.assignments[&hosts[1]].generation, Generation(1));
    assert_eq!(lattice.read_head().await.unwrap(), state.head);
}

#[tokio::test]
async fn hosts_are_told_of_committed_plans_only() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let me = host('A');
    let mut told = lattice.subscribe(subject::planned(lattice.name(), &me)).await.unwrap();
    let revision = lattice.commit_plan(&plan(1, &[me.clone(), host('B')]), Revision(0)).await.unwrap();
    let refused = lattice.commit_plan(&plan(2, std::slice::from_ref(&me)), Revision(0)).await;
    assert!(matches!(refused, Err(CommitError::Conflict { .. })));
    lattice.commit_plan(&plan(2, std::slice::from_ref(&me)), revision).await.unwrap();
    for expected in [1, 4] {
        let message = tokio::time::timeout(DEADLINE, told.next()).await.unwrap().unwrap();
        assert!(message.payload.is_empty(), "a hint, not the assignment");
        let sequence = message.headers.unwrap().get(async_nats::header::NATS_SEQUENCE).unwrap().to_string();
        assert_eq!(sequence, expected.to_string());
    }
}

/// A stream consumer of the bucket never sees a part of a batch: each time it looks, all keys have the same value.
#[tokio::test]
async fn a_watch_never_sees_half_a_batch() {
    let world = World::start().await;
    let lattice = world.ready().await;
    const KEYS: usize = 20;
    const BATCHES: usize = 15;
    let writer = lattice.clone();
    let writing = tokio::spawn(async move {
        let mut revision = Revision(0);
        for round in 0..BATCHES {
            let key = |number: usize| Change { key: format!("app.a{number}"), value: Some(round.to_string().into_bytes()) };
            revision = writer.commit_desired(&(0..KEYS).map(key).collect::<Vec<_>>(), revision).await.unwrap();
            let stale = writer.commit_desired(&(0..KEYS).map(key).collect::<Vec<_>>(), Revision(0)).await;
            assert!(matches!(stale, Err(CommitError::Conflict { .. })));
        }
    });
    let stock = lattice.connection().jetstream().get_key_value(subject::desired_bucket(lattice.name())).await.unwrap();
    let mut watch = stock.watch_with_history(">").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < KEYS * BATCHES {
        let entry = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap().unwrap();
        seen.push((entry.revision, String::from_utf8(entry.value.to_vec()).unwrap()));
    }
    writing.await.unwrap();
    for (index, (revision, value)) in seen.iter().enumerate() {
        assert_eq!((*revision, value.as_str()), (index as u64 + 1, (index / KEYS).to_string().as_str()));
    }
}

#[tokio::test]
async fn a_roll_up_header_cannot_wipe_desired_state() {
    let world = World::start().await;
    let lattice = world.ready().await;
    lattice.commit_desired(&edit(&Desired::default(), "a", "1"), Revision(0)).await.unwrap();
    let bucket = subject::desired_bucket(lattice.name());
    let client = lattice.connection().jetstream();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let wipe = client.publish_with_headers(subject::bucket_key(&bucket, "x"), headers, Bytes::new()).await.unwrap().await;
    assert!(wipe.is_err(), "{wipe:?}");
    let stream = client.get_stream(subject::bucket_stream(&bucket)).await.unwrap();
    assert!(stream.purge().await.is_err());
    assert!(stream.delete_message(1).await.is_err());
    let (desired, _) = lattice.read_desired().await.unwrap();
    assert_eq!(value_of(&desired, "a"), Some("1"));
}

#[tokio::test]
async fn a_weaker_bucket_of_the_same_name_is_refused_by_name() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    let bucket = subject::desired_bucket(lattice.name());
    let stock = jetstream::kv::Config { bucket, history: 16, ..jetstream::kv::Config::default() };
    lattice.connection().jetstream().create_key_value(stock).await.unwrap();
    let refused = lattice.ensure().await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("KV_LAT_default_DESIRED") && text.contains("roll-up"), "{text}");
}

#[tokio::test]
async fn nonsense_in_the_store_is_named() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let bad = Change { key: "config.a".to_owned(), value: Some(b"nonsense".to_vec()) };
    lattice.commit_desired(&[bad], Revision(0)).await.unwrap();
    let error = lattice.read_desired().await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }) && error.to_string().contains("config.a"), "{error}");
}

fn event(kind: EventKind) -> Event {
    Event {
        kind,
        host: host('A'),
        host_name: HostName::new("NEDGE01").unwrap(),
        region: Region::new("local").unwrap(),
        incarnation: Incarnation::new("1").unwrap(),
        at_ms: 1,
        message: "said hello".to_owned(),
        details: BTreeMap::new(),
    }
}

#[tokio::test]
async fn events_are_kept_and_heard() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let mut heard = lattice.subscribe_events().await.unwrap();
    lattice.connection().client().publish("lat.default.evt.x.y.z", "nonsense".into()).await.unwrap();
    for kind in [EventKind::Hello, EventKind::Bye] {
        lattice.publish_event(&event(kind)).await.unwrap();
        let found = tokio::time::timeout(DEADLINE, heard.next()).await.unwrap().unwrap();
        assert_eq!(found, event(kind));
    }
    let mut stream = lattice.connection().jetstream().get_stream(subject::events_stream(lattice.name())).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 3);
}

#[tokio::test]
async fn questions_to_hosts() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let (me, nobody, window) = (host('A'), host('Z'), Duration::from_secs(5));
    let absent = lattice.ask(&nobody, Verb::Ping, Bytes::new(), window).await;
    assert!(matches!(absent, Err(AskError::Nobody { .. })), "{absent:?}");
    assert_eq!(lattice.ask_all(Verb::Ping, Bytes::new(), &BTreeSet::new(), window).await.unwrap(), Vec::<Bytes>::new());

    let answering = lattice.clone();
    let [mine, all] = subject::requests_for(lattice.name(), &me);
    let mut questions = futures::stream::select(answering.subscribe(mine).await.unwrap(), answering.subscribe(all).await.unwrap());
    let answerer = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            if Verb::of_subject(&question.subject) == Some(Verb::Ping) {
                let reply = question.reply.unwrap();
                answering.connection().client().publish(reply, "here".into()).await.unwrap();
            }
        }
    });
    assert_eq!(lattice.ask(&me, Verb::Ping, Bytes::new(), window).await.unwrap(), "here");
    let silent = lattice.ask(&me, Verb::Logs, Bytes::new(), Duration::from_millis(50)).await;
    assert!(matches!(silent, Err(AskError::TimedOut { .. })), "{silent:?}");
    let answers = lattice.ask_all(Verb::Ping, Bytes::new(), &BTreeSet::new(), window).await.unwrap();
    assert_eq!(answers, ["here"]);
    let asked = std::time::Instant::now();
    let answers = lattice.ask_all(Verb::Ping, Bytes::new(), &BTreeSet::from([me]), window).await.unwrap();
    assert!(answers == ["here"] && asked.elapsed() < window / 2, "everybody has answered, nobody else is waited for");
    answerer.abort();
}
