//! Failovers as they are kept and shown: what moved from where to where, why, and how long each step took.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, Generation, HostId, HostName, Incarnation, Region};
use crate::timing::TimingProfile;
use crate::wire::verdict::{Evidence, Quarantine, Verdict};

/// The seed's check of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Name of the node.
    pub node_id: String,
    /// `Healthy`, `Degraded`, `Unhealthy`.
    pub status: String,
    /// Actors that it runs.
    pub actor_count: u32,
    /// Milliseconds since its last heartbeat.
    pub last_heartbeat_ms: u64,
    /// Errors of its own within the last minute.
    pub error_count: u32,
}

/// The seed's plan of one failover: one for each pair of a failed host and a host that took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// Name of the host whose work moves.
    pub failed_node: String,
    /// Name of the host that takes it.
    pub target_node: String,
    /// Actors that move to it.
    pub actor_ids: Vec<ActorId>,
    /// Highest priority among them.
    pub priority: u8,
    /// Expected time from the failure to the first result elsewhere in milliseconds: the median of what was measured
    /// lately; before anything was measured, what the settings make of it.
    pub estimated_downtime_ms: u64,
}

/// One failed host and everything that was done about it: key `<at_ms>-<host>` of the failover bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Its region.
    pub region: Region,
    /// The start of it that failed.
    pub incarnation: Incarnation,
    /// How that was noticed.
    pub evidence: Evidence,
    /// One sentence for people.
    pub reason: String,
    /// Milliseconds since 1970 at which it was noticed, by the clock of the node that judged; for people.
    pub at_ms: u64,
    /// Node that judged.
    pub by: String,
    /// When each step was done.
    pub steps: FailoverSteps,
    /// Plan that moved the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Who took what.
    #[serde(default)]
    pub plans: Vec<FailoverPlan>,
    /// Actors that found no other place, with the reason of each host that was rejected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_behind: BTreeMap<ActorId, Vec<String>>,
}

/// Milliseconds after the failure was noticed, by the clock of the node that judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FailoverSteps {
    /// How long before it the host was heard last.
    pub silent_ms: u64,
    /// The verdict was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_ms: Option<u64>,
    /// The plan that moves the work was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_ms: Option<u64>,
    /// Every host that took work said that it runs; lattice's own actors count only where nothing else moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_ms: Option<u64>,
    /// The first message was handled by an actor that had moved, lattice's own aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_result_ms: Option<u64>,
}

/// Answer to a `status` request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// Node of the replica that answers.
    pub node: String,
    /// Version of its code.
    pub version: String,
    /// Settings in force.
    pub profile: TimingProfile,
    /// Hard ceiling of silence in milliseconds.
    pub heartbeat_timeout_ms: u64,
    /// Errors within a minute from which on a host is drained.
    pub max_error_count: u32,
    /// Whether the work of a dead host moves by itself.
    pub auto_failover: bool,
    /// Settings that make no sense.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Whether this replica has observed for long enough to judge.
    pub ready: bool,
    /// How often its own connection was away, so that it began to observe anew.
    #[serde(default)]
    pub gaps: u64,
    /// Hosts by name, as the seed shows them.
    pub hosts: Vec<HealthCheck>,
    /// Verdicts in force.
    pub verdicts: Vec<Verdict>,
    /// Sites that are frozen, with the milliseconds that are left.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frozen: BTreeMap<Region, u64>,
    /// Actors in quarantine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantine>,
    /// Failovers that are under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<Failover>,
    /// Failovers since this replica started.
    pub total: u64,
    /// Median of the measured time from notice to first result in milliseconds, if anything was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_downtime_ms: Option<u64>,
}
