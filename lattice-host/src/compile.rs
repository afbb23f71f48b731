//! `lattice-host compile`: turns one component into machine code in a process of its own.
//!
//! Compiling is the one step whose cost an author of hostile code can choose, so it happens where it cannot hurt: the
//! child limits its own memory, CPU time and file size before it reads a byte, runs at low priority, and is killed by its
//! parent when it takes too long. It reads wasm on standard input and writes the artifact to a file that the parent named.
//!
//! The parent is [`crate::runtime`]; nobody else calls this.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use lattice_core::admission::MAX_COMPONENT_BYTES;
use rustix::process::{Resource, Rlimit, nice, setrlimit};

use crate::runtime::engine::{Purpose, engine};

/// Exit code: the input is no component that can be compiled; standard error says why.
pub(crate) const EXIT_INVALID: u8 = 2;
/// Exit code: the child could not do its work (arguments, limits, files); standard error says why.
pub(crate) const EXIT_FAILED: u8 = 3;

/// Priority of the child below the host's: a node that compiles keeps handling messages.
const NICENESS: i32 = 10;
/// Address space in multiples of the memory limit: reservations that are never touched (thread arenas, guard areas).
const ADDRESS_SPACE_FACTOR: u64 = 4;

/// What the parent asks for; order and count are the whole protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// File to write the artifact to.
    pub(crate) output: PathBuf,
    /// Data memory in bytes.
    pub(crate) memory_bytes: u64,
    /// CPU time in seconds, summed over threads.
    pub(crate) cpu_seconds: u64,
    /// Largest artifact in bytes.
    pub(crate) output_bytes: u64,
}

impl Job {
    /// The arguments after `compile`.
    pub(crate) fn to_args(&self) -> [OsString; 4] {
        [
            self.output.clone().into(),
            self.memory_bytes.to_string().into(),
            self.cpu_seconds.to_string().into(),
            self.output_bytes.to_string().into(),
        ]
    }

    fn from_args(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter();
        let output = args.next()?.into();
        let mut number = || args.next()?.to_str()?.parse().ok();
        let job = Self { output, memory_bytes: number()?, cpu_seconds: number()?, output_bytes: number()? };
        args.next().is_none().then_some(job)
    }
}

/// Why the child ends without an artifact.
#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error("usage: lattice-host compile OUTPUT MEMORY-BYTES CPU-SECONDS OUTPUT-BYTES < component.wasm")]
    Usage,
    #[error("cannot limit {what}")]
    Limit { what: &'static str, source: rustix::io::Errno },
    #[error("cannot read the component")]
    Read(#[source] std::io::Error),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot build the compiler: {0:#}")]
    Engine(wasmtime::Error),
    #[error("{0:#}")]
    Invalid(wasmtime::Error),
}

impl ChildError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => EXIT_INVALID,
            Self::Usage | Self::Limit { .. } | Self::Read(_) | Self::Write { .. } | Self::Engine(_) => EXIT_FAILED,
        }
    }
}

/// The whole child: `args` are those after `compile`. Call it first thing in `main`, before threads or a runtime start.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = lattice_core::error::chain(&error).join(": ");
            // Nobody is left to tell if the parent is gone.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), ChildError> {
    let job = Job::from_args(args).ok_or(ChildError::Usage)?;
    confine(&job)?;
    let mut wasm = Vec::new();
    std::io::stdin().lock().take(MAX_COMPONENT_BYTES.saturating_add(1)).read_to_end(&mut wasm).map_err(ChildError::Read)?;
    let engine = engine(Purpose::Compile).map_err(ChildError::Engine)?;
    let artifact = engine.precompile_component(&wasm).map_err(ChildError::Invalid)?;
    std::fs::write(&job.output, artifact).map_err(|source| ChildError::Write { path: job.output, source })
}

/// Takes away what the job may not use. Limits can only be lowered later, never raised.
fn confine(job: &Job) -> Result<(), ChildError> {
    let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    // One second between the signal that says why and the one that says nothing.
    let cpu = Rlimit { current: Some(job.cpu_seconds), maximum: Some(job.cpu_seconds.saturating_add(1)) };
    let limits = [
        ("core dumps", Resource::Core, both(0)),
        ("memory", Resource::Data, both(job.memory_bytes)),
        ("address space", Resource::As, both(job.memory_bytes.saturating_mul(ADDRESS_SPACE_FACTOR))),
        ("CPU time", Resource::Cpu, cpu),
        ("file size", Resource::Fsize, both(job.output_bytes)),
    ];
    for (what, resource, limit) in limits {
        setrlimit(resource, limit).map_err(|source| ChildError::Limit { what, source })?;
    }
    // A container may forbid it; then the child merely competes on equal terms.
    let _ = nice(NICENESS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_round_trip() {
        let job = Job { output: "/a/b c".into(), memory_bytes: 1, cpu_seconds: 2, output_bytes: 3 };
        assert_eq!(Job::from_args(job.to_args()), Some(job.clone()));
        let check = |args: &[&str]| assert_eq!(Job::from_args(args.iter().map(OsString::from)), None, "{args:?}");
        check(&[]);
        check(&["out", "1", "2"]);
        check(&["out", "1", "two", "3"]);
        check(&["out", "1", "2", "3", "4"]);
    }
}
