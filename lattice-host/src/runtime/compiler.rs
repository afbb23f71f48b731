//! The parent of the compiling child: one at a time, with a wall clock, and with words for how it ended.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::compile::{EXIT_FAILED, EXIT_INVALID, Job};

/// How much of what the child says is kept, in bytes.
const MAX_STDERR_BYTES: u64 = 16 * 1024;
/// What the allocator of a Rust program prints before it aborts.
const OUT_OF_MEMORY_TEXT: &str = "memory allocation of";

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// What compiling one component may cost.
#[derive(Debug, Clone)]
pub struct CompileLimits {
    /// Program that has the verb `compile`; this very program by default.
    pub program: PathBuf,
    /// Data memory in bytes.
    pub memory_bytes: u64,
    /// CPU time, summed over threads; whole seconds.
    pub cpu: Duration,
    /// Time from start to end.
    pub wall: Duration,
    /// Largest artifact in bytes.
    pub output_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            memory_bytes: 1024 * 1024 * 1024,
            cpu: Duration::from_secs(30),
            // A slow or busy gateway gives the child a fraction of a core.
            wall: Duration::from_secs(120),
            output_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Which of [`CompileLimits`] was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompileLimit {
    /// More memory than so many bytes.
    Memory(u64),
    /// More CPU time.
    Cpu(Duration),
    /// More time.
    Wall(Duration),
    /// An artifact of more than so many bytes.
    Output(u64),
}

impl std::fmt::Display for CompileLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MIB: u64 = 1024 * 1024;
        match self {
            Self::Memory(bytes) => write!(f, "memory, {} MiB", bytes / MIB),
            Self::Cpu(time) => write!(f, "CPU time, {} s", time.as_secs()),
            Self::Wall(time) => write!(f, "time, {} s", time.as_secs()),
            Self::Output(bytes) => write!(f, "size of the result, {} MiB", bytes / MIB),
        }
    }
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The input's fault: it does not validate.
    #[error("{0}")]
    Invalid(String),
    /// The input's fault: it costs too much.
    #[error("limit exceeded: {0}")]
    Limit(CompileLimit),
    /// The input's fault: what it declares is more than any instance here may have.
    #[error("does not fit this host: {0}")]
    Unfit(String),
    /// Nobody knows whose fault.
    #[error("compiler ended with {status}: {said}")]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// The last it said.
        said: String,
    },
    /// The host's fault.
    #[error("cannot run the compiler {}", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system says, or the child.
        source: std::io::Error,
    },
    /// The host's fault.
    #[error("cannot read the compiled code {}", .path.display())]
    Artifact {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl CompileError {
    /// Whether it is the code's fault.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Limit(_) | Self::Unfit(_) | Self::Crashed { .. } => true,
            Self::Run { .. } | Self::Artifact { .. } => false,
        }
    }
}

/// Runs compiling children.
#[derive(Debug)]
pub(crate) struct Compiler {
    limits: CompileLimits,
    /// Two bombs at once would need twice the memory.
    turn: Semaphore,
    /// Told when somebody waits for a turn.
    wanted: Notify,
}

impl Compiler {
    pub(crate) fn new(limits: CompileLimits) -> Self {
        Self { limits, turn: Semaphore::new(1), wanted: Notify::new() }
    }

    /// Waits until no other component is compiled, then hands out the turn. Never closed, so it always comes.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.turn.try_acquire() {
            return Some(turn);
        }
        self.wanted.notify_waiters();
        self.turn.acquire().await.ok()
    }

    /// The turn, if nobody else has it, for work that gives it back as soon as [`Compiler::wanted`] ends.
    pub(crate) fn spare_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.try_acquire().ok()
    }

    /// Ends when somebody waits for a turn, from when it is enabled on.
    pub(crate) fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// Compiles `wasm` into the file `output`. Dropping the future kills the child.
    pub(crate) async fn compile(&self, wasm: &[u8], output: &Path) -> Result<(), CompileError> {
        let job = Job {
            output: output.to_owned(),
            memory_bytes: self.limits.memory_bytes,
            cpu_seconds: self.limits.cpu.as_secs().max(1),
            output_bytes: self.limits.output_bytes,
        };
        let run = |source| CompileError::Run { program: self.limits.program.clone(), source };
        let mut child = Command::new(&self.limits.program)
            .arg("compile")
            .args(job.to_args())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        match tokio::time::timeout(self.limits.wall, converse(&mut child, wasm)).await {
            Ok(Ok((status, said))) => self.judge(status, said),
            Ok(Err(source)) => Err(run(source)),
            Err(_elapsed) => {
                child.kill().await.map_err(run)?;
                Err(CompileError::Limit(CompileLimit::Wall(self.limits.wall)))
            }
        }
    }

    fn judge(&self, status: ExitStatus, said: String) -> Result<(), CompileError> {
        if status.success() {
            return Ok(());
        }
        if status.code() == Some(i32::from(EXIT_INVALID)) {
            return Err(CompileError::Invalid(said));
        }
        if status.code() == Some(i32::from(EXIT_FAILED)) {
            let source = std::io::Error::other(said);
            return Err(CompileError::Run { program: self.limits.program.clone(), source });
        }
        if status.signal() == Some(SIGKILL) {
            // Not by us: the system takes memory back where it finds it, whoever needed it.
            let source = std::io::Error::new(std::io::ErrorKind::OutOfMemory, "it was killed, perhaps because the node is out of memory");
            return Err(CompileError::Run { program: self.limits.program.clone(), source });
        }
        let limit = match status.signal() {
            Some(SIGABRT) if said.contains(OUT_OF_MEMORY_TEXT) => CompileLimit::Memory(self.limits.memory_bytes),
            Some(SIGXCPU) => CompileLimit::Cpu(self.limits.cpu),
            Some(SIGXFSZ) => CompileLimit::Output(self.limits.output_bytes),
            _ => return Err(CompileError::Crashed { status, said }),
        };
        Err(CompileError::Limit(limit))
    }
}

/// Feeds the child and listens to it until it ends.
async fn converse(child: &mut Child, wasm: &[u8]) -> std::io::Result<(ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child that ends early closes the pipe; its exit status says why.
            let _ = stdin.write_all(wasm).await;
        }
    };
    let listen = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut limited = stderr.take(MAX_STDERR_BYTES);
            limited.read_to_end(&mut said).await?;
            // What exceeds the limit is drained, so that the child cannot block on a full pipe.
            tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&said).trim().to_owned())
    };
    let (status, (), said) = tokio::join!(child.wait(), feed, listen);
    Ok((status?, said?))
}
