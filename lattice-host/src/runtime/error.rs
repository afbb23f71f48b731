//! What can go wrong, per operation, and how it is put to the user.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::admission::AdmissionError;
use lattice_core::claims::Refused;
use lattice_core::claims::sections::Carried;
use lattice_core::contract::Contract;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::Digest;
use lattice_core::policy::force::Denied;
use lattice_core::policy::rules::Point;
use lattice_core::trust::PublicKey;

use super::cache::CacheError;
use super::compiler::CompileError;
use super::limits::Exhausted;

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The system gives no room for so many instances.
    #[error(
        "cannot reserve address space for {instances} instances (is there a limit, `ulimit -v`, or vm.overcommit_memory=2?): {reason:#}"
    )]
    Engine {
        /// How many were asked for.
        instances: u32,
        /// What wasmtime says.
        reason: wasmtime::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that interrupts actors")]
    Thread(#[source] std::io::Error),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Why code cannot run here, or not now.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The code cannot be fetched.
    #[error("cannot fetch {digest}")]
    Fetch {
        /// What was asked for.
        digest: Digest,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else was fetched.
    #[error("code has digest {found}, expected {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Machine code was offered as a component.
    #[error("a precompiled artifact, not a component: hosts run only what they compiled themselves")]
    Precompiled,
    /// Not a component, or not one that could ever run here.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// It does not compile, or not within the limits.
    #[error("cannot compile: {0}")]
    Compile(Arc<CompileError>),
    /// Its imports cannot be resolved.
    #[error(transparent)]
    Link(#[from] LinkFault),
    /// Nobody whom this host trusts says that it may run.
    #[error("invalid claim: {refused}")]
    Claim {
        /// Why not.
        refused: Box<Refused>,
        /// What the code carries, if that can be read.
        carried: Option<Box<Carried>>,
    },
    /// The host is going down.
    #[error("the host is stopping")]
    Stopping,
}

/// Why the imports of a component cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// It needs links that the actor does not have.
    #[error("no link for {}", .0.join(", "))]
    Missing(Vec<String>),
    /// It does not fit what the host serves, although names and versions do.
    #[error("does not fit the host's interfaces: {0}")]
    Unfit(String),
}

impl LoadError {
    pub(crate) fn claim(refused: Refused, carried: Option<&Carried>) -> Self {
        Self::Claim { refused: Box::new(refused), carried: carried.map(|carried| Box::new(carried.clone())) }
    }

    /// Whether the same code would fail again, whatever anybody does to the host or the network.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::Precompiled | Self::Admission(_) | Self::Link(LinkFault::Unfit(_)) => true,
            Self::Compile(error) => error.is_lasting(),
            Self::Claim { refused, .. } => is_lasting(refused),
            Self::Fetch { .. } | Self::Link(LinkFault::Missing(_)) | Self::Stopping => false,
        }
    }

    /// The error as the user of `actor`, whose code came from `image`, shall see it.
    pub fn problem(&self, actor: &str, image: &str) -> Problem {
        self.problem_for(actor, image, &BTreeSet::new())
    }

    /// The same where `issuers` are trusted.
    pub(crate) fn problem_for(&self, actor: &str, image: &str, issuers: &BTreeSet<PublicKey>) -> Problem {
        match self {
            Self::Fetch { .. } | Self::Digest { .. } => Problem::actor_image(image, self).caused_by_source(self),
            Self::Link(LinkFault::Missing(missing)) => Problem::link_not_found(actor, &missing.join(", ")),
            Self::Precompiled | Self::Admission(_) | Self::Link(LinkFault::Unfit(_)) => self.invalid(image),
            Self::Compile(error) if error.is_lasting() => self.invalid(image),
            Self::Claim { refused, carried } => refused.problem(image, carried.as_deref(), issuers),
            Self::Compile(_) | Self::Stopping => {
                Problem::new(ErrorCode::Failed, format!("actor start failed: {self}")).caused_by_source(self)
            }
        }
    }

    fn invalid(&self, image: &str) -> Problem {
        Problem::new(ErrorCode::InvalidComponent, format!("actor start failed: invalid component: {image}: {self}"))
            .hint("build it with `cargo build --target wasm32-wasip2 --release`; `wasm-tools component wit FILE` shows what it imports and exports")
    }
}

