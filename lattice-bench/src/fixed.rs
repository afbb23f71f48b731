//! Fixed runs: the same work each time, to be counted from outside by a tool that sees instructions or system calls.
//!
//! What one message costs is the difference of two runs by their difference in messages: starting, loading and the first
//! calls are the same in both.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::id::Digest;
use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::{CompileLimits, ReplyRoute};

use crate::Error;
use crate::bench::Bench;
use crate::rows::code::first_reply;
use crate::stage::{Stage, links_in_memory, message};

/// Bytes and time that compiling may take under a tool that makes everything fifty times slower.
const COMPILE_BYTES: u64 = 1 << 40;
const COMPILE_TIME: Duration = Duration::from_secs(600);
/// Messages before the ones that count: lazily made things are made by then.
const WARM_UP: u32 = 20;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// A fresh instance for each message
    Fresh,
    /// Messages to a resident instance
    Warm,
    /// Reads of one key by a resident instance, a hundred for each message
    KeyValue,
    /// edge-processor from the cache to its first reply, each time anew
    Code,
}

/// A fixed run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to do
    #[arg(value_enum)]
    work: Work,
    /// How many messages to hand to the actor
    #[arg(long)]
    times: u32,
    /// Folder of the compile cache
    #[arg(long)]
    cache: PathBuf,
}

/// Does the work and nothing else.
///
/// # Errors
/// A message that was not handled.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Error> {
    let bench = Bench::new(true, &arguments.cache)?;
    let limits = CompileLimits {
        program: bench.binary("lattice-host")?,
        memory_bytes: COMPILE_BYTES,
        cpu: COMPILE_TIME,
        wall: COMPILE_TIME,
        ..CompileLimits::default()
    };
    let stage = Stage::with_compiler(arguments.cache.clone(), 4, limits, false)?;
    if arguments.work == Work::Code {
        return code(&bench, &stage, arguments.times).await;
    }
    let (program, policy, prepare, body) = match arguments.work {
        Work::Fresh => ("touch-pages", InstancePolicy::PerMessage, None, "fresh"),
        Work::Warm => ("touch-pages", InstancePolicy::Resident, None, "warm"),
        Work::KeyValue | Work::Code => ("kv-loop", InstancePolicy::Resident, Some("set 1 key 64"), "get 100 key 64"),
    };
    let actor = stage.actor(&bench.program(program)?, policy, links_in_memory().await?).await?;
    if let Some(command) = prepare {
        actor.handle_message(message(command), ReplyRoute::None).await?;
    }
    let messages = tokio::task::coop::unconstrained(async {
        for _ in 0..WARM_UP.saturating_add(arguments.times) {
            actor.handle_message(message(body), ReplyRoute::None).await?;
        }
        Ok::<_, Error>(())
    });
    messages.await
}

async fn code(bench: &Bench, stage: &Stage, times: u32) -> Result<(), Error> {
    let wasm = Bytes::from(std::fs::read(bench.actor("edge_processor"))?);
    drop(stage.load(&wasm).await?);
    let digest = Digest::of(&wasm);
    for _ in 0..times {
        first_reply(&stage.runtime, &digest).await?;
    }
    Ok(())
}
