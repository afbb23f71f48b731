//! Failovers: from the failure of a host to the first good result elsewhere, and that nobody is taken for dead who lives.
//!
//! Each repetition fails the worker that handles the flow, waits for the first result of another one, and reads the steps
//! from the failover actor's own record. Steps are counted from the failure: the record says when it was noticed by the wall
//! clock, which is the same clock here.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::Error;
use crate::bench::Bench;
use crate::fleet::{Fleet, Simulated};
use crate::flow::{Flow, Gap};
use crate::rounds::Checks;
use crate::rows::{Goal, Line, Outcome};
use crate::stats::{quantile, to_f64};

/// Readings a second.
const RATE: u32 = 1_000;
/// Failures that count, of each kind.
const REPETITIONS: usize = 10;
/// Failures in one lattice: an actor whose third host dies soon after it came there is put in quarantine.
const IN_ONE_LATTICE: usize = 2;
/// The same in a quick run.
const FEW: usize = 2;
/// Workers at each time: the one that fails, and others to choose from.
const WORKERS: usize = 3;
/// From one failure to the next: three suspects of so few hosts within 30 s would freeze the site.
const BETWEEN: Duration = Duration::from_secs(16);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long nobody fails: as the goal says, as a rule, and in a quick run.
const QUIET: [Duration; 3] = [Duration::from_secs(600), Duration::from_secs(60), Duration::from_secs(10)];
/// Simulated hosts.
const CROWDS: [usize; 2] = [100, 1_000];
/// How long the crowd is watched while every core is busy.
const CROWD_QUIET: Duration = Duration::from_secs(20);

/// How a worker fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Killed,
    Silent,
}

/// `kill -9`.
pub(crate) async fn killed(bench: &Bench) -> Result<Outcome, Error> {
    let measured = in_lattices(bench, Failure::Killed, times(bench), 0).await?;
    let mut lines = measured.lines("kill -9", "", [Some(150.0), Some(500.0)])?;
    lines.extend(measured.steps("kill -9", "")?);
    Ok(measured.outcome(lines))
}

/// SIGSTOP.
pub(crate) async fn silent(bench: &Bench) -> Result<Outcome, Error> {
    let measured = in_lattices(bench, Failure::Silent, times(bench), 0).await?;
    let mut lines = measured.lines("SIGSTOP", "", [None, Some(5_000.0)])?;
    lines.extend(measured.steps("SIGSTOP", "")?);
    Ok(measured.outcome(lines))
}

/// Nobody fails.
pub(crate) async fn quiet(bench: &Bench) -> Result<Outcome, Error> {
    let [long, usual, short] = QUIET;
    let time = if bench.long {
        long
    } else if bench.quick {
        short
    } else {
        usual
    };
    let mut fleet = Fleet::start(bench, WORKERS).await?;
    let flow = Flow::start(fleet.connection(), RATE).await?;
    flow.node(PATIENCE).await?;
    let dead = undisturbed(&mut fleet, time).await?;
    let (mut checks, again) = flow.finish().await?;
    checks.wrong += u64::try_from(dead.len())?;
    let line = Line::of("hosts taken for dead", "", "lattice", to_f64(dead.len())).goal(Goal::AtMost(0.0));
    let seconds = time.as_secs();
    let note = format!("{seconds} s, every core busy twice over, {RATE} readings a second, {again} handled twice{}", named(&dead));
    Ok(Outcome { lines: vec![line.note(note)], checks, ..Outcome::default() })
}

