//! A host that waits for work: what memory it takes, and how soon after its start it works.

use std::time::{Duration, Instant};

use crate::Error;
use crate::bench::Bench;
use crate::load::Requests;
use crate::process::{Place, Process};
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stats::to_f64;
use crate::world::{Peer, World};

/// Actors that the host has in its cache.
const ACTORS: usize = 10;
/// How long a program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long idleness is watched.
const WATCH: Duration = Duration::from_millis(500);
const HOST: &str = "lattice";
const NATIVE: &str = "native";

/// Memory and CPU time of a host with one actor that has answered once.
pub(crate) async fn memory(bench: &Bench) -> Result<Outcome, Error> {
    let world = World::start(bench, Place::Measured).await?;
    world.start_program("echo", "idle", "--policy resident --max 1").await?;
    let native = Peer::native(Place::Measured, &["responder", "--nats-url", &world.nats_url(), "--subject", "ask.native"]).await?;
    let subjects = ["ask.idle".to_owned(), "ask.native".to_owned()];
    Requests::new(world.connection()).await?.until_answered(&subjects, PATIENCE).await?;
    let (host, peer) = (world.host()?, native.process()?);
    let mut sides = [side(HOST, async || watch(host).await), side(NATIVE, async || watch(peer).await)];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    native.stop().await?;
    world.close().await?;
    let pair = (HOST, NATIVE);
    let lines = vec![
        Line::compare("idle host, 1 actor: PSS", "KiB", &samples, "pss", pair)?.goal(Goal::RatioAtMost(2.5)),
        Line::compare("idle host, 1 actor: private dirty", "KiB", &samples, "private", pair)?.goal(Goal::AtMost(8192.0)),
        Line::of("idle host, 1 actor: CPU time", "us/s", HOST, samples.value("cpu", HOST)?),
        Line::of("idle host, 1 actor: waits", "/s", HOST, samples.value("waits", HOST)?),
    ];
    Ok(Outcome::of(&samples, lines))
}

async fn watch(process: Process) -> Result<Reading, Error> {
    let (start, cpu, waits) = (Instant::now(), process.cpu()?, process.waits()?);
    tokio::time::sleep(WATCH).await;
    let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6;
    let waits = to_f64(usize::try_from(process.waits()?.saturating_sub(waits))?);
    let seconds = start.elapsed().as_secs_f64();
    let memory = process.memory()?;
    let kib = |kib: u64| usize::try_from(kib).map(to_f64);
    Ok(Reading::right(1)
        .with("pss", kib(memory.pss_kib)?)
        .with("private", kib(memory.private_dirty_kib)?)
        .with("cpu", cpu / seconds)
        .with("waits", waits / seconds))
}

/// From the start of the process until each of its actors has answered, code from the cache.
pub(crate) async fn ready(bench: &Bench) -> Result<Outcome, Error> {
    let mut world = World::start(bench, Place::Measured).await?;
    let mut subjects = Vec::new();
    for number in 0..ACTORS {
        let program = if number % 2 == 0 { "echo" } else { "counter" };
        world.start_program(program, &format!("a{number}"), "--policy resident --max 1").await?;
        subjects.push(format!("ask.a{number}"));
    }
    let mut ours = Requests::new(world.connection()).await?;
    let mut theirs = Requests::new(world.connection()).await?;
    ours.until_answered(&subjects, PATIENCE).await?;
    world.stop_host().await?;
    let url = world.nats_url();
    let native_subjects: Vec<String> = (0..ACTORS).map(|number| format!("ask.n{number}")).collect();
    let mut arguments = vec!["responder", "--nats-url", &url];
    for subject in &native_subjects {
        arguments.extend(["--subject", subject]);
    }
    let mut sides = [
        side(HOST, async || {
            let start = Instant::now();
            world.start_host()?;
            ours.until_answered(&subjects, PATIENCE).await?;
            let reading = Reading::right(1).with("ms", start.elapsed().as_secs_f64() * 1e3);
            world.stop_host().await?;
            Ok(reading)
        }),
        side(NATIVE, async || {
            let start = Instant::now();
            let peer = Peer::native_unready(Place::Measured, &arguments)?;
            theirs.until_answered(&native_subjects, PATIENCE).await?;
            let reading = Reading::right(1).with("ms", start.elapsed().as_secs_f64() * 1e3);
            peer.stop().await?;
            Ok(reading)
        }),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    world.close().await?;
    let what = format!("start of the process to {ACTORS} cached actors that answer");
    let line = Line::compare(what, "ms", &samples, "ms", (HOST, NATIVE))?.goal(Goal::RatioAtMost(3.0));
    let alone = Line::of("the same, by itself", "ms", HOST, samples.value("ms", HOST)?).goal(Goal::AtMost(25.0));
    Ok(Outcome::of(&samples, vec![line, alone]))
}
