//! Key-value from within a guest, per backend, against the client library alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use lattice_core::id::{BucketName, LatticeName};
use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute};
use lattice_nats::server::{Server, ServerConfig, find_server};
use provider_api::keyvalue::{Bucket, KeyValue as _};

use crate::Error;
use crate::bare::{Bare, BareInstance};
use crate::bench::Bench;
use crate::rounds::{Checks, Reading, Samples, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{Nobody, SUBJECT, Stage, links, message};

/// The key of all operations.
pub(super) const KEY: &str = "bench.value";
/// Bytes of its value.
pub(super) const VALUE_BYTES: usize = 64;
/// Operations in one message to a guest, in memory: the message itself is lost in them.
const IN_MEMORY: u32 = 5000;
/// The same over NATS.
const OVER_NATS: u32 = 200;
/// Name of the bucket.
const BUCKET: &str = "bench";

/// The backend in memory, against a direct call and against a host function that does nothing.
pub(crate) async fn memory(bench: &Bench) -> Result<Outcome, Error> {
    let wasm = bench.program("kv-loop")?;
    let stage = Stage::start(bench, "keyvalue-memory", 16)?;
    let bucket = provider_kv_memory::KvMemory::new().open(BUCKET).await?;
    let actor = stage.actor(&wasm, InstancePolicy::Resident, links(bucket.clone(), Arc::new(Nobody::default()))?).await?;
    let mut bare = Bare::with_buckets(&wasm, value())?.instance()?;
    let times = if bench.quick { IN_MEMORY / 10 } else { IN_MEMORY };
    bucket.set(KEY, value().into()).await?;
    let mut outcome = Outcome::default();
    for verb in ["set", "get"] {
        let command: &'static str = format!("{verb} {times} {KEY} {VALUE_BYTES}").leak();
        let mut sides = [
            side("lattice", async || guest(&actor, command, times).await),
            side("direct", async || direct(&*bucket, verb, times).await),
            side("no-op host call", async || no_op(&mut bare, command, times)),
        ];
        let samples = interleave(bench.rounds, &mut sides).await?;
        drop(sides);
        let line = |other, metric| Line::compare(format!("kv-memory {verb}"), "us", &samples, metric, ("lattice", other));
        let lines = vec![line("no-op host call", "us")?.goal(Goal::RatioAtMost(3.0)), line("direct", "us")?];
        outcome = outcome.and(Outcome::of(&samples, lines));
    }
    Ok(outcome)
}

/// The backend over NATS, against async-nats alone.
pub(crate) async fn nats(bench: &Bench) -> Result<Outcome, Error> {
    let config = ServerConfig::new(bench.scratch.join("keyvalue-server"), LatticeName::new("bench")?);
    let server = Server::start(&find_server(None)?, &config).await?;
    let outcome = over_nats(bench, &server).await;
    server.stop().await?;
    outcome
}

async fn over_nats(bench: &Bench, server: &Server) -> Result<Outcome, Error> {
    let connection = lattice_nats::connect(&lattice_nats::ConnectOptions::new(server.url(), "lattice-bench")).await?;
    lattice_nats::bucket::ensure(&connection, &BucketName::new(BUCKET)?, None).await?;
    let bucket = provider_kv_nats::KvNats::new(connection.clone()).open(BUCKET).await?;
    let stage = Stage::start(bench, "keyvalue-nats", 16)?;
    let wasm = bench.program("kv-loop")?;
    let actor = stage.actor(&wasm, InstancePolicy::Resident, links(bucket, Arc::new(Nobody::default()))?).await?;
    let store = jetstream::new(connection.client().clone()).get_key_value(BUCKET).await?;
    let times = if bench.quick { OVER_NATS / 10 } else { OVER_NATS };
    let mut outcome = Outcome::default();
    for verb in ["set", "get"] {
        let command: &'static str = format!("{verb} {times} {KEY} {VALUE_BYTES}").leak();
        let mut sides = [
            side("lattice", async || guest(&actor, command, times).await),
            side("async-nats", async || library(&store, verb, times).await),
        ];
        let samples = interleave(bench.rounds, &mut sides).await?;
        drop(sides);
        outcome = outcome.and(Outcome::of(&samples, vec![nats_line(verb, &samples)?]));
    }
    Ok(outcome)
}

fn nats_line(verb: &str, samples: &Samples) -> Result<Line, Error> {
    let line = Line::compare(format!("kv-nats {verb}"), "us", samples, "us", ("lattice", "async-nats"))?;
    Ok(line.goal(Goal::RatioAtMost(1.1)))
}

/// One message that makes the guest do all operations; it checks what it gets.
pub(super) async fn guest(actor: &Actor, command: &'static str, times: u32) -> Result<Reading, Error> {
    let start = Instant::now();
    let outcome = actor.handle_message(message(command), ReplyRoute::None).await;
    let elapsed = start.elapsed();
    Ok(reading(u64::from(outcome.is_err()) * u64::from(times), times, elapsed))
}

async fn direct(bucket: &dyn Bucket, verb: &str, times: u32) -> Result<Reading, Error> {
    let value = Bytes::from(value());
    let mut wrong = 0;
    let start = Instant::now();
    for _ in 0..times {
        if verb == "set" {
            bucket.set(KEY, value.clone()).await?;
        } else {
            wrong += u64::from(bucket.get(KEY).await? != Some(value.clone()));
        }
    }
    Ok(reading(wrong, times, start.elapsed()))
}

fn no_op(instance: &mut BareInstance, command: &'static str, times: u32) -> Result<Reading, Error> {
    let start = Instant::now();
    instance.call(SUBJECT, command.as_bytes())?;
    Ok(reading(0, times, start.elapsed()))
}

async fn library(store: &jetstream::kv::Store, verb: &str, times: u32) -> Result<Reading, Error> {
    let value = Bytes::from(value());
    let mut wrong = 0;
    let start = Instant::now();
    for _ in 0..times {
        if verb == "set" {
            store.put(KEY, value.clone()).await?;
        } else {
            wrong += u64::from(store.get(KEY).await? != Some(value.clone()));
        }
    }
    Ok(reading(wrong, times, start.elapsed()))
}

fn reading(wrong: u64, times: u32, elapsed: Duration) -> Reading {
    let checks = Checks { right: u64::from(times).saturating_sub(wrong), wrong, ..Checks::default() };
    Reading::checked(checks).with("us", elapsed.as_secs_f64() * 1e6 / f64::from(times))
}

pub(super) fn value() -> Vec<u8> {
    vec![b'v'; VALUE_BYTES]
}
