//! Messages in, replies out; what an instance keeps and what it does not.

use std::sync::Arc;
use std::time::Duration;

use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{InvokeError, ReplyRoute};
use provider_api::messaging::Message;

use crate::world::{PATIENCE, REPLY_SUBJECT, World, call, message, settings};

#[tokio::test]
async fn a_message_is_answered() {
    let world = World::new();
    let echo = world.actor("echo", |_| {}).await;
    assert_eq!(call(&echo, "hello").await.unwrap(), "hello");
    let stats = echo.stats();
    assert_eq!((stats.handled, stats.failed, stats.running, stats.memory_bytes), (1, 0, 0, 0));
    assert_eq!(world.runtime.live_instances(), 0);
    assert_eq!(world.runtime.memory_in_use(), 0);
}

#[tokio::test]
async fn a_reply_goes_where_the_message_says() {
    let world = World::new();
    let echo = world.actor("echo", |_| {}).await;
    echo.handle_message(message(r#"{"a":1}"#), ReplyRoute::Publish(world.bus.clone())).await.unwrap();
    let published = world.published();
    let [reply] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!((reply.subject.as_str(), &*reply.body, &reply.reply_to), (REPLY_SUBJECT, br#"{"a":1}"#.as_slice(), &None));
    let headers = [("source-node", "NEDGE01"), ("content-type", "application/json")];
    assert_eq!(reply.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));

    echo.handle_message(message("nobody waits"), ReplyRoute::None).await.unwrap();
    assert!(world.lines().contains(&"info answer nobody waits".to_owned()), "the actor sees no reply subject: {:?}", world.lines());
    for forged in ["$JS.API.STREAM.DELETE.edge-events", "lat.default.req.all.ping", "cloud.cmd.NEDGE01"] {
        let asking = Message { reply_to: Some(forged.to_owned()), ..message("x") };
        echo.handle_message(asking, ReplyRoute::Publish(world.bus.clone())).await.unwrap();
    }
    assert_eq!(world.published().len(), 1);
    assert_eq!(world.log.denials.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn per_message_forgets_and_resident_remembers() {
    let world = World::new();
    let fresh = world.actor("counter", |_| {}).await;
    for _ in 0..3 {
        assert_eq!(call(&fresh, "").await.unwrap(), "1");
    }
    let resident = world.actor("counter", |settings| settings.policy = InstancePolicy::Resident).await;
    let mut only = settings("counter");
    only.policy = InstancePolicy::Resident;
    only.instances = 1;
    resident.reconfigure(only.clone(), world.links()).unwrap();
    for expected in 1..4 {
        assert_eq!(call(&resident, "").await.unwrap(), expected.to_string());
    }
    assert!(matches!(call(&resident, "trap").await, Err(InvokeError::Trap(_))));
    assert_eq!(call(&resident, "").await.unwrap(), "1", "a fresh instance after a trap");
    only.config.insert("key".to_owned(), "value".to_owned());
    resident.reconfigure(only.clone(), world.links()).unwrap();
    assert_eq!(call(&resident, "").await.unwrap(), "2", "other config is no reason to forget");
    only.env.insert("KEY".to_owned(), "value".to_owned());
    resident.reconfigure(only, world.links()).unwrap();
    assert_eq!(call(&resident, "").await.unwrap(), "1", "the environment is read at the start");
    resident.close(PATIENCE).await;
    assert_eq!(world.runtime.live_instances(), 0);
}

#[tokio::test]
async fn a_resident_instance_takes_messages_in_order() {
    let world = World::new();
    let resident = world
        .actor("counter", |settings| {
            settings.policy = InstancePolicy::Resident;
            settings.instances = 1;
        })
        .await;
    let calls = (0..20).map(|_| call(&resident, ""));
    let answers = futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(answers, (1..21).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn config_and_environment_are_what_was_given() {
    let world = World::new();
    let mut settings = settings("print-env");
    settings.config.insert("temp_threshold".to_owned(), "85.0".to_owned());
    settings.env.insert("MODE".to_owned(), "test".to_owned());
    settings.env.insert("WASMCLOUD_NODE_ID".to_owned(), "forged".to_owned());
    let actor = world.actor("print-env", |to| *to = settings.clone()).await;
    assert_eq!(call(&actor, "").await.unwrap(), "config temp_threshold=85.0\nenv MODE=test\nenv WASMCLOUD_NODE_ID=NEDGE01");
    settings.config.insert("temp_threshold".to_owned(), "90".to_owned());
    actor.reconfigure(settings, world.links()).unwrap();
    assert!(call(&actor, "").await.unwrap().contains("temp_threshold=90\n"), "a changed value counts from the next message");
}

#[tokio::test]
async fn the_machine_is_out_of_reach() {
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let actor = world.actor("fs-user", |_| {}).await;
    let tried = call(&actor, &listener.local_addr().unwrap().to_string()).await.unwrap();
    assert!(tried.lines().count() >= 9 && tried.lines().all(|line| line.contains("=> error")), "{tried}");
}

#[tokio::test]
async fn a_handlers_error_is_the_calls() {
    let world = World::new();
    let actor = world.actor("fail", |_| {}).await;
    let failed = call(&actor, "now").await.unwrap_err();
    assert!(matches!(&failed, InvokeError::Guest(text) if text == "told to fail: now"), "{failed:?}");
    assert_eq!(call(&actor, "ok then").await.unwrap(), "ok then");
    let huge = world.actor("huge-return", |_| {}).await;
    let failed = call(&huge, "error 3000000").await.unwrap_err();
    assert!(failed.to_string().len() <= 1024, "{} bytes", failed.to_string().len());
}

#[tokio::test]
async fn at_most_so_many_at_once() {
    let world = World::new();
    let actor = world.actor("sleepy", |settings| settings.instances = 2).await;
    assert_eq!(actor.free(), 2);
    let started = std::time::Instant::now();
    let calls = (0..4).map(|_| call(&actor, "150"));
    futures::future::try_join_all(calls).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(actor.free(), 2);
}

#[tokio::test]
async fn closing_waits_then_cuts_off() {
    let world = World::new();
    let actor = Arc::new(world.actor("sleepy", |_| {}).await);
    let running = |millis: &'static str| {
        let actor = actor.clone();
        tokio::spawn(async move { call(&actor, millis).await })
    };
    let (short, long) = (running("200"), running("15000"));
    while actor.stats().running < 2 {
        tokio::task::yield_now().await;
    }
    actor.close(Duration::from_millis(800)).await;
    assert_eq!(short.await.unwrap().unwrap(), "slept 200 ms");
    assert!(matches!(long.await.unwrap(), Err(InvokeError::Closed)));
    assert!(matches!(call(&actor, "1").await, Err(InvokeError::Closed)));
    tokio::time::timeout(PATIENCE, actor.ready()).await.expect("a closed actor keeps nobody waiting");
    assert_eq!(world.runtime.live_instances(), 0);
}
