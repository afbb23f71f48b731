//! What a host says of itself: in heartbeats and in answers to `ping` and `inventory`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, Digest, Generation, HostId, HostName, Incarnation, LatticeName, ProviderId, Region};
use crate::policy::report::Enforced;
use crate::wire::assignment::ProviderKind;

/// A host's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Identity.
    pub id: HostId,
    /// Name for people.
    pub name: HostName,
    /// Lattice it belongs to.
    pub lattice: LatticeName,
    /// Region, also among the labels.
    pub region: Region,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// This start of the process.
    pub incarnation: Incarnation,
    /// Counts the reports of this incarnation from 1.
    pub seq: u64,
    /// Version of the host program.
    pub version: String,
    /// Whether it takes work.
    pub state: HostState,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Size and use.
    pub profile: Profile,
    /// The newest assignment that was worked through; 0 if none.
    pub applied_generation: Generation,
    /// Host-level errors (disk, NATS, provider) in the last 60 s.
    #[serde(default)]
    pub error_count: u32,
    /// Sequence of the last successful renewal of its lease; 0 if it holds none.
    #[serde(default)]
    pub lease_rev: u64,
    /// Median round trip to a peer of each region in microseconds, as measured lately; a region that was not measured is
    /// missing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rtt_us: BTreeMap<Region, u32>,
    /// Actors.
    #[serde(default)]
    pub components: BTreeMap<ActorId, ComponentReport>,
    /// Providers.
    #[serde(default)]
    pub providers: BTreeMap<ProviderId, ProviderReport>,
    /// Which policies it enforces: its acknowledgement. A host that knows of none says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Enforced>,
}

/// Whether a host takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It works.
    Ready,
    /// It finishes what it has and will exit.
    Draining,
}

/// Size and use of a host. Nothing in it is trusted: every subtraction saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// CPU in thousandths of a core.
    pub cpu_capacity: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// CPU that the host process used lately, in thousandths of a core.
    pub cpu_used: u32,
    /// Memory of the host process in MiB (PSS where the kernel says it, else RSS).
    pub memory_used_mb: u32,
}

impl Profile {
    /// CPU that is left, in thousandths of a core.
    pub fn cpu_free(&self) -> u32 {
        self.cpu_capacity.saturating_sub(self.cpu_used)
    }

    /// Memory that is left, in MiB.
    pub fn memory_free_mb(&self) -> u32 {
        self.memory_mb.saturating_sub(self.memory_used_mb)
    }
}

/// An actor on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentReport {
    /// The code it runs or tries to run.
    pub digest: Digest,
    /// How it stands.
    pub state: ComponentState,
    /// Instances that are ready; 0 unless running.
    pub instances: u32,
    /// Messages and requests handled since the host started.
    #[serde(default)]
    pub handled: u64,
    /// Messages and requests that failed, of any cause.
    #[serde(default)]
    pub failed: u64,
    /// CPU time of its own code over the last reporting window, in thousandths of a core.
    #[serde(default)]
    pub cpu_used: u32,
    /// Largest linear memory of one of its instances since it was started here, in MiB, rounded up.
    #[serde(default)]
    pub memory_peak_mb: u32,
    /// Slots that it owns here, by the host's best knowledge, with their epochs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<u32, SlotReport>,
    /// Slots that the assignment gives to this host and that it will not run again for the plan (term) that gave them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<u32, Generation>,
    /// Failures in a row that were its own (traps, limits), within the window in which they count; 0 after a success.
    #[serde(default)]
    pub crashes: u32,
    /// Whether claims or policies keep it from running here: nothing that it did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Problems of single links (a consumer that is gone, a port that is taken), by contract, link name and subscription.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub link_errors: BTreeMap<String, String>,
}

impl ComponentReport {
    /// An actor that has handled nothing yet.
    pub fn new(digest: Digest, state: ComponentState, instances: u32) -> Self {
        Self {
            digest,
            state,
            instances,
            handled: 0,
            failed: 0,
            cpu_used: 0,
            memory_peak_mb: 0,
            slots: BTreeMap::new(),
            lost: BTreeMap::new(),
            crashes: 0,
            held: false,
            link_errors: BTreeMap::new(),
        }
    }
}

/// A slot that a host owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// Plan that gave it to the host.
    pub term: Generation,
    /// Its epoch: position of the host's claim in the stream of the slot's bucket; 0 for a class without fence.
    pub epoch: u64,
}

/// How an actor stands on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "why", rename_all = "kebab-case")]
pub enum ComponentState {
    /// Its code is being fetched or compiled.
    Starting,
    /// It takes messages.
    Running,
    /// Accepted, but something must come first: `no link for wasi:keyvalue/store`.
    Waiting(String),
    /// It cannot run; the reason.
    Failed(String),
}

impl std::fmt::Display for ComponentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Waiting(why) => write!(f, "waiting: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// A provider on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderReport {
    /// Which backend.
    pub kind: ProviderKind,
    /// Why it does not work, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
