//! Request and reply through NATS: an actor, resident or fresh for each message, against a native responder.
//!
//! Open loop at a low rate, so that nobody waits for anybody else and the answer is the path alone.

use crate::Error;
use crate::bench::Bench;
use crate::load::{Pace, Requests};
use crate::process::{Place, Process};
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stats::to_f64;
use crate::world::{Peer, World};

/// Requests a second: some two milliseconds between two.
const RATE: u32 = 500;
/// Requests of one side in one round.
const REQUESTS: usize = 250;
/// Size of a usual request in bytes.
const SMALL: usize = 128;
/// Size of a large one.
const LARGE: usize = 64 * 1024;
/// The two actors and the native program.
const WARM: &str = "warm";
const FRESH: &str = "fresh";
const NATIVE: &str = "native";
/// Subject of the native program; actors have those that their links name.
const NATIVE_SUBJECT: &str = "ask.native";

/// Round trips and CPU time.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let world = World::start(bench, Place::Measured).await?;
    world.start_program("echo", WARM, "--policy resident --max 1").await?;
    world.start_program("echo", FRESH, "--policy per-message --max 1").await?;
    let native = Peer::native(Place::Measured, &["responder", "--nats-url", &world.nats_url(), "--subject", NATIVE_SUBJECT]).await?;
    let small = compare(bench, &world, &native, SMALL).await?;
    let large = compare(bench, &world, &native, LARGE).await?;
    native.stop().await?;
    world.close().await?;
    Ok(small.and(large))
}

async fn compare(bench: &Bench, world: &World<'_>, native: &Peer, bytes: usize) -> Result<Outcome, Error> {
    let (host, native) = (world.host()?, native.process()?);
    let count = bench.work(REQUESTS);
    let subject = |id: &str| [format!("ask.{id}")];
    let mut asked =
        [Requests::new(world.connection()).await?, Requests::new(world.connection()).await?, Requests::new(world.connection()).await?];
    let [warm, fresh, plain] = &mut asked;
    let mut sides = [
        side(WARM, async || measure(warm, &subject(WARM), host, count, bytes).await),
        side(FRESH, async || measure(fresh, &subject(FRESH), host, count, bytes).await),
        side(NATIVE, async || measure(plain, &subject(NATIVE), native, count, bytes).await),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    let size = if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) };
    let (warm_goal, fresh_goal) = (Goal::RatioAtMost(1.1), Goal::RatioAtMost(1.25));
    let mut lines = Vec::new();
    for (side, kind, goal) in [(WARM, "warm actor", warm_goal), (FRESH, "fresh instance", fresh_goal)] {
        for metric in ["p1", "p50", "p99"] {
            let line = Line::compare(format!("request-reply, {kind}, {size}: {metric}"), "us", &samples, metric, (side, NATIVE))?;
            lines.push(if metric == "p50" { line.goal(goal) } else { line });
        }
        let line = Line::compare(format!("request-reply, {kind}, {size}: CPU time"), "us", &samples, "cpu", (side, NATIVE))?;
        lines.push(
            if side == WARM { line.goal(Goal::RatioAtMost(2.0)) } else { line }.note("of the host process or the responder, per request"),
        );
        lines.push(
            Line::compare(format!("request-reply, {kind}, {size}: waits"), "", &samples, "waits", (side, NATIVE))?
                .note("voluntary context switches per request"),
        );
    }
    Ok(Outcome::of(&samples, lines))
}

async fn measure(requests: &mut Requests, subject: &[String], process: Process, count: usize, bytes: usize) -> Result<Reading, Error> {
    let (cpu, waits) = (process.cpu()?, process.waits()?);
    let outcome = requests.run(subject, count, bytes, Pace::Rate(RATE), true).await?;
    let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6;
    let waits = usize::try_from(process.waits()?.saturating_sub(waits))?;
    let reading = Reading::checked(outcome.checks).with("cpu", cpu / to_f64(count)).with("waits", to_f64(waits) / to_f64(count));
    Ok(reading.with_percentiles(outcome.latencies_us))
}
