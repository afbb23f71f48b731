//! A fresh instance, and a resident one: what a message costs inside the host.

use std::time::{Duration, Instant};

use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute};

use crate::Error;
use crate::bare::{Bare, BareInstance};
use crate::bench::Bench;
use crate::counters::Used;
use crate::dirty::Region;
use crate::rounds::{Checks, Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{SUBJECT, Stage, links_in_memory, message};
use crate::stats::to_f64;

/// Activations in one round.
const FRESH: usize = 2000;
/// Calls of a resident instance in one round.
const WARM: usize = 10_000;
/// Pages that the guest dirties, as a scan of its memory finds them.
const DIRTY_PAGES: usize = 8;

/// Fresh instances.
pub(crate) async fn fresh(bench: &Bench) -> Result<Outcome, Error> {
    let stage = Stage::start(bench, "fresh", 16)?;
    let wasm = bench.program("touch-pages")?;
    let actor = stage.actor(&wasm, InstancePolicy::PerMessage, links_in_memory().await?).await?;
    let bare = Bare::new(&wasm, 1)?;
    let mut warm = bare.instance()?;
    let mut region = Region::new(DIRTY_PAGES)?;
    if let Err(error) = region.reset() {
        return Ok(Outcome::skipped(format!("no PAGEMAP_SCAN for the floor: {error}")));
    }
    let count = bench.work(FRESH);
    let mut sides = [
        side("lattice", async || calls(&actor, b"fresh", count).await),
        side("default pool", async || {
            timed(count, || {
                let mut instance = bare.instance()?;
                instance.call(SUBJECT, b"fresh")
            })
        }),
        side("floor", async || {
            timed(count, || {
                region.reset()?;
                warm.call(SUBJECT, b"warm")
            })
        }),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let pages = format!("{DIRTY_PAGES} pages dirtied; floor: scan, copy of these pages, warm call");
    let against = |other| ("lattice", other);
    let lines = vec![
        Line::compare("fresh instance, p50", "us", &samples, "p50", against("floor"))?.goal(Goal::RatioAtMost(4.0)).note(pages),
        Line::compare("fresh instance, p99", "us", &samples, "p99", against("floor"))?,
        Line::compare("fresh instance, p50", "us", &samples, "p50", against("default pool"))?.goal(Goal::RatioAtMost(0.2)),
        Line::compare("page faults", "per activation", &samples, "faults", against("default pool"))?.goal(Goal::AtMost(1.0)),
        Line::compare("allocations", "per activation", &samples, "allocations", against("default pool"))?,
    ];
    Ok(Outcome::of(&samples, lines))
}

/// A resident instance.
pub(crate) async fn warm(bench: &Bench) -> Result<Outcome, Error> {
    let stage = Stage::start(bench, "warm", 16)?;
    let wasm = bench.program("touch-pages")?;
    let actor = stage.actor(&wasm, InstancePolicy::Resident, links_in_memory().await?).await?;
    let bare = Bare::new(&wasm, 1)?;
    let mut instance: BareInstance = bare.instance()?;
    let count = bench.work(WARM);
    let mut sides = [
        side("lattice", async || calls(&actor, b"warm", count).await),
        side("typed call", async || timed(count, || instance.call(SUBJECT, b"warm"))),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let against = ("lattice", "typed call");
    let lines = vec![
        Line::compare("warm call, p50", "us", &samples, "p50", against)?.goal(Goal::RatioAtMost(5.0)),
        Line::compare("warm call, p99", "us", &samples, "p99", against)?,
        Line::compare("allocations", "per call", &samples, "allocations", against)?.goal(Goal::AtMost(2.0)),
    ];
    Ok(Outcome::of(&samples, lines))
}

/// Calls of an actor one after the other.
async fn calls(actor: &Actor, body: &'static [u8], count: usize) -> Result<Reading, Error> {
    let mut times = Vec::with_capacity(count);
    let mut messages = vec![message(body); count];
    let mut checks = Checks::default();
    // Its budget would send a task that never waits to the end of the queue now and then: a cost of the loop, not of a call.
    let work = tokio::task::coop::unconstrained(async {
        let before = Used::now()?;
        while let Some(message) = messages.pop() {
            let start = Instant::now();
            let outcome = actor.handle_message(message, ReplyRoute::None).await;
            times.push(start.elapsed());
            checks.right += u64::from(outcome.is_ok());
            checks.wrong += u64::from(outcome.is_err());
        }
        Ok::<_, Error>(Used::now()?.since(before))
    });
    let used = work.await?;
    Ok(reading(Reading::checked(checks), &times, used))
}

/// Work one after the other.
fn timed(count: usize, mut work: impl FnMut() -> Result<(), Error>) -> Result<Reading, Error> {
    let mut times = Vec::with_capacity(count);
    let before = Used::now()?;
    for _ in 0..count {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    let used = Used::now()?.since(before);
    Ok(reading(Reading::right(u64::try_from(count)?), &times, used))
}

fn reading(reading: Reading, times: &[Duration], used: Used) -> Reading {
    let each = |count: u64| to_f64(usize::try_from(count).unwrap_or(usize::MAX)) / to_f64(times.len());
    reading
        .with_percentiles(times.iter().map(|time| time.as_secs_f64() * 1e6).collect())
        .with("allocations", each(used.allocations))
        .with("faults", each(used.faults))
}