/// All of it beside hosts that are only heard.
pub(crate) async fn crowds(bench: &Bench) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    for count in CROWDS {
        let beside = format!(" beside {count} hosts");
        let [long, _, short] = QUIET;
        let time = if bench.long {
            long
        } else if bench.quick {
            short
        } else {
            CROWD_QUIET
        };
        let (mut fleet, crowd) = beside_a_crowd(bench, count).await?;
        let dead = undisturbed(&mut fleet, time).await?;
        drop((fleet, crowd));
        let quiet = Line::of(format!("hosts taken for dead{beside}"), "", "lattice", to_f64(dead.len())).goal(Goal::AtMost(0.0));
        let quiet = quiet.note(format!("{} s, every core busy twice over{}", time.as_secs(), named(&dead)));
        let times = if bench.long { REPETITIONS } else { FEW };
        let killed = in_lattices(bench, Failure::Killed, times, count).await?;
        let silent = in_lattices(bench, Failure::Silent, times, count).await?;
        let mut lines = vec![quiet];
        lines.extend(killed.lines("kill -9", &beside, [Some(150.0), Some(500.0)])?);
        lines.extend(killed.steps("kill -9", &beside)?);
        lines.extend(silent.lines("SIGSTOP", &beside, [None, Some(5_000.0)])?);
        lines.extend(silent.steps("SIGSTOP", &beside)?);
        let mut more = killed.outcome(lines).and(silent.outcome(Vec::new()));
        more.checks.wrong += u64::try_from(dead.len())?;
        outcome = outcome.and(more);
    }
    Ok(outcome)
}

/// A lattice in which `count` simulated hosts are known beside its own.
async fn beside_a_crowd(bench: &Bench, count: usize) -> Result<(Fleet<'_>, Option<Simulated>), Error> {
    let fleet = Fleet::start(bench, WORKERS).await?;
    if count == 0 {
        return Ok((fleet, None));
    }
    let crowd = fleet.simulate(count)?;
    // Everybody has to be known before anything is measured.
    tokio::time::sleep(BETWEEN).await;
    Ok((fleet, Some(crowd)))
}

/// As many failures of a kind, few in each lattice, beside `crowd` simulated hosts.
async fn in_lattices(bench: &Bench, failure: Failure, times: usize, crowd: usize) -> Result<Measured, Error> {
    let mut left = times;
    let mut measured = Measured::default();
    while left > 0 {
        let count = left.min(IN_ONE_LATTICE);
        let (mut fleet, _crowd) = beside_a_crowd(bench, crowd).await?;
        measured.add_all(measure(&mut fleet, failure, count).await?);
        left -= count;
    }
    Ok(measured)
}

/// Failures that a run of `bench` takes.
fn times(bench: &Bench) -> usize {
    if bench.quick { FEW } else { REPETITIONS }
}

fn named(dead: &[String]) -> String {
    if dead.is_empty() { String::new() } else { format!("; {}", dead.join(", ")) }
}

/// Lets time pass with every core busy; who was taken for dead.
async fn undisturbed(fleet: &mut Fleet<'_>, time: Duration) -> Result<Vec<String>, Error> {
    fleet.taken_for_dead().await;
    let hogs = Hogs::start()?;
    tokio::time::sleep(time).await;
    drop(hogs);
    Ok(fleet.taken_for_dead().await)
}

/// Processes that keep every core busy, twice over. Dropped, they are killed.
struct Hogs {
    _children: Vec<Child>,
}

impl Hogs {
    fn start() -> Result<Self, Error> {
        let cores = std::thread::available_parallelism()?.get();
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).kill_on_drop(true).spawn();
        Ok(Self { _children: (0..cores * 2).map(|_| spin()).collect::<Result<_, _>>()? })
    }
}

/// What the repetitions gave, in milliseconds after the failure.
#[derive(Default)]
struct Measured {
    first_elsewhere: Vec<f64>,
    longest_pause: Vec<f64>,
    detected: Vec<f64>,
    decided: Vec<f64>,
    planned: Vec<f64>,
    applied: Vec<f64>,
    first_result: Vec<f64>,
    checks: Checks,
    again: u64,
}

