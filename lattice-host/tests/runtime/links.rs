//! Links as permissions: what is covered works, what is not is refused, and a link that goes takes its calls with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lattice_host::runtime::{Actor, InvokeError, LinkFault, LoadError};

use crate::world::{World, call, program, settings};

#[tokio::test]
async fn what_a_link_covers_works() {
    let world = World::new();
    let actor = world.actor("kv-user", |_| {}).await;
    let script = "set a 1\nget a\nexists a\nexists b\nincrement n 5\nincrement n 2\nlist\nset-many v x y\nget-many x z\ndelete-many x y\ndelete a\nget a";
    let shown = call(&actor, script).await.unwrap();
    assert_eq!(shown, "ok\n1\ntrue\nfalse\n5\n7\na n\nok\nx=v (none)\nok\nok\n(none)");
    assert_eq!(call(&actor, "open edge-data\nopen default").await.unwrap(), "ok\nok", "by link name or by bucket");
    assert_eq!(call(&actor, "publish edge.result.eu hello").await.unwrap(), "ok");
    let published = world.published();
    assert_eq!((published[0].subject.as_str(), published[0].headers[1].1.as_str()), ("edge.result.eu", "application/octet-stream"));
}

#[tokio::test]
async fn what_no_link_covers_is_refused_and_audited() {
    let world = World::new();
    let loaded = world.load(program("forbidden")).await.unwrap();
    let links = vec![world.keyvalue(&[], &["get"]), world.messaging(&[("subscription", "edge.sensor.eu")])];
    let actor = Actor::new(&world.runtime, loaded, settings("forbidden"), links).unwrap();
    let tried = call(&actor, "").await.unwrap();
    assert!(tried.lines().count() >= 19 && tried.lines().all(|line| line.contains("=> error: ")), "{tried}");
    for expected in
        ["open somebody-else => error: no such store", "set key value => error: access denied", "increment key 1 => error: access denied"]
    {
        assert!(tried.contains(expected), "{expected} in {tried}");
    }
    assert!(tried.contains("publish lat.default.req.all.ping x => error: capability denied: wasmcloud:messaging"), "{tried}");
    assert!(world.published().is_empty() && world.bucket.values.lock().unwrap().is_empty());
    let denials = world.log.denials.lock().unwrap().clone();
    assert!(!denials.is_empty() && denials.len() <= 10, "bounded: {denials:?}");
    assert_eq!(call(&actor, "get key").await.unwrap(), "get key => (none)", "what the link covers still works");
}

