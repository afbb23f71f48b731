//! Counts that noise cannot touch, with bounds: page faults, allocations and context switches of a message.
//!
//! What passes a bound is a change of ours, on a busy machine, too. Bounds have some slack over what was counted when they
//! were recorded (in the comment of each); lower them when something gets cheaper. Instructions and system calls are counted
//! by tools, in `make counters`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod count;
#[path = "../runtime/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the runtime, which use all of it")]
mod world;

use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute};

use count::{COUNTING, Counts};
use world::{World, message};

#[global_allocator]
static ALLOCATOR: count::Counting = COUNTING;

/// Messages before those that count: slots are warm and lazily made things are made by then.
const WARM_UP: u32 = 50;
/// Messages that count.
const MESSAGES: u32 = 400;

/// Instances dirty eight pages. Counted: none, now and then one of the host's own heap. What it protects: that the pool
/// clears pages in place; by giving them back it would be fifteen for each message.
const FAULTS_PER_ACTIVATION: f64 = 0.2;
/// The same where pages are given back, because memory could be swapped out or the kernel is too old.
const FAULTS_WITHOUT_SCAN: f64 = 20.0;
/// Counted: 34, of which wasmtime itself needs 29 for an instance of this component. What it protects: that nothing is made
/// for an instance that it may never ask for.
const ALLOCATIONS_PER_ACTIVATION: f64 = 38.0;
/// Counted: 2, the meter and what wasmtime needs to run a guest that may wait.
const ALLOCATIONS_PER_WARM_MESSAGE: f64 = 2.4;
/// Counted: 5, the host call included. What it protects: links, timeouts and retries that cost nothing when nothing waits.
const ALLOCATIONS_PER_READ: f64 = 6.0;
/// A message that waits for nothing must not give up the thread.
const SWITCHES_PER_MESSAGE: f64 = 0.02;

/// One test counts at a time: a neighbour that makes its engine holds the process's memory map, and whoever waits for it
/// gives up the thread.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_fresh_instance() {
    let _alone = ALONE.lock().await;
    let world = World::new();
    let actor = world.actor("touch-pages", |_| {}).await;
    let counts = counted(&actor, "fresh", 1).await;
    let scan = is_scan_in_use();
    println!("fresh instance, pages {}: {counts:?}", if scan { "cleared in place" } else { "given back" });
    within("page faults", counts.faults, if scan { FAULTS_PER_ACTIVATION } else { FAULTS_WITHOUT_SCAN });
    within("allocations", counts.allocations, ALLOCATIONS_PER_ACTIVATION);
    within("voluntary context switches", counts.switches, SWITCHES_PER_MESSAGE);
}

#[tokio::test]
async fn a_resident_instance() {
    let _alone = ALONE.lock().await;
    let world = World::new();
    let actor = world.actor("touch-pages", |settings| settings.policy = InstancePolicy::Resident).await;
    let counts = counted(&actor, "warm", 1).await;
    println!("resident instance: {counts:?}");
    within("page faults", counts.faults, FAULTS_PER_ACTIVATION);
    within("allocations", counts.allocations, ALLOCATIONS_PER_WARM_MESSAGE);
    within("voluntary context switches", counts.switches, SWITCHES_PER_MESSAGE);
}

#[tokio::test]
async fn reads_through_a_link() {
    const READS: u32 = 100;
    let _alone = ALONE.lock().await;
    let world = World::new();
    let actor = world.actor("kv-loop", |settings| settings.policy = InstancePolicy::Resident).await;
    actor.handle_message(message("set 1 key 64"), ReplyRoute::None).await.unwrap();
    let counts = counted(&actor, "get 100 key 64", READS).await;
    println!("read through a link: {counts:?}");
    within("allocations", counts.allocations, ALLOCATIONS_PER_READ);
    within("voluntary context switches", counts.switches, SWITCHES_PER_MESSAGE);
}

/// What each of `parts` equal parts of a message takes, on average over many messages.
async fn counted(actor: &Actor, body: &str, parts: u32) -> Counts {
    // A task that never waits would be sent to the end of the queue now and then.
    tokio::task::coop::unconstrained(async {
        let mut before = Counts::now();
        for number in 0..WARM_UP + MESSAGES {
            if number == WARM_UP {
                before = Counts::now();
            }
            let message = count::aside(|| message(body));
            actor.handle_message(message, ReplyRoute::None).await.unwrap();
        }
        Counts::now().per(&before, MESSAGES * parts)
    })
    .await
}

fn within(what: &str, counted: f64, bound: f64) {
    assert!(counted <= bound, "{counted:.3} {what}, at most {bound} are allowed");
}

/// Whether the pool may clear dirty pages in place: the kernel tells which they are, and none can be swapped out.
fn is_scan_in_use() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    version >= (6, 7) && swaps.lines().count() <= 1
}