async fn measure(fleet: &mut Fleet<'_>, failure: Failure, repetitions: usize) -> Result<Measured, Error> {
    let flow = Flow::start(fleet.connection(), RATE).await?;
    let mut measured = Measured::default();
    for _ in 0..repetitions {
        let begun = Instant::now();
        let worker = flow.node(PATIENCE).await?;
        fleet.taken_for_dead().await;
        flow.watch(&worker);
        let failed_ms = fleet.signal(&worker, if failure == Failure::Killed { Signal::KILL } else { Signal::STOP })?;
        let gap = flow.gap(PATIENCE).await?;
        let record = fleet.record(&worker).await?;
        measured.add(failed_ms, gap, &record);
        fleet.remove(&worker).await?;
        fleet.add_worker().await?;
        tokio::time::sleep(BETWEEN.saturating_sub(begun.elapsed())).await;
    }
    (measured.checks, measured.again) = flow.finish().await?;
    Ok(measured)
}

impl Measured {
    fn add_all(&mut self, other: Self) {
        let values = [
            (&mut self.first_elsewhere, other.first_elsewhere),
            (&mut self.longest_pause, other.longest_pause),
            (&mut self.detected, other.detected),
            (&mut self.decided, other.decided),
            (&mut self.planned, other.planned),
            (&mut self.applied, other.applied),
            (&mut self.first_result, other.first_result),
        ];
        for (all, more) in values {
            all.extend(more);
        }
        self.checks.add(&other.checks);
        self.again += other.again;
    }

    fn add(&mut self, failed_ms: u64, gap: Gap, record: &lattice_core::wire::failover::Failover) {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        self.first_elsewhere.push(ms(gap.first_elsewhere));
        self.longest_pause.push(ms(gap.longest));
        let noticed = record.at_ms.saturating_sub(failed_ms);
        self.detected.push(ms(Duration::from_millis(noticed)));
        let steps = record.steps;
        let all = [
            (&mut self.decided, steps.decided_ms),
            (&mut self.planned, steps.planned_ms),
            (&mut self.applied, steps.applied_ms),
            (&mut self.first_result, steps.first_result_ms),
        ];
        for (values, step) in all {
            values.extend(step.map(|step| ms(Duration::from_millis(noticed.saturating_add(step)))));
        }
    }

    /// What the one who waits for results sees.
    fn lines(&self, how: &str, beside: &str, [p50, p99]: [Option<f64>; 2]) -> Result<Vec<Line>, Error> {
        let what = format!("{how}{beside} to first good result elsewhere");
        let line = |part: &str, q: f64, goal: Option<f64>| -> Result<Line, Error> {
            let line = Line::of(format!("{what}, {part}"), "ms", "lattice", of(&self.first_elsewhere, q)?);
            Ok(goal.map_or(line.clone(), |limit| line.goal(Goal::AtMost(limit))))
        };
        let count = self.first_elsewhere.len();
        let pause = Line::of(format!("{how}{beside}: longest pause of results, p50"), "ms", "lattice", of(&self.longest_pause, 0.5)?);
        Ok(vec![
            line("p50", 0.5, p50)?.note(format!("{count} times, {RATE} readings a second, {} of them handled twice", self.again)),
            line("p99", 0.99, p99)?,
            pause,
        ])
    }

    /// The steps by the failover actor's record.
    fn steps(&self, how: &str, beside: &str) -> Result<Vec<Line>, Error> {
        let steps = [
            ("noticed", &self.detected),
            ("decided", &self.decided),
            ("planned", &self.planned),
            ("applied", &self.applied),
            ("first result, as recorded", &self.first_result),
        ];
        let known = steps.into_iter().filter(|(_, values)| !values.is_empty());
        known
            .map(|(step, values)| {
                let line = Line::of(format!("{how}{beside} to {step}, p50"), "ms", "lattice", of(values, 0.5)?);
                Ok(line.note(format!("p99 {:.0} ms, {} records", of(values, 0.99)?, values.len())))
            })
            .collect()
    }

    fn outcome(&self, lines: Vec<Line>) -> Outcome {
        Outcome { lines, checks: self.checks, ..Outcome::default() }
    }
}

fn of(values: &[f64], q: f64) -> Result<f64, Error> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, q).ok_or_else(|| "nothing was measured".into())
}
