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
        }
    }
}
