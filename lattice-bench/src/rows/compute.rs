//! How fast a guest computes: five kernels, the same source as a guest and natively.
//!
//! CPU time of this process is compared, not time: a guest that computes gives way to others now and then.

use std::time::Instant;

use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute};

use crate::Error;
use crate::bench::Bench;
use crate::counters::cpu_time;
use crate::rounds::{Checks, Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{Stage, links_in_memory, message};
use crate::stats::{Estimate, geometric_mean};

#[path = "../../../tests/programs/src/kernels.rs"]
#[expect(unreachable_pub, reason = "the same file is a public module of the guests' library")]
mod kernels;

/// Time that one side takes in a round, in seconds: far longer than the call that starts it.
const TARGET: f64 = 0.015;
/// Times that a kernel is run to find out how often it fits into that.
const PROBE: u64 = 8;

/// All kernels.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let stage = Stage::start(bench, "compute", 16)?;
    let actor = stage.actor(&bench.program("compute")?, InstancePolicy::Resident, links_in_memory().await?).await?;
    let mut outcome = Outcome::default();
    let mut ratios: Vec<Vec<f64>> = Vec::new();
    for (name, kernel) in kernels::ALL {
        let times = repetitions(kernel);
        let expected = kernels::run(kernel, times);
        let mut sides = [
            side("lattice", async || guest(&actor, format!("{name} {times} {expected}")).await),
            side("native", async || {
                let start = cpu_time();
                let right = kernels::run(kernel, times) == expected;
                let checks = Checks { right: u64::from(right), wrong: u64::from(!right), ..Checks::default() };
                Ok(Reading::checked(checks).with("ms", (cpu_time() - start).as_secs_f64() * 1e3))
            }),
        ];
        let samples = interleave(bench.rounds, &mut sides).await?;
        drop(sides);
        // Speed, not time: more is better, 1 is native.
        ratios.push(samples.all("native", "ms")?.iter().zip(samples.all("lattice", "ms")?).map(|(native, guest)| native / guest).collect());
        let line = Line::compare(format!("kernel {name}, CPU time"), "ms", &samples, "ms", ("lattice", "native"))?;
        outcome = outcome.and(Outcome::of(&samples, vec![line]));
    }
    let rounds = (0..bench.rounds).filter_map(|round| {
        let each: Vec<f64> = ratios.iter().filter_map(|kernel| kernel.get(round).copied()).collect();
        geometric_mean(&each)
    });
    let mean = Estimate::of(&rounds.collect::<Vec<_>>()).ok_or("no rounds")?;
    let line = Line { ratio: Some(mean), ..Line::of("guest speed by native, geometric mean", "of native", "lattice", mean.median) };
    outcome.lines.push(line.goal(Goal::RatioAtLeast(0.6)).note("more is better"));
    Ok(outcome)
}

fn repetitions(kernel: kernels::Kernel) -> u64 {
    let start = Instant::now();
    std::hint::black_box(kernels::run(kernel, PROBE));
    let fits = u32::try_from(start.elapsed().as_micros().max(1)).map_or(0.0, |micros| TARGET * 1e6 * 8.0 / f64::from(micros));
    (1_u32..10_000).find(|count| f64::from(*count) >= fits).map_or(1, u64::from)
}

async fn guest(actor: &Actor, command: String) -> Result<Reading, Error> {
    let start = cpu_time();
    let outcome = actor.handle_message(message(command), ReplyRoute::None).await;
    let elapsed = cpu_time() - start;
    let checks = Checks { right: u64::from(outcome.is_ok()), wrong: u64::from(outcome.is_err()), ..Checks::default() };
    Ok(Reading::checked(checks).with("ms", elapsed.as_secs_f64() * 1e3))
}
