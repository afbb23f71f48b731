//! What one host is told to run: complete in itself, so that a host needs nothing else, also offline.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::id::{ActorId, Digest, Generation, HostId, HostName, Incarnation, LinkName, ProviderId, Revision};
use crate::link::LinkSettings;
use crate::needs::Class;
use crate::timing::TimingProfile;

/// The part of a plan that concerns one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The host it is for.
    pub host: HostId,
    /// Its name when the plan was made, so that an absent host can still be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<HostName>,
    /// Plan in which this assignment last changed.
    pub generation: Generation,
    /// The plan before that one.
    pub parent: Generation,
    /// Desired state it was made from.
    pub desired_rev: Revision,
    /// The start of the host that shall drain, say `bye` and exit; a later start is not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Incarnation>,
    /// How often the host reports and renews its lease.
    #[serde(default, skip_serializing_if = "TimingProfile::is_default")]
    pub timing: TimingProfile,
    /// Providers to run.
    #[serde(default)]
    pub providers: BTreeMap<ProviderId, ProviderAssignment>,
    /// Actors to run.
    #[serde(default)]
    pub components: BTreeMap<ActorId, ComponentAssignment>,
}

impl Assignment {
    /// An assignment that runs nothing.
    pub fn empty(host: HostId) -> Self {
        Self {
            host,
            host_name: None,
            generation: Generation(0),
            parent: Generation(0),
            desired_rev: Revision(0),
            stop: None,
            timing: TimingProfile::default(),
            providers: BTreeMap::new(),
            components: BTreeMap::new(),
        }
    }

    /// Whether both ask the host for the same, whatever plan they come from.
    pub fn same_work(&self, other: &Self) -> bool {
        self.stop == other.stop && self.timing == other.timing && self.providers == other.providers && self.components == other.components
    }
}

/// The backends that are built into the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// Key-value in the host's memory; gone with the process.
    KvMemory,
    /// Key-value in a JetStream bucket.
    KvNats,
    /// Messaging over NATS.
    MessagingNats,
    /// HTTP server.
    HttpServer,
    /// HTTP client.
    HttpClient,
    /// The control plane's buckets, for system actors.
    Store,
}

impl ProviderKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::KvMemory, Self::KvNats, Self::MessagingNats, Self::HttpServer, Self::HttpClient, Self::Store];

    /// The name in `builtin://<name>`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KvMemory => "kv-memory",
            Self::KvNats => "kv-nats",
            Self::MessagingNats => "messaging-nats",
            Self::HttpServer => "http-server",
            Self::HttpClient => "http-client",
            Self::Store => "store",
        }
    }

    /// The contract that it serves.
    pub fn contract(self) -> Contract {
        match self {
            Self::KvMemory | Self::KvNats => Contract::KeyValue,
            Self::MessagingNats => Contract::Messaging,
            Self::HttpServer => Contract::HttpServer,
            Self::HttpClient => Contract::HttpClient,
            Self::Store => Contract::Store,
        }
    }
}

/// A provider to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderAssignment {
    /// Which backend.
    pub kind: ProviderKind,
    /// Its settings.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// An actor to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentAssignment {
    /// Where the code came from, for people.
    pub image: String,
    /// The code, to be fetched from the artifact store.
    pub digest: Digest,
    /// How many instances may run at once on this host.
    pub instances: u32,
    /// How instances are used.
    #[serde(default)]
    pub policy: InstancePolicy,
    /// What a message may cost.
    #[serde(default)]
    pub limits: Limits,
    /// What the actor reads through `wasi:config`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What it may use and how it is called.
    #[serde(default)]
    pub links: Vec<LinkAssignment>,
    /// What this host owns of it; none for a shared actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
}

/// Slots of an actor on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// What ownership means: never [`Class::Shared`].
    pub class: Class,
    /// Slots of the actor in the whole lattice. With one of them it takes all subscriptions; with more, slot `n` takes the
    /// `n`-th subscription of each link that has any.
    pub of: u32,
    /// Slots of this host; one instance each.
    pub slots: BTreeMap<u32, SlotAssignment>,
}

/// One slot on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotAssignment {
    /// Plan that gave the slot to this host. Of two hosts that claim a slot the one with the higher term is right.
    pub term: Generation,
    /// The host shall stop it and say so; only then somebody else gets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
}

/// A link, resolved for one actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAssignment {
    /// Its name.
    pub name: LinkName,
    /// What it is about.
    pub contract: Contract,
    /// The provider at its other end.
    pub provider: ProviderId,
    /// Its checked values.
    pub settings: LinkSettings,
}

/// How instances of an actor are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstancePolicy {
    /// A fresh instance for each message.
    #[default]
    PerMessage,
    /// Each instance keeps its memory and takes messages in order.
    Resident,
}

/// What one message may cost and how much memory the actor may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Guest CPU time per message in milliseconds; host calls are not counted.
    pub cpu_ms: u32,
    /// Time from the start of a message to its end in milliseconds.
    pub deadline_ms: u32,
    /// Linear memory of all instances of the actor on one host, each instance's own limit included, in MiB.
    pub memory_mb: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_ms: 1000, deadline_ms: 30_000, memory_mb: 64 }
    }
}
