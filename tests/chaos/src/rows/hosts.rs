//! Faults of host processes.

use std::time::Duration;

use e2e::{program, until};
use lattice_core::wire::event::EventKind;
use lattice_core::wire::verdict::Evidence;

use super::Fault;
use crate::arena::{Arena, BYSTANDER};
use crate::check::history;
use crate::load::Stream;

/// How long a killed host stays down.
const DOWN: Duration = Duration::from_secs(10);
/// Between two faults of one row: a host that was taken for dead is trusted again by then.
const REST: Duration = Duration::from_secs(4);
/// How long each host is stopped; below and above every deadline of the profile.
const PAUSES: [u64; 4] = [1, 3, 6, 10];
/// How long the machine is kept busy.
const BUSY: Duration = Duration::from_secs(25);
/// How long two processes have one identity.
const TWICE: Duration = Duration::from_secs(10);
/// How long hostile actors run, and how many messages a second each of them gets.
const HOSTILE: Duration = Duration::from_secs(12);
const HOSTILE_RATE: u64 = 5;
/// Programs that misbehave.
const PROGRAMS: [&str; 5] = ["spin", "memory_bomb", "trap", "spin_hostcalls", "log_flood"];

/// F1.
pub(super) fn killed(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let worker = arena.busiest();
    let name = arena.workers[worker].name.clone();
    arena.kill(worker);
    arena.pass(DOWN);
    let found = history(arena).into_iter().find(|failover| failover.name == name);
    let evidence = found.as_ref().map(|failover| failover.evidence);
    fault.expected.check(evidence == Some(Evidence::ProcessGone), || format!("{name} was killed, the verdict says {evidence:?}"));
    if let Some(steps) = found.map(|failover| failover.steps) {
        fault.expected.notes.push(format!(
            "decided {} ms, planned {} ms, applied {} ms, first result {} ms",
            shown(steps.decided_ms),
            shown(steps.planned_ms),
            shown(steps.applied_ms),
            shown(steps.first_result_ms)
        ));
    }
    arena.restart(worker);
    Ok(())
}

fn shown(ms: Option<u64>) -> String {
    ms.map_or_else(|| "?".to_owned(), |ms| ms.to_string())
}

/// F2: each time whoever owns most.
pub(super) fn frozen(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    for seconds in PAUSES {
        let worker = arena.busiest();
        let before = history(arena).len();
        arena.freeze(worker, Duration::from_secs(seconds));
        arena.pass(REST);
        let taken_for_dead = history(arena).len() > before;
        // A second is within every deadline; six are beyond suspicion and confirmation.
        fault.expected.check(taken_for_dead == (seconds > 2), || format!("stopped for {seconds} s: taken for dead is {taken_for_dead}"));
        // A thread that was late by more than its deadline ends the process: then somebody starts it again.
        arena.restart_if_ended(worker);
    }
    Ok(())
}

/// F16.
pub(super) fn hogged(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    arena.hog();
    arena.pass(BUSY);
    arena.calm();
    Ok(())
}

/// F18: on the bystander's host.
pub(super) fn hostile(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    for name in PROGRAMS {
        let path = program(name);
        // An actor's id has no underscore in it.
        let id = name.replace('_', "-");
        arena.ctl(&format!("start actor {} {id} --max 2 --cpu-ms 200 --require role=bystander", path.display())).ok();
        arena.ctl(&format!("link put {id} kv wasmcloud:keyvalue default --bucket hostile")).ok();
        arena.ctl(&format!("link put {id} messaging wasmcloud:messaging default --subscription ask.{id}")).ok();
    }
    let before = rhythm(arena);
    let end = std::time::Instant::now() + HOSTILE;
    while std::time::Instant::now() < end {
        for name in PROGRAMS {
            let subject = format!("ask.{}", name.replace('_', "-"));
            arena.runtime.block_on(arena.client().publish(subject, "64".into())).map_err(|error| error.to_string())?;
        }
        arena.pass(Duration::from_secs(1) / u32::try_from(HOSTILE_RATE).unwrap_or(1));
    }
    let after = rhythm(arena);
    fault.expected.check(after > before, || "the bystander stood still".to_owned());
    for name in PROGRAMS {
        arena.ctl(&format!("stop actor {}", name.replace('_', "-"))).ok();
    }
    let report = arena.observer.look(|heard| heard.hosts.values().find(|host| host.name.as_str() == BYSTANDER).cloned());
    fault.expected.check(report.is_some(), || "the bystander's host was never heard".to_owned());
    Ok(())
}

/// Results of the bystander so far.
fn rhythm(arena: &Arena) -> usize {
    arena.observer.look(|heard| heard.results.get(&Stream::Bystander).map_or(0, Vec::len))
}

/// F20: somebody copied a box and starts both.
pub(super) fn twins(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let worker = arena.busiest();
    let mut twin = arena.clone_of(worker);
    arena.pass(TWICE);
    let twin_lives = twin.is_alive();
    twin.kill();
    let original_ended = arena.restart_if_ended(worker);
    fault.expected.notes.push(format!(
        "the copy {}, the original {}",
        if twin_lives { "ran on" } else { "gave up" },
        if original_ended { "gave up" } else { "ran on" }
    ));
    let name = arena.workers[worker].name.clone();
    until("the original is heard again", &mut || {
        arena.observer.look(|heard| heard.hosts.values().any(|host| host.name == name)).then_some(())
    });
    let lost = arena.observer.look(|heard| heard.events_of(EventKind::SlotLost).count());
    fault.expected.notes.push(format!("slots lost {lost} times"));
    Ok(())
}
