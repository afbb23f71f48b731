//! At least once: kills, failures, dead letters, a server that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lattice_core::id::BucketName;
use lattice_core::sensor::DeadLetter;
use lattice_core::subject;
use lattice_core::timing::MAX_ANSWERED_FAILURES;
use lattice_core::wire::assignment::ProviderKind;
use lattice_core::wire::event::{Event, EventKind};
use rustix::process::Signal;

use crate::world::{DEADLINE, World, actor, event};

/// How long the stop of an actor may take that rests for longer.
const STOPPED_WITHIN: Duration = Duration::from_secs(6);
const LINK: &[(&str, &str)] = &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")];

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_loses_nothing() {
    let mut world = World::start().await;
    let (mut host, report) = world.joined("NEDGE01").await;
    world.actor("sleepy", "sleepy", &report.id, 2).await;
    world.link("sleepy", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "sleepy").await;
    for _ in 0..20 {
        world.store("edge.sensor.eu", "200").await;
    }
    world.report("NEDGE01", |report| report.components[&actor("sleepy")].handled >= 4).await;
    host.signal(Signal::KILL);
    host.ended().await;
    let _host = world.host("NEDGE01");
    world.consumed(20).await;
    let report = world.report("NEDGE01", |_| true).await;
    let sleepy = &report.components[&actor("sleepy")];
    assert!((10..=16).contains(&sleepy.handled) && sleepy.failed == 0, "{sleepy:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_failures_become_dead_letters() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("fail", "fail", &report.id, 2).await;
    world.link("fail", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "fail").await;
    let mut events = world.events().await;
    let mut dead = world.lattice.subscribe("edge.dead.eu".to_owned()).await.unwrap();
    world.lattice.connection().settle().await;
    world.store("edge.sensor.eu", "bad reading").await;
    for _ in 0..10 {
        world.store("edge.sensor.eu", "ok").await;
    }
    let buried = event(&mut events, |event| event.kind == EventKind::DeadLetter).await;
    assert_eq!(buried.details["reason"], "told to fail: bad reading");
    assert_eq!((buried.details["sequence"].as_str(), buried.details["subject"].as_str()), ("1", "edge.sensor.eu"));
    let copy = tokio::time::timeout(DEADLINE, dead.next()).await.unwrap().unwrap();
    let letter: DeadLetter = serde_json::from_slice(&copy.payload).unwrap();
    assert_eq!((letter.reason.as_str(), letter.payload.as_str()), ("told to fail: bad reading", "bad reading"));
    world.consumed(11).await;
    let report = world.report("NEDGE01", |report| report.components[&actor("fail")].handled == 10).await;
    assert_eq!(report.components[&actor("fail")].failed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_that_is_away_makes_fail_is_kept() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    let bucket = BucketName::new("readings").unwrap();
    world.lattice.ensure_bucket(&bucket, None).await.unwrap();
    world.actor("ledger", "ledger", &report.id, 1).await;
    world.link("ledger", ProviderKind::KvNats, &[("bucket", "readings"), ("retry-count", "0")]).await;
    world.link("ledger", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "ledger").await;
    // A stream without a leader answers as one that is not there.
    let stream = subject::bucket_stream(bucket.as_str());
    world.lattice.connection().jetstream().delete_stream(stream).await.unwrap();
    world.store("edge.sensor.eu", "set device 1").await;
    world.report("NEDGE01", |report| report.components[&actor("ledger")].failed > MAX_ANSWERED_FAILURES.into()).await;
    world.lattice.ensure_bucket(&bucket, None).await.unwrap();
    world.consumed(1).await;
    let report = world.report("NEDGE01", |_| true).await;
    let ledger = &report.components[&actor("ledger")];
    assert!(ledger.handled == 1 && ledger.crashes == 0, "it became no dead letter: {ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_breaks_again_and_again_rests_and_goes_on() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("trap", "trap", &report.id, 1).await;
    world.link("trap", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "trap").await;
    let mut events = world.events().await;
    for _ in 0..3 {
        world.store("edge.sensor.eu", "x").await;
    }
    for seconds in [1, 2, 4] {
        let rest = event(&mut events, |event| event.kind == EventKind::Restarting).await;
        assert_eq!((rest.details["actor"].as_str(), rest.details["rest-ms"].parse()), ("trap", Ok(seconds * 1000)), "{rest:?}");
    }
    let report = world.report("NEDGE01", |report| report.components[&actor("trap")].crashes >= 5).await;
    assert_eq!(report.components[&actor("trap")].state.to_string(), "running");
    world.consumed(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_rests_is_stopped_at_once() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("trap", "trap", &report.id, 1).await;
    world.link("trap", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "trap").await;
    let mut events = world.events().await;
    for _ in 0..4 {
        world.store("edge.sensor.eu", "x").await;
    }
    let long =
        |rest: &Event| rest.kind == EventKind::Restarting && rest.details["rest-ms"].parse::<u128>().unwrap() > STOPPED_WITHIN.as_millis();
    event(&mut events, long).await;
    let asked = Instant::now();
    world.desired.stop_component(&actor("trap"), &BTreeSet::new(), &BTreeMap::new()).unwrap();
    let generation = world.commit().await;
    let report = world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    assert!(report.components.is_empty() && asked.elapsed() < STOPPED_WITHIN, "{:?}: {report:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_message_is_not_handed_out_twice() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("sleepy", "sleepy", &report.id, 1).await;
    world.link("sleepy", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "sleepy").await;
    // Longer than the server's patience.
    world.store("edge.sensor.eu", "6000").await;
    assert_eq!(world.consumed(1).await, 0);
    let report = world.report("NEDGE01", |report| report.components[&actor("sleepy")].handled >= 1).await;
    assert_eq!(report.components[&actor("sleepy")].handled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_finds_everybody() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("sleepy", "sleepy", &report.id, 2).await;
    world.link("sleepy", ProviderKind::MessagingNats, LINK).await;
    world.running("NEDGE01", "sleepy").await;
    for _ in 0..6 {
        world.store("edge.sensor.eu", "100").await;
    }
    let port = world.stop_server().await;
    world.start_server(port).await;
    world.consumed(6).await;
    let report = world.report("NEDGE01", |_| true).await;
    assert!(report.error_count >= 1, "{report:?}");
    assert_eq!(report.incarnation, world.report("NEDGE01", |_| true).await.incarnation);
}
