//! Code that is on the disk already: from its file in the authenticated cache to the first reply.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::id::Digest;
use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{Actor, ReplyRoute, Runtime};
use provider_api::keyvalue::KeyValue as _;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;
use crate::bench::Bench;
use crate::counters::cpu_time;
use crate::rounds::{Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{self, Nobody, Stage, links, message};
use crate::stats::median;

/// Loads in one round.
const LOADS: usize = 20;
/// Compilations; each takes long enough to be told from noise.
const COMPILATIONS: usize = 3;
/// Bytes of a page.
const PAGE: usize = 4096;
/// A reading that is not too hot: one result, no alert.
const READING: &str = r#"{"device_id":"sensor-001","temperature":21.5,"humidity":48.3,"timestamp":1718668800,"region":"bench"}"#;

/// edge-processor from the cache.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let wasm = Bytes::from(std::fs::read(bench.actor("edge_processor"))?);
    let compile = compile_times(bench, &wasm).await?;
    let stage = Stage::start(bench, "code", 16)?;
    drop(stage.load(&wasm).await?);
    let digest = Digest::of(&wasm);
    let file = std::fs::read_dir(&stage.cache)?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = file.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).ok_or("nothing is cached")?;
    let size = std::fs::metadata(&file)?.len();
    let count = bench.work(LOADS);
    let mut sides = [
        side("lattice", async || {
            let (mut times, cpu) = (Vec::new(), cpu_time());
            for _ in 0..count {
                let start = Instant::now();
                first_reply(&stage.runtime, &digest).await?;
                times.push(start.elapsed());
            }
            reading(&times, cpu_time() - cpu)
        }),
        side("floor", async || {
            let (mut times, cpu) = (Vec::new(), cpu_time());
            for _ in 0..count {
                let start = Instant::now();
                touch_and_hash(&file)?;
                times.push(start.elapsed());
            }
            reading(&times, cpu_time() - cpu)
        }),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let note = format!("{} KiB on disk; floor: map, touch and hash the same file", size / 1024);
    let cold = Line::compare("cached code to first reply, p50", "ms", &samples, "p50", ("lattice", "floor"))?;
    let cpu = Line::compare("the same, CPU time of all threads", "ms", &samples, "cpu", ("lattice", "floor"))?;
    let absolute = Line { note: "the same number, absolute".to_owned(), ..Line::of(&cold.what, "ms", "lattice", cold.ours) };
    let times = format!("{} KiB of WebAssembly; a child process, {} runs", wasm.len() / 1024, compile.len());
    let lines = vec![
        cold.goal(Goal::RatioAtMost(4.0)).note(note),
        absolute.goal(Goal::AtMost(1.0)),
        cpu.note("unlike the time it does not depend on what else the machine does"),
        Line::of("compiling the same", "ms", "lattice", median(&compile).ok_or("no compilation")?).note(times),
    ];
    Ok(Outcome::of(&samples, lines))
}

fn reading(times: &[Duration], cpu: Duration) -> Result<Reading, Error> {
    let millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let each = cpu.as_secs_f64() * 1e3 / f64::from(u32::try_from(times.len())?);
    Ok(Reading::right(u64::try_from(times.len())?).with_percentiles(millis).with("cpu", each))
}

/// Loads what the cache has, links it and has it process a reading.
///
/// # Errors
/// The runtime's, or the reading had another effect than it should.
pub(crate) async fn first_reply(runtime: &Runtime, digest: &Digest) -> Result<(), Error> {
    let bus = Arc::new(Nobody::default());
    let bucket = provider_kv_memory::KvMemory::new().open("bench").await?;
    let loaded = runtime.load(digest, async { Err::<Bytes, _>(std::io::Error::other("it should be cached")) }).await?;
    let actor = Actor::new(runtime, loaded, stage::settings(InstancePolicy::PerMessage)?, links(bucket.clone(), bus.clone())?)?;
    actor.handle_message(message(READING), ReplyRoute::Capture).await?.reply.ok_or("no reply")?;
    // The value, the counter, the result: all of it happened once.
    match (bus.published(), bucket.list_keys(None).await?.keys.len()) {
        (1, 2) => Ok(()),
        (published, keys) => Err(format!("{published} messages and {keys} keys instead of 1 and 2").into()),
    }
}

/// How long compiling takes in milliseconds, each time into an empty cache.
async fn compile_times(bench: &Bench, wasm: &Bytes) -> Result<Vec<f64>, Error> {
    let mut times = Vec::new();
    for number in 0..bench.work(COMPILATIONS) {
        let stage = Stage::start(bench, &format!("compile-{number}"), 1)?;
        let start = Instant::now();
        stage.load(wasm).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Maps a file, reads a byte of each page, hashes all of it.
fn touch_and_hash(path: &Path) -> Result<(), Error> {
    let file = std::fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())?;
    #[expect(unsafe_code, reason = "a mapping is what the floor consists of")]
    // SAFETY: a new mapping, private and read-only, that ends below; nobody writes to the file meanwhile.
    let (start, bytes) = unsafe {
        let start = mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0)?;
        (start, std::slice::from_raw_parts(start.cast::<u8>(), length))
    };
    let touched: usize = bytes.chunks(PAGE).filter_map(|page| page.first()).map(|byte| usize::from(*byte)).sum();
    std::hint::black_box((touched, ring::digest::digest(&ring::digest::SHA256, bytes)));
    #[expect(unsafe_code, reason = "ends the mapping")]
    // SAFETY: mapped above with this length, and not used below.
    unsafe {
        munmap(start, length)?;
    }
    Ok(())
}
