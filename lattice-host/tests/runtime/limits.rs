//! Guests that take more than they may have. Each time a neighbour goes on as if nothing had happened.

use std::time::{Duration, Instant};

use lattice_host::runtime::InvokeError;

use crate::world::{World, call};

/// Far above what the limits in these tests leave, far below a hang.
const SOON: Duration = Duration::from_secs(5);

/// Enough for whatever comes to an end by itself.
const PLENTY_CPU_MS: u32 = 10_000;
/// Little, so that what does not come to an end is stopped soon.
const LITTLE_CPU_MS: u32 = 200;

async fn fails(world: &World, program: &str, body: &str) -> InvokeError {
    fails_within(LITTLE_CPU_MS, world, program, body).await
}

async fn fails_within(cpu_ms: u32, world: &World, program: &str, body: &str) -> InvokeError {
    let neighbour = world.actor("echo", |_| {}).await;
    let actor = world
        .actor(program, |settings| {
            settings.limits.cpu_ms = cpu_ms;
            settings.limits.deadline_ms = 2 * PLENTY_CPU_MS;
        })
        .await;
    let started = Instant::now();
    let (failed, answered) = tokio::join!(call(&actor, body), async {
        let first = call(&neighbour, "during").await;
        (first, started.elapsed())
    });
    assert_eq!(answered.0.unwrap(), "during");
    assert!(answered.1 < SOON, "the neighbour waited {:?}", answered.1);
    assert_eq!(call(&neighbour, "after").await.unwrap(), "after");
    assert_eq!(world.runtime.live_instances(), 0);
    assert_eq!(world.runtime.memory_in_use(), 0);
    failed.expect_err("it succeeded")
}

#[tokio::test]
async fn a_trap() {
    let world = World::new();
    let failed = fails(&world, "trap", "x").await;
    assert!(matches!(failed, InvokeError::Trap(_)), "{failed:?}");
    assert!(world.lines().iter().any(|line| line.contains("told to panic: x")), "{:?}", world.lines());
}

#[tokio::test]
async fn a_loop() {
    let failed = fails(&World::new(), "spin", "").await;
    assert!(matches!(failed, InvokeError::CpuLimit(limit) if limit == Duration::from_millis(200)), "{failed:?}");
}

#[tokio::test]
async fn a_loop_that_calls_the_host() {
    for body in ["", "log"] {
        let failed = fails(&World::new(), "spin-hostcalls", body).await;
        assert!(matches!(failed, InvokeError::CpuLimit(_)), "{failed:?}");
    }
}

#[tokio::test]
async fn a_loop_before_the_first_message() {
    let failed = fails(&World::new(), "spin-init", "").await;
    assert!(matches!(failed, InvokeError::CpuLimit(_)), "{failed:?}");
}

#[tokio::test]
async fn a_sleep_costs_no_cpu_but_time() {
    let world = World::new();
    let actor = world
        .actor("sleepy", |settings| {
            settings.limits.cpu_ms = 100;
            settings.limits.deadline_ms = 1500;
        })
        .await;
    assert_eq!(call(&actor, "300").await.unwrap(), "slept 300 ms");
    let started = Instant::now();
    let failed = call(&actor, "10000").await.unwrap_err();
    assert!(matches!(failed, InvokeError::Deadline(limit) if limit == Duration::from_millis(1500)), "{failed:?}");
    assert!(started.elapsed() < SOON);
    assert_eq!(actor.stats().timed_out, 1);
}

#[tokio::test]
async fn deep_recursion() {
    let failed = fails(&World::new(), "deep-recursion", "").await;
    assert!(matches!(&failed, InvokeError::Trap(text) if text.contains("stack")), "{failed:?}");
}

