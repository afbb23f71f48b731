//! The article's pipeline: readings in, last value and counter into a bucket, results and alerts out; edge-processor on
//! the host against a native program that does the same. Both deliveries: `core` and `jetstream`.
//!
//! CPU time per message is taken at a fixed rate that both keep up with; the highest rate with a bounded number of
//! readings outstanding, so that a row with a lost reading is an error and not a faster row.

use crate::Error;
use crate::bench::Bench;
use crate::load::{Pace, Sensors};
use crate::process::{Place, Process};
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stats::to_f64;
use crate::world::{Peer, World};

/// Readings a second where CPU time is taken.
const RATE: u32 = 500;
/// Readings of one side in one round at that rate, and at full speed.
const PACED: usize = 250;
const FAST: usize = 1000;
/// Readings outstanding at full speed: enough that nobody waits for the load, and below every queue.
const WINDOW: usize = 200;
/// Readings that either side works on at once.
const CONCURRENCY: &str = "10";
const LATTICE: &str = "lattice";
const NATIVE: &str = "native";

/// Both deliveries, CPU time and rate.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    for (delivery, durable) in [("core", false), ("jetstream", true)] {
        outcome = outcome.and(compare(bench, delivery, durable).await?);
    }
    Ok(outcome)
}

async fn compare(bench: &Bench, delivery: &str, durable: bool) -> Result<Outcome, Error> {
    let world = World::start(bench, Place::Measured).await?;
    let actor = bench.actor("edge_processor");
    world.ctl(&format!("start actor {} edge-processor --max {CONCURRENCY}", actor.display())).await?;
    world.ctl(&format!("link put edge-processor kv wasmcloud:keyvalue default --bucket {LATTICE}")).await?;
    let messaging = "link put edge-processor messaging wasmcloud:messaging default --subscription edge.sensor";
    world.ctl(&format!("{messaging}.{LATTICE} --delivery {delivery}")).await?;
    world.lattice().ensure_bucket(&NATIVE.parse()?, None).await?;
    let url = world.nats_url();
    let subject = format!("edge.sensor.{NATIVE}");
    let mut arguments = vec!["pipeline", "--nats-url", &url, "--subject", &subject, "--bucket", NATIVE, "--concurrency", CONCURRENCY];
    arguments.extend(durable.then_some("--durable"));
    let native = Peer::native(Place::Measured, &arguments).await?;

    let (host, peer) = (world.host()?, native.process()?);
    let mut ours = Sensors::new(world.connection(), LATTICE, durable).await?;
    let mut theirs = Sensors::new(world.connection(), NATIVE, durable).await?;
    let paced = u32::try_from(bench.work(PACED))?;
    let mut sides = [
        side(LATTICE, async || measure(&mut ours, host, paced, Pace::Rate(RATE)).await),
        side(NATIVE, async || measure(&mut theirs, peer, paced, Pace::Rate(RATE)).await),
    ];
    let at_rate = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let fast = u32::try_from(bench.work(FAST))?;
    let mut sides = [
        side(LATTICE, async || measure(&mut ours, host, fast, Pace::Window(WINDOW)).await),
        side(NATIVE, async || measure(&mut theirs, peer, fast, Pace::Window(WINDOW)).await),
    ];
    let at_full_speed = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    native.stop().await?;
    world.close().await?;

    let pair = (LATTICE, NATIVE);
    let cpu = Line::compare(format!("reading, {delivery}: CPU time at {RATE}/s"), "us", &at_rate, "cpu", pair)?;
    let waits = Line::compare(format!("reading, {delivery}: waits at {RATE}/s"), "", &at_rate, "waits", pair)?;
    let p50 = Line::compare(format!("reading, {delivery}: to result at {RATE}/s, p50"), "us", &at_rate, "p50", pair)?;
    let p99 = Line::compare(format!("reading, {delivery}: to result at {RATE}/s, p99"), "us", &at_rate, "p99", pair)?;
    let rate = Line::compare(format!("reading, {delivery}: highest rate, none lost"), "/s", &at_full_speed, "rate", pair)?;
    let busy = Line::compare(format!("reading, {delivery}: CPU time at full speed"), "us", &at_full_speed, "cpu", pair)?;
    let lines = vec![
        cpu.goal(Goal::RatioAtMost(2.0)).note("of the host process or the native program, per reading"),
        waits.note("voluntary context switches per reading"),
        p50,
        p99,
    ];
    let fast_lines = vec![rate.goal(Goal::RatioAtLeast(0.9)).note(format!("{WINDOW} outstanding, {CONCURRENCY} at once")), busy];
    Ok(Outcome::of(&at_rate, lines).and(Outcome::of(&at_full_speed, fast_lines)))
}

async fn measure(sensors: &mut Sensors, process: Process, count: u32, pace: Pace) -> Result<Reading, Error> {
    let (cpu, waits) = (process.cpu()?, process.waits()?);
    let outcome = sensors.run(count, pace).await?;
    let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6;
    let waits = usize::try_from(process.waits()?.saturating_sub(waits))?;
    let reading = Reading::checked(outcome.checks)
        .with("cpu", cpu / f64::from(count))
        .with("waits", to_f64(waits) / f64::from(count))
        .with("rate", f64::from(count) / outcome.elapsed.as_secs_f64());
    Ok(reading.with_percentiles(outcome.latencies_us))
}
