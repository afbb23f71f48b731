//! What is asked of the scheduler, and what it answers: over `lat.<L>.sched.<verb>` and over HTTP.
//!
//! `status` and `nodes` take no body. `place` takes a [`TaskSpec`] and is answered with [`Placed`], `plan` takes
//! [`PlanRequest`] and is answered with [`PlanAnswer`], `explain` takes [`ExplainRequest`] and is answered with
//! [`Explanation`]. What cannot be answered is an object with `error`, see [`crate::error::Problem`].
//!
//! [`EdgeNode`] and [`TaskSpec`] are the seed's: bare JSON without a version, as people write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::id::{ActorId, Generation, HostId, HostName, Region, Revision};
use crate::needs::Strategy;

/// A node in the seed's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeNode {
    /// Name of the host.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// CPU in thousandths of a core.
    pub cpu_capacity: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// CPU that is used or promised, in thousandths of a core.
    pub cpu_used: u32,
    /// Memory that is used or promised, in MiB.
    pub memory_used_mb: u32,
    /// Different actors on it.
    pub actor_count: u32,
    /// Whether it answers and takes work.
    pub is_healthy: bool,
}

/// A task to be placed, in the seed's words. Only `task_id` must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its name.
    pub task_id: String,
    /// CPU in thousandths of a core.
    #[serde(default)]
    pub cpu_required: u32,
    /// Memory in MiB.
    #[serde(default)]
    pub memory_required_mb: u32,
    /// Region that is preferred; empty: none.
    #[serde(default)]
    pub preferred_region: String,
    /// A higher one may displace actors of lower priority.
    #[serde(default)]
    pub priority: u8,
    /// Longest round trip to the preferred region in milliseconds; 0: any.
    #[serde(default)]
    pub max_latency_ms: u64,
}

/// Where a task would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The task.
    pub task_id: String,
    /// Name of the host.
    pub node_id: String,
    /// Identity of the host.
    pub host: HostId,
    /// Its score before the task: `cpu % + memory % + actors`, in hundredths.
    pub score: u32,
    /// Whether no host of the preferred region could take it.
    pub fallback: bool,
    /// Actors of lower priority that would have to make room, with instances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub displaces: BTreeMap<ActorId, u32>,
}

/// Asks that the plan follows desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Desired state that must be covered.
    pub desired_rev: Revision,
}

/// The plan covers desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// Desired state that is covered.
    pub desired_rev: Revision,
    /// The newest plan.
    pub generation: Generation,
    /// Actors that could not be placed as they should, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub troubles: BTreeMap<ActorId, Problem>,
}

/// How a scheduler stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerStatus {
    /// Name of the node that this replica runs on.
    pub node: String,
    /// Version of the program.
    pub version: String,
    /// Desired state that it has planned for.
    pub desired_rev: Revision,
    /// The newest plan it knows.
    pub generation: Generation,
    /// Hosts whose heartbeats are fresh.
    pub hosts: u32,
    /// Whether it knows enough to plan.
    pub ready: bool,
    /// Heartbeats that made no sense, since it started.
    pub malformed: u64,
    /// Hosts whose identity two processes use at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cloned: Vec<HostId>,
}

/// Asks where an actor is, where it could be, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// The actor.
    pub actor: ActorId,
}

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The operator asked for it.
    Asked,
    /// Hosts have measured more than was asked for.
    Measured,
}

/// What one instance is taken to need: the larger of what was asked for and what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Where that comes from.
    pub cpu_from: Source,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Where that comes from.
    pub memory_from: Source,
}

/// One host, as a place for one more instance of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOpinion {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Its region.
    pub region: Region,
    /// Instances of the actor that it holds.
    pub instances: u32,
    /// CPU that is left, in thousandths of a core.
    pub cpu_free: u32,
    /// Memory that is left, in MiB.
    pub memory_free_mb: u32,
    /// Its score, lower is emptier: `cpu % + memory % + actors`, in hundredths.
    pub score: u32,
    /// Why it would not be taken: `region ≠ ap-east-1`, `needs 256 MiB, has 96`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// Where an actor is, where it could be, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The actor.
    pub actor: ActorId,
    /// Instances that it should have.
    pub max: u32,
    /// Instances that could not be placed.
    pub missing: u32,
    /// What one instance is taken to need.
    pub need: Need,
    /// How hosts are chosen.
    pub strategy: Strategy,
    /// Each host that answers, the one that would be taken next first, rejected ones last.
    pub hosts: Vec<HostOpinion>,
    /// Why its instances are where they are, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastDecision>,
}

/// A decision about one actor that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastDecision {
    /// Plan with which it was committed.
    pub generation: Generation,
    /// Milliseconds since 1970 by the clock of the scheduler's host; for people.
    pub at_ms: u64,
    /// Sentences: `NEDGE02: 2 instances, score 1200, region ap-east-1`.
    pub reasons: Vec<String>,
}
