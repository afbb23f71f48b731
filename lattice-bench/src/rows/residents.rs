//! What live instances hold: memory of a process with 1, 100 and 1,000 of them.
//!
//! Each side is measured in a process of its own, which starts them one after the other and reads its own memory after each
//! step: what the allocator got back from an earlier measurement would hide what this one needs.

use std::process::Stdio;

use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bare::Bare;
use crate::bench::Bench;
use crate::process::Process;
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{SUBJECT, Stage, links_in_memory, message, settings};

/// How many instances are alive at each step.
const STEPS: [u32; 3] = [1, 100, 1000];
/// Rounds: memory hardly varies.
const ROUNDS: usize = 3;

/// What is measured in a process of its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Instances of wasmtime alone instead of actors
    #[arg(long)]
    bare: bool,
}

/// Memory after each step in KiB.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    private_kib: Vec<f64>,
    pss_kib: Vec<f64>,
}

impl Held {
    /// KiB per instance between the last two steps.
    fn marginal(&self) -> Option<f64> {
        let ([.., before, after], [.., few, many]) = (self.private_kib.as_slice(), STEPS.as_slice()) else { return None };
        Some((after - before) / f64::from(many - few))
    }

    fn reading(&self) -> Result<Reading, Error> {
        let [one, hundred, thousand] = self.private_kib.as_slice() else { return Err("three steps were expected".into()) };
        let mut reading = Reading::right(u64::from(STEPS.iter().copied().max().unwrap_or(0)));
        reading = reading.with("marginal", self.marginal().ok_or("no steps")?);
        reading = reading.with("private 1", one / 1024.0).with("private 100", hundred / 1024.0).with("private 1000", thousand / 1024.0);
        Ok(reading.with("pss 1000", self.pss_kib.last().copied().unwrap_or(0.0) / 1024.0))
    }
}

/// Actors against instances of wasmtime alone.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let mut sides =
        [side("lattice", async || measured(&[]).await?.reading()), side("wasmtime", async || measured(&["--bare"]).await?.reading())];
    let samples = interleave(bench.rounds.min(ROUNDS), &mut sides).await?;
    drop(sides);
    let against = ("lattice", "wasmtime");
    let line = |what: &str, unit, metric| Line::compare(what, unit, &samples, metric, against);
    let lines = vec![
        line("one more resident actor, private memory", "KiB", "marginal")?.goal(Goal::RatioAtMost(1.5)),
        line("1 live instance, private memory", "MiB", "private 1")?,
        line("100 live instances, private memory", "MiB", "private 100")?,
        line("1,000 live instances, private memory", "MiB", "private 1000")?,
        line("1,000 live instances, PSS", "MiB", "pss 1000")?,
    ];
    Ok(Outcome::of(&samples, lines))
}

async fn measured(flags: &[&str]) -> Result<Held, Error> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("residents").args(flags).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    if !output.status.success() {
        return Err(format!("residents: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The process of its own: prints what it holds.
///
/// # Errors
/// An instance that did not start, or answered wrongly.
pub(crate) async fn hold(arguments: &Arguments) -> Result<(), Error> {
    let scratch = tempfile::tempdir()?;
    let bench = Bench::new(true, scratch.path())?;
    let held = if arguments.bare { hold_bare(&bench)? } else { hold_actors(&bench).await? };
    serde_json::to_writer(std::io::stdout().lock(), &held)?;
    Ok(())
}

async fn hold_actors(bench: &Bench) -> Result<Held, Error> {
    let wasm = bench.program("touch-pages")?;
    let stage = Stage::start(bench, "residents", STEPS.iter().copied().max().unwrap_or(1))?;
    let (loaded, links) = (stage.load(&wasm).await?, links_in_memory().await?);
    let mut actors = Vec::new();
    let mut held = Held { private_kib: Vec::new(), pss_kib: Vec::new() };
    for step in STEPS {
        while u32::try_from(actors.len())? < step {
            let actor = Actor::new(&stage.runtime, loaded.clone(), settings(InstancePolicy::Resident)?, links.clone())?;
            actor.handle_message(message("fresh"), ReplyRoute::None).await?;
            actors.push(actor);
        }
        note(&mut held)?;
    }
    if stage.runtime.live_instances() != u32::try_from(actors.len())? {
        return Err(format!("{} instances live", stage.runtime.live_instances()).into());
    }
    Ok(held)
}

fn hold_bare(bench: &Bench) -> Result<Held, Error> {
    let bare = Bare::new(&bench.program("touch-pages")?, STEPS.iter().copied().max().unwrap_or(1))?;
    let mut instances = Vec::new();
    let mut held = Held { private_kib: Vec::new(), pss_kib: Vec::new() };
    for step in STEPS {
        while u32::try_from(instances.len())? < step {
            let mut instance = bare.instance()?;
            instance.call(SUBJECT, b"fresh")?;
            instances.push(instance);
        }
        note(&mut held)?;
    }
    Ok(held)
}

fn note(held: &mut Held) -> Result<(), Error> {
    let memory = Process { pid: std::process::id() }.memory()?;
    let kib = |count: u64| u32::try_from(count).map(f64::from);
    held.private_kib.push(kib(memory.private_dirty_kib)?);
    held.pss_kib.push(kib(memory.pss_kib)?);
    Ok(())
}