#[tokio::test]
async fn a_memory_bomb() {
    let world = World::new();
    let failed = fails_within(PLENTY_CPU_MS, &world, "memory-bomb", "").await;
    // The guest is told and may say so itself; what counts is that it did not get more.
    let text = failed.to_string();
    let got: u32 = text
        .strip_prefix("memory refused after ")
        .and_then(|rest| rest.strip_suffix(" MiB"))
        .unwrap_or_else(|| panic!("{text}"))
        .parse()
        .unwrap();
    assert!((50..64).contains(&got), "{got} MiB of 64");
}

#[tokio::test]
async fn more_memory_than_allowed_from_the_start() {
    let world = World::with(|config| config.max_actor_memory_mb = 512);
    let failed = fails(&world, "big-static", "").await;
    assert!(matches!(failed, InvokeError::OutOfMemory(_)), "{failed:?}");
}

#[tokio::test]
async fn memory_is_summed_over_the_instances_of_an_actor() {
    let world = World::new();
    let actor = world
        .actor("sleepy", |settings| {
            // Each instance has a little more than one MiB.
            settings.limits.memory_mb = 3;
            settings.instances = 8;
        })
        .await;
    let calls = (0..8).map(|_| call(&actor, "1500"));
    let outcomes = futures::future::join_all(calls).await;
    let fine = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(fine, 2, "{outcomes:?}");
    assert!(
        outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|error| matches!(error, InvokeError::OutOfMemory(_))),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn memory_is_summed_over_the_actors_of_a_host() {
    let world = World::with(|config| config.host_memory_mb = 3);
    let (a, b) = (world.actor("sleepy", |_| {}).await, world.actor("echo", |_| {}).await);
    let neighbours = async {
        while a.stats().running < 2 || world.runtime.live_instances() < 2 {
            tokio::task::yield_now().await;
        }
        call(&b, "x").await
    };
    let (first, second, third) = tokio::join!(call(&a, "1500"), call(&a, "1500"), neighbours);
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert!(matches!(&third, Err(InvokeError::OutOfMemory(why)) if why.to_string().contains("limit of the host")), "{third:?}");
    assert_eq!(call(&b, "x").await.unwrap(), "x");
}

#[tokio::test]
async fn more_instances_than_the_host_has_room_for_wait() {
    let world = World::with(|config| config.max_instances = 2);
    let actor = world.actor("sleepy", |settings| settings.instances = 6).await;
    let calls = (0..6).map(|_| call(&actor, "50"));
    assert_eq!(futures::future::try_join_all(calls).await.unwrap().len(), 6);
}

#[tokio::test]
async fn leaked_handles() {
    for body in ["pollables", "buckets"] {
        let failed = fails(&World::new(), "handle-leak", body).await;
        assert!(matches!(failed, InvokeError::Trap(_)), "{failed:?}");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines() {
    let world = World::new();
    let actor = world.actor("log-flood", |settings| settings.limits.cpu_ms = PLENTY_CPU_MS).await;
    let started = Instant::now();
    call(&actor, "4").await.unwrap();
    let windows = usize::try_from(started.elapsed().as_secs()).unwrap() + 2;
    let lines = world.lines();
    let bytes: usize = lines.iter().map(String::len).sum();
    // Escapes make a line up to six times as long as what was charged for it.
    assert!(bytes <= windows * 64 * 1024 * 6, "{bytes} bytes in {windows} s");
    assert!(
        !lines.is_empty() && lines.iter().all(|line| !line.contains(['\u{1b}', '\n', '\r', '\u{0}', '\u{202e}', '\u{9b}'])),
        "{lines:?}"
    );
}

#[tokio::test]
async fn nothing_is_left_for_the_next_instance() {
    let world = World::new();
    let actor = world.actor("dirty-pages", |settings| settings.instances = 1).await;
    for round in 0..6 {
        assert_eq!(call(&actor, "").await.unwrap(), "0 dirty bytes", "round {round}");
    }
    let other = world.actor("memory-bomb", |_| {}).await;
    call(&other, "").await.unwrap_err();
    assert_eq!(call(&actor, "").await.unwrap(), "0 dirty bytes", "after another component in the same slot");
}
