//! At least once: kills, failures, dead letters, a server that goes.

use futures::StreamExt as _;
use lattice_core::sensor::DeadLetter;
use lattice_core::wire::assignment::ProviderKind;
use lattice_core::wire::event::EventKind;
use rustix::process::Signal;

use crate::world::{DEADLINE, World, actor, event};

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