/// Whether the same code is refused for as long as the host runs: neither time nor a policy changes that.
fn is_lasting(refused: &Refused) -> bool {
    match refused {
        Refused::Unsigned { .. }
        | Refused::Sections(_)
        | Refused::Malformed { .. }
        | Refused::WrongKey { .. }
        | Refused::Foreign { .. }
        | Refused::Signature { .. }
        | Refused::Tampered { .. }
        | Refused::Token { .. }
        | Refused::OtherLattice { .. } => true,
        Refused::Revoked { .. }
        | Refused::NotYetValid { .. }
        | Refused::Expired { .. }
        | Refused::Older { .. }
        | Refused::Equivocal { .. } => false,
    }
}

/// The sources of an error as causes, without the error itself, whose text the problem has already.
trait CausedBySource {
    fn caused_by_source(self, error: &dyn std::error::Error) -> Self;
}

impl CausedBySource for Problem {
    fn caused_by_source(self, error: &dyn std::error::Error) -> Self {
        match error.source() {
            Some(source) => self.caused_by(source),
            None => self,
        }
    }
}

/// Why a call of an actor gave no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// It trapped: a panic, an assertion, an out-of-bounds access, an exit.
    #[error("actor trapped: {0}")]
    Trap(String),
    /// It used more CPU time than allowed.
    #[error("CPU limit reached: more than {} ms", .0.as_millis())]
    CpuLimit(Duration),
    /// It was not done in time.
    #[error("deadline reached: not done after {} ms", .0.as_millis())]
    Deadline(Duration),
    /// It failed after it was refused memory.
    #[error("out of memory: {0}")]
    OutOfMemory(Exhausted),
    /// Its handler returned an error.
    #[error("{0}")]
    Guest(String),
    /// It failed, in these words, after a backend was out of reach that it needed.
    #[error("{0}")]
    Outage(String),
    /// There is no instance to call.
    #[error("cannot instantiate: {0}")]
    Instantiate(String),
    /// It does not export what would have to be called.
    #[error("actor exports no handler for {0}")]
    NoHandler(Contract),
    /// The actor is being stopped.
    #[error("actor is stopping")]
    Closed,
    /// It was done, and what it did was not stored.
    #[error("effects were not stored: {0}")]
    NotStored(String),
    /// Policy does not let it be called.
    #[error("capability denied: {}: {denied}", .point.contract())]
    Denied {
        /// Where.
        point: Point,
        /// Why.
        denied: Box<Denied>,
    },
}

impl InvokeError {
    /// The same failure of an actor that had `met_outage` of a backend: whatever it made of that, an error or a trap, or
    /// waiting for too long, would have come of any message.
    pub(crate) fn after(self, met_outage: bool) -> Self {
        let may_come_of_it = matches!(self, Self::Guest(_) | Self::Trap(_) | Self::Deadline(_));
        if met_outage && may_come_of_it { Self::Outage(self.to_string()) } else { self }
    }

    /// The error as the caller of `actor` shall see it.
    pub fn problem(&self, actor: &str) -> Problem {
        let code = match self {
            Self::Deadline(_) => ErrorCode::TimedOut,
            Self::NoHandler(contract) => return Problem::link_not_found(actor, contract.as_str()),
            Self::Denied { point, denied } => return denied.problem(*point),
            Self::Trap(_)
            | Self::CpuLimit(_)
            | Self::OutOfMemory(_)
            | Self::Guest(_)
            | Self::Outage(_)
            | Self::Instantiate(_)
            | Self::Closed
            | Self::NotStored(_) => ErrorCode::Failed,
        };
        Problem::new(code, format!("{actor}: {self}"))
    }
}
