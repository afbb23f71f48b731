//! Faults of the control plane, and everything at random.

use std::time::{Duration, Instant};

use super::Fault;
use crate::arena::Arena;
use crate::proxy::Way;

/// From the death of one replica to that of a worker.
const SOON: Duration = Duration::from_secs(1);
/// How long each is down.
const DOWN: Duration = Duration::from_secs(10);
/// How long a replica stands still while the other one decides.
const PAUSED: Duration = Duration::from_secs(8);
/// Longest of each fault at random, and longest pause between two, in milliseconds.
const RANDOM_FAULT_MS: usize = 5_000;
const RANDOM_REST_MS: usize = 4_000;

/// F13: the other replica does the work; the one that comes back with old ideas changes nothing.
pub(super) fn control_plane(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    arena.kill_control(0);
    arena.pass(SOON);
    let worker = arena.busiest();
    arena.kill(worker);
    arena.pass(DOWN);
    arena.restart_control(0);
    arena.restart(worker);
    arena.pass(DOWN);
    arena.freeze_control(1, PAUSED);
    arena.pass(DOWN / 2);
    Ok(())
}

/// F23.
pub(super) fn general(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    // Everything is done to everybody.
    for worker in 0..arena.workers.len() {
        arena.blame(worker);
    }
    let mut done = [0_u32; 7];
    let end = Instant::now() + fault.length;
    while Instant::now() < end {
        let worker = fault.dice.below(arena.workers.len());
        let length = Duration::from_millis(500 + u64::try_from(fault.dice.below(RANDOM_FAULT_MS)).unwrap_or(0));
        let kind = fault.dice.below(done.len());
        done[kind] += 1;
        match kind {
            0 => {
                arena.kill(worker);
                arena.pass(length);
                arena.restart(worker);
            }
            1 => arena.freeze(worker, length),
            2 => during(arena, worker, length, |arena, worker| arena.link(worker).cut()),
            3 => during(arena, worker, length, |arena, worker| arena.link(worker).cut_one(Way::Down)),
            4 => arena.link(worker).reset(),
            5 => arena.servers.get(0).bounce(length / 5),
            _ => {
                arena.hog();
                arena.pass(length);
                arena.calm();
            }
        }
        let rest = fault.dice.below(RANDOM_REST_MS);
        arena.pass(Duration::from_millis(u64::try_from(rest).unwrap_or(0)));
        for worker in 0..arena.workers.len() {
            arena.restart_if_ended(worker);
        }
    }
    let [killed, frozen, cut, one_way, reset, server, busy] = done;
    fault.expected.checked += 1;
    fault.expected.notes.push(format!(
        "{killed} killed, {frozen} stopped, {cut} cut off, {one_way} deaf, {reset} reset, {server} times no server, {busy} times busy"
    ));
    Ok(())
}

fn during(arena: &mut Arena, worker: usize, length: Duration, fault: fn(&Arena, usize)) {
    fault(arena, worker);
    arena.pass(length);
    arena.link(worker).heal();
}