#[tokio::test]
async fn a_request_has_its_own_rules_and_timeout() {
    let world = World::new();
    let loaded = world.load(program("kv-user")).await.unwrap();
    let links = vec![world.keyvalue(&[], &[]), world.messaging(&[("publish", "site.>"), ("timeout-ms", "200")])];
    let actor = Actor::new(&world.runtime, loaded, settings("kv-user"), links).unwrap();
    assert_eq!(call(&actor, "request site.echo 1000 ping").await.unwrap(), "ping");
    let started = Instant::now();
    let failed = call(&actor, "request site.silent 60000 ping").await.unwrap_err();
    assert_eq!(failed.to_string(), "no answer within 200 ms");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn too_large_is_said() {
    let world = World::new();
    let actor = world.actor("huge-return", |_| {}).await;
    let check = async |body: &str, expected: &str| {
        let failed = call(&actor, body).await.unwrap_err().to_string();
        assert!(failed.contains(expected), "{body}: {failed}");
    };
    check("reply 1048577", "message has 1048577 bytes, at most 1048576 are allowed").await;
    check("publish 1048577 edge.result.eu", "at most 1048576 are allowed").await;
    check("set 1048577 key", "at most 1048576 are allowed").await;
    check("subject 600", "longer than 512 bytes").await;
    check("publish 9000000 edge.result.eu", "").await;
    assert!(world.published().is_empty());
}

#[tokio::test]
async fn without_a_link_there_is_no_instance() {
    let world = World::new();
    let loaded = world.load(program("kv-user")).await.unwrap();
    let only_messaging = vec![world.messaging(&[("subscription", "edge.sensor.eu")])];
    match Actor::new(&world.runtime, loaded.clone(), settings("kv-user"), only_messaging.clone()) {
        Err(LoadError::Link(LinkFault::Missing(missing))) => assert_eq!(missing.first().map(String::as_str), Some("wasi:keyvalue/store")),
        other => panic!("{:?}", other.err()),
    }
    let actor = Actor::new(&world.runtime, loaded, settings("kv-user"), world.links()).unwrap();
    call(&actor, "set a 1").await.unwrap();
    assert!(matches!(actor.reconfigure(settings("kv-user"), only_messaging), Err(LoadError::Link(LinkFault::Missing(_)))));
    let failed = call(&actor, "get a").await.unwrap_err();
    assert!(failed.to_string().contains("no link for wasi:keyvalue/store"), "{failed}");
    actor.reconfigure(settings("kv-user"), world.links()).unwrap();
    assert_eq!(call(&actor, "get a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_provider_that_hangs_gives_an_error_in_time() {
    let world = World::new();
    world.bucket.hangs.store(true, Ordering::SeqCst);
    let loaded = world.load(program("kv-user")).await.unwrap();
    let links = vec![world.keyvalue(&[("timeout-ms", "150")], &[]), world.messaging(&[])];
    let actor = Actor::new(&world.runtime, loaded, settings("kv-user"), links).unwrap();
    let started = Instant::now();
    let failed = call(&actor, "get a").await.unwrap_err();
    assert_eq!(failed.to_string(), "no answer within 150 ms");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(world.bucket.calls.load(Ordering::SeqCst), 1, "a call whose effect is unknown is not repeated");
}

#[tokio::test]
async fn an_unavailable_provider_is_tried_again() {
    let world = World::new();
    let loaded = world.load(program("kv-user")).await.unwrap();
    let links = vec![world.keyvalue(&[("retry-count", "2"), ("retry-delay-ms", "20")], &[]), world.messaging(&[])];
    let actor = Actor::new(&world.runtime, loaded, settings("kv-user"), links).unwrap();
    world.bucket.unavailable.store(2, Ordering::SeqCst);
    assert_eq!(call(&actor, "set a 1").await.unwrap(), "ok");
    world.bucket.unavailable.store(3, Ordering::SeqCst);
    assert_eq!(call(&actor, "set a 1").await.unwrap_err().to_string(), "unavailable: told to be");
}

#[tokio::test]
async fn what_comes_of_an_outage_is_not_the_message_s_failure() {
    let world = World::new();
    let loaded = world.load(program("kv-user")).await.unwrap();
    let links = vec![
        world.keyvalue(&[("retry-count", "0"), ("timeout-ms", "50")], &[]),
        world.messaging(&[("publish", "site.>"), ("timeout-ms", "50")]),
    ];
    let actor = Actor::new(&world.runtime, loaded, settings("kv-user"), links).unwrap();
    let failed = async |script: &str| call(&actor, script).await.unwrap_err();
    world.bucket.unavailable.store(1, Ordering::SeqCst);
    assert!(matches!(failed("set a 1").await, InvokeError::Outage(_)));
    assert!(matches!(failed("open somebody-else").await, InvokeError::Guest(_)), "the next message starts anew");
    world.bucket.hangs.store(true, Ordering::SeqCst);
    assert!(matches!(failed("set a 1").await, InvokeError::Outage(_)), "a store that hangs is as good as away");
    assert!(matches!(failed("request site.silent 1000 ping").await, InvokeError::Guest(_)), "whoever is asked may not like the question");
}

#[tokio::test]
async fn retries_end_with_the_deadline() {
    let world = World::new();
    world.bucket.unavailable.store(u32::MAX, Ordering::SeqCst);
    let loaded = world.load(program("kv-user")).await.unwrap();
    let links = vec![world.keyvalue(&[("retry-count", "100"), ("retry-delay-ms", "100")], &[]), world.messaging(&[])];
    let mut settings = settings("kv-user");
    settings.limits.deadline_ms = 500;
    let actor = Actor::new(&world.runtime, loaded, settings, links).unwrap();
    assert_eq!(call(&actor, "get a").await.unwrap_err().to_string(), "unavailable: told to be");
    assert!(world.bucket.calls.load(Ordering::SeqCst) <= 6);
}

#[tokio::test]
async fn a_link_removed_during_a_call_ends_it_at_once() {
    let world = World::new();
    world.bucket.hangs.store(true, Ordering::SeqCst);
    let actor = Arc::new(world.actor("kv-user", |_| {}).await);
    let running = tokio::spawn({
        let actor = actor.clone();
        async move { call(&actor, "get a").await }
    });
    world.bucket.entered.notified().await;
    let started = Instant::now();
    let changed = vec![world.keyvalue(&[("timeout-ms", "1234")], &[]), world.messaging(&[("subscription", "edge.sensor.eu")])];
    actor.reconfigure(settings("kv-user"), changed).unwrap();
    let failed = running.await.unwrap().unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(failed.to_string(), "link definition not found: link `default` was removed or changed");
}

#[tokio::test]
async fn a_change_of_one_link_leaves_the_others_alone() {
    let world = World::new();
    world.bucket.hangs.store(true, Ordering::SeqCst);
    let links = |publish: &str| vec![world.keyvalue(&[("timeout-ms", "400")], &[]), world.messaging(&[("publish", publish)])];
    let loaded = world.load(program("kv-user")).await.unwrap();
    let actor = Arc::new(Actor::new(&world.runtime, loaded, settings("kv-user"), links("a.b")).unwrap());
    let running = tokio::spawn({
        let actor = actor.clone();
        async move { call(&actor, "get a").await }
    });
    world.bucket.entered.notified().await;
    actor.reconfigure(settings("kv-user"), links("a.c")).unwrap();
    assert_eq!(running.await.unwrap().unwrap_err().to_string(), "no answer within 400 ms", "the key-value link is the same");
}
