//! State changes, kept 72 hours in the event stream: timeline and audit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{HostId, HostName, Incarnation, Region};

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Host on which it happened.
    pub host: HostId,
    /// Its name.
    pub host_name: HostName,
    /// Its region.
    pub region: Region,
    /// Start of the host process that says so.
    pub incarnation: Incarnation,
    /// Milliseconds since 1970 by the host's clock; for people, nothing decides by it.
    pub at_ms: u64,
    /// One sentence for people.
    pub message: String,
    /// Values by name: actor, digest, subject, stream sequence, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// The kinds of event; the last token of their subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A host joined.
    Hello,
    /// A host leaves on purpose.
    Bye,
    /// An assignment was applied.
    Applied,
    /// An assignment was refused as stale.
    Refused,
    /// An actor runs.
    ActorRunning,
    /// An actor waits for something.
    ActorWaiting,
    /// An actor cannot run.
    ActorFailed,
    /// An actor was stopped.
    ActorStopped,
    /// A provider runs.
    ProviderRunning,
    /// A provider cannot run.
    ProviderFailed,
    /// A provider was stopped.
    ProviderStopped,
    /// A message was given up after answered failures.
    DeadLetter,
    /// A call was denied.
    Denied,
    /// An actor or provider failed and is started again later.
    Restarting,
    /// A host owns a slot: what it writes counts from now on.
    SlotOwned,
    /// A host does not own a slot any more.
    SlotLost,
    /// A host could not renew its lease in time and stopped what needs one.
    LeaseLost,
    /// A host is not heard as it should be.
    Suspect,
    /// A host is taken for gone.
    Dead,
    /// A host is heard again after it was taken for gone.
    Returned,
    /// A host gets work again.
    Healthy,
    /// A host has too many errors of its own; its work moves.
    Degraded,
    /// Actors moved from one host to another.
    Moved,
    /// Actors of a host that is gone found no other place.
    NoTarget,
    /// So many hosts of a site are silent that nothing moves there for a while.
    Frozen,
    /// Moves of a site go on.
    Thawed,
    /// An actor fails wherever it lands and is moved no more.
    Quarantined,
    /// A host enforces a version of a policy from now on.
    PolicyApplied,
    /// A host refused a version of a policy and keeps what it had.
    PolicyRefused,
    /// A policy stopped an actor on a host, or takes something from one that runs on.
    PolicyStopped,
    /// A policy lets an actor go on that it had stopped, or use again what it had taken.
    PolicyResumed,
    /// Code was refused because of its claim.
    ClaimRefused,
    /// Older code runs because a policy lets it.
    ClaimForced,
    /// A host cannot read what it knew about policies and versions.
    TrustLost,
    /// A host's clock is wrong.
    ClockUntrusted,
    /// A host's clock is right again.
    ClockTrusted,
}

impl EventKind {
    /// The token in the subject.
    pub fn token(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Bye => "bye",
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::ActorRunning => "actor-running",
            Self::ActorWaiting => "actor-waiting",
            Self::ActorFailed => "actor-failed",
            Self::ActorStopped => "actor-stopped",
            Self::ProviderRunning => "provider-running",
            Self::ProviderFailed => "provider-failed",
            Self::ProviderStopped => "provider-stopped",
            Self::DeadLetter => "dead-letter",
            Self::Denied => "denied",
            Self::Restarting => "restarting",
            Self::SlotOwned => "slot-owned",
            Self::SlotLost => "slot-lost",
            Self::LeaseLost => "lease-lost",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Returned => "returned",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Moved => "moved",
            Self::NoTarget => "no-target",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
            Self::Quarantined => "quarantined",
            Self::PolicyApplied => "policy-applied",
            Self::PolicyRefused => "policy-refused",
            Self::PolicyStopped => "policy-stopped",
            Self::PolicyResumed => "policy-resumed",
            Self::ClaimRefused => "claim-refused",
            Self::ClaimForced => "claim-forced",
            Self::TrustLost => "trust-lost",
            Self::ClockUntrusted => "clock-untrusted",
            Self::ClockTrusted => "clock-trusted",
        }
    }
}
