//! Faults of links.

use std::time::Duration;

use e2e::program;
use lattice_core::wire::event::EventKind;

use super::Fault;
use crate::arena::Arena;
use crate::check::history;
use crate::proxy::{Proxy, Way};

/// How long a host is cut off: shorter and longer than its lease.
const PARTITIONS: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(12)];
/// How long one direction is cut.
const ONE_WAY: Duration = Duration::from_secs(8);
/// Between two faults of one row.
const REST: Duration = Duration::from_secs(5);
/// How often a link breaks, and for how long it is broken and whole.
const FLAPS: u32 = 12;
const FLAP: Duration = Duration::from_secs(1);
/// How often the work of one flapping host may move within the row.
const MOVES_OF_A_FLAPPING_HOST: usize = 2;
/// How long a link is slow.
const SLOW: Duration = Duration::from_secs(20);
/// What the slow link does: 200 ± 100 ms, 64 kbit/s.
const SLOW_DELAY: Duration = Duration::from_millis(100);
const SLOW_JITTER: Duration = Duration::from_millis(200);
const SLOW_BYTES_PER_SECOND: u64 = 8_000;
/// Workers that vanish, and for how long.
const VANISHING: usize = 4;
const VANISHED: Duration = Duration::from_secs(10);
/// Verdicts that the brakes let pass meanwhile.
const DEAD_AT_MOST: usize = 2;
/// How long the provider's connection hangs, and how long it carries nonsense.
const BAD_PROVIDER: Duration = Duration::from_secs(5);

/// F3.
pub(super) fn partition(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    for length in PARTITIONS {
        let worker = arena.busiest();
        arena.blame(worker);
        arena.link(worker).cut();
        arena.pass(length);
        arena.link(worker).heal();
        arena.pass(REST);
        arena.restart_if_ended(worker);
    }
    Ok(())
}

/// F4.
pub(super) fn one_way(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    for way in [Way::Up, Way::Down] {
        let worker = arena.busiest();
        arena.blame(worker);
        arena.link(worker).cut_one(way);
        arena.pass(ONE_WAY);
        arena.link(worker).heal();
        arena.pass(REST);
        arena.restart_if_ended(worker);
    }
    Ok(())
}

/// F5.
pub(super) fn flapping(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let worker = arena.busiest();
    arena.blame(worker);
    for _ in 0..FLAPS {
        arena.link(worker).set(|link| link.refuse = true);
        arena.link(worker).reset();
        arena.pass(FLAP);
        arena.link(worker).heal();
        arena.pass(FLAP);
    }
    let moves = history(arena).iter().filter(|failover| !failover.plans.is_empty()).count();
    fault.expected.check(moves <= MOVES_OF_A_FLAPPING_HOST, || format!("its work moved {moves} times"));
    fault.expected.notes.push(format!("{moves} moves in {FLAPS} flaps"));
    arena.restart_if_ended(worker);
    Ok(())
}

/// F15.
pub(super) fn slow(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    let worker = arena.busiest();
    arena.link(worker).set(|link| {
        (link.delay, link.jitter, link.bytes_per_second) = (SLOW_DELAY, SLOW_JITTER, SLOW_BYTES_PER_SECOND);
    });
    arena.pass(SLOW);
    arena.link(worker).heal();
    Ok(())
}

/// F17: the switch of most of a site fails.
pub(super) fn most_vanish(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    for worker in 0..VANISHING {
        arena.blame(worker);
        arena.link(worker).cut();
    }
    arena.pass(VANISHED);
    let dead = history(arena).len();
    let frozen = arena.observer.look(|heard| heard.events_of(EventKind::Frozen).count());
    fault.expected.check(frozen > 0, || "nobody froze the site".to_owned());
    fault.expected.check(dead <= DEAD_AT_MOST, || format!("{dead} hosts were taken for dead"));
    fault.expected.notes.push(format!("{dead} taken for dead"));
    for worker in 0..VANISHING {
        arena.link(worker).heal();
    }
    arena.pass(REST);
    for worker in 0..VANISHING {
        arena.restart_if_ended(worker);
    }
    Ok(())
}

/// F22: an actor's messaging link has a connection of its own, to another cluster, and that one goes bad.
pub(super) fn bad_provider(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let link = Proxy::start(arena.runtime.handle(), arena.servers.addresses());
    let code = program("echo");
    arena.ctl(&format!("start actor {} far --max 1 --require role=bystander", code.display())).ok();
    arena.ctl("link put far kv wasmcloud:keyvalue default --bucket far").ok();
    let url = link.url();
    arena.ctl(&format!("link put far messaging wasmcloud:messaging default --subscription ask.far --cluster-uri {url}")).ok();
    fault.expected.check(answers(arena), || "it does not work before the fault".to_owned());
    for _ in 0..5 {
        link.reset();
        arena.pass(Duration::from_millis(500));
    }
    link.cut();
    arena.pass(BAD_PROVIDER);
    link.heal();
    link.set(|conditions| conditions.garble_every = 3);
    // The pings alone would be too few to break anything.
    for _ in 0..10 {
        let _ = answers(arena);
    }
    link.heal();
    let mut patience = 30;
    let mut works = answers(arena);
    while !works && patience > 0 {
        patience -= 1;
        works = answers(arena);
    }
    fault.expected.check(works, || "it does not work after the fault".to_owned());
    arena.ctl("stop actor far").ok();
    Ok(())
}

/// Whether the actor behind the bad link answers.
fn answers(arena: &Arena) -> bool {
    let request = async_nats::Request::new().payload("hello".into()).timeout(Some(Duration::from_secs(1)));
    let answer = arena.runtime.block_on(arena.client().send_request("ask.far", request));
    if answer.is_err() {
        // Nobody listens is said at once.
        arena.pass(Duration::from_millis(200));
    }
    answer.is_ok()
}
