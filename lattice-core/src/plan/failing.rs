//! What a plan says of hosts that are gone: what moves where, what stays and why; and what would, if a host were gone.

use std::fmt;

use serde::Serialize;

use super::{Input, Plan, PlanState};
use crate::desired::Desired;
use crate::id::{ActorId, HostId, Revision};
use crate::inventory::Inventory;
use crate::wire::verdict::Verdicts;

/// Instances that move off a host that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The actor.
    pub actor: ActorId,
    /// The host that is gone.
    pub from: HostId,
    /// The host that takes them.
    pub to: HostId,
    /// How many; slots, where there are slots.
    pub instances: u32,
    /// Why the host counts as gone: `heartbeat timeout: 3000ms`.
    pub reason: String,
}

/// Instances that do not move off a host that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftBehind {
    /// The actor.
    pub actor: ActorId,
    /// The host that is gone.
    pub host: HostId,
    /// How many.
    pub instances: u32,
    /// Why: one sentence, or one for each host that was rejected.
    pub why: Vec<String>,
}

/// Why instances stay on a host that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Autonomous,
    Daemon,
    Named,
    Leased,
    Quarantined,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Autonomous => "it is autonomous: bound to its host",
            Self::Daemon => "it runs on every host that fits",
            Self::Named => "it is named for hosts of which no other one answers",
            Self::Leased => "it is strict, and the lease of its host has not been seen to end",
            Self::Quarantined => "it is in quarantine",
        })
    }
}

/// The plan that would be made if `host` were gone and its lease had ended: where everything would go, and why.
pub fn plan_without(
    desired: &Desired,
    desired_rev: Revision,
    inventory: &Inventory,
    verdicts: &Verdicts,
    parent: &PlanState,
    host: &HostId,
) -> Plan {
    super::make(Input { desired, inventory, verdicts, assumed: Some(host) }, desired_rev, parent)
}
