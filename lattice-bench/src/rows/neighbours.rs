//! Noisy neighbours: how long good actors take to answer while four others spin, against the same without them.
//!
//! The spinning ones use up their CPU limit again and again; the host may use every processor, as it would on a node.

use std::time::Duration;

use crate::Error;
use crate::bench::Bench;
use crate::load::{Pace, Requests};
use crate::process::{Place, Process};
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::world::World;

/// Actors that spin.
const SPINNING: usize = 4;
/// Actors that answer.
const GOOD: usize = 4;
/// Milliseconds of CPU time after which a spinning call is ended.
const CPU_MS: u32 = 400;
/// Messages for each spinning actor in one round; the next begins when the one before was ended.
const MESSAGES: usize = 2;
/// Requests to the good ones in one round, and how many a second.
const REQUESTS: usize = 400;
const RATE: u32 = 400;
/// The host is quiet again when it uses less of a processor than this, for this long.
const QUIET: f64 = 0.1;
const LOOK: Duration = Duration::from_millis(100);
const ALONE: &str = "alone";
const BESIDE: &str = "beside";

/// Latencies of the good actors.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let world = World::start(bench, Place::Anywhere).await?;
    let (mut good, mut spinning) = (Vec::new(), Vec::new());
    for number in 0..GOOD {
        world.start_program("echo", &format!("good{number}"), "--policy resident --max 1").await?;
        good.push(format!("ask.good{number}"));
    }
    for number in 0..SPINNING {
        world.start_program("spin", &format!("spin{number}"), &format!("--cpu-ms {CPU_MS} --max 1")).await?;
        spinning.push(format!("ask.spin{number}"));
    }
    let host = world.host()?;
    let client = world.connection().client().clone();
    let mut alone = Requests::new(world.connection()).await?;
    let mut beside = Requests::new(world.connection()).await?;
    let count = bench.work(REQUESTS);
    let mut sides = [
        side(ALONE, async || {
            let outcome = alone.run(&good, count, 128, Pace::Rate(RATE), true).await?;
            Ok(Reading::checked(outcome.checks).with_percentiles(outcome.latencies_us))
        }),
        side(BESIDE, async || {
            for _ in 0..MESSAGES {
                for subject in &spinning {
                    client.publish(subject.clone(), "spin".into()).await?;
                }
            }
            let outcome = beside.run(&good, count, 128, Pace::Rate(RATE), true).await?;
            until_quiet(host).await?;
            Ok(Reading::checked(outcome.checks).with_percentiles(outcome.latencies_us))
        }),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    world.close().await?;
    let what = |metric: &str| format!("good actors beside {SPINNING} that spin: {metric}");
    let lines = vec![
        Line::compare(what("p50"), "us", &samples, "p50", (BESIDE, ALONE))?,
        Line::compare(what("p99"), "us", &samples, "p99", (BESIDE, ALONE))?.goal(Goal::RatioAtMost(2.0)),
    ];
    Ok(Outcome::of(&samples, lines))
}

/// Waits until the last spinning call was ended.
async fn until_quiet(host: Process) -> Result<(), Error> {
    loop {
        let before = host.cpu()?;
        tokio::time::sleep(LOOK).await;
        if host.cpu()?.saturating_sub(before).as_secs_f64() < QUIET * LOOK.as_secs_f64() {
            return Ok(());
        }
    }
}
