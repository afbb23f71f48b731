//! Verdicts: who is alive, as the failover actors see it, and which actors are kept from spreading.
//!
//! A verdict is an input of the plan and nothing else. It says which start of the host (incarnation) it is about: a later
//! start is not meant by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::CorruptKey;
use crate::id::{ActorId, Digest, HostId, HostName, Incarnation, Region, Revision};
use crate::wire;

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is heard and takes work.
    Healthy,
    /// It is heard, with too many errors of its own: its work moves elsewhere as in a drain.
    Degraded,
    /// It is not heard as it should be. Nothing new is placed there, nothing moves.
    Suspect,
    /// It is taken for gone: what may move moves.
    Dead,
    /// It is heard again after it was taken for gone. It gets no work until it has been heard for long enough.
    Returned,
}

impl Standing {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::Suspect => "Suspect",
            Self::Dead => "Dead",
            Self::Returned => "Returned",
        }
    }
}

/// Why a host is taken for what it is: crash and cut-off are told apart as far as they can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// It is heard.
    Heard,
    /// It said `bye`.
    Left,
    /// Its connection was closed by its side without a word: the process is gone.
    ProcessGone,
    /// Its connection broke or went stale: the way to it is cut, it may live on.
    LinkDown,
    /// It is connected as far as the server knows and says nothing.
    Silent,
    /// Too many errors of its own.
    Errors,
    /// An operator says so.
    Operator,
}

/// What the failover actors make of one host: key `host.<id>` of the verdicts' bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The host.
    pub host: HostId,
    /// Its name, for people.
    pub name: HostName,
    /// Its region, the site of the brakes.
    pub region: Region,
    /// The start of it that is meant.
    pub incarnation: Incarnation,
    /// How it stands.
    pub standing: Standing,
    /// Why.
    pub evidence: Evidence,
    /// One sentence for people: `heartbeat timeout: 3000ms`.
    pub reason: String,
    /// Whether its lease is proven to have ended, so that it cannot run `strict` actors any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lease_ended: bool,
    /// How often it was taken for dead and came back within the last while; lengthens the wait before it gets work again.
    #[serde(default)]
    pub flaps: u32,
    /// Milliseconds since 1970 by the clock of the node that judged; for people.
    pub at_ms: u64,
    /// Node that judged.
    pub by: String,
}

/// An actor that fails wherever it lands: key `actor.<id>`. It stays where it is and is placed nowhere else until the
/// operator changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The actor.
    pub actor: ActorId,
    /// The code that is meant; other code is not.
    pub digest: Digest,
    /// When the operator changed the actor last, as its stamp says; a later change lifts the quarantine.
    pub changed_at_ms: u64,
    /// Hosts on which it failed.
    pub hosts: BTreeSet<HostId>,
    /// One sentence for people.
    pub reason: String,
    /// Milliseconds since 1970 by the clock of the node that judged; for people.
    pub at_ms: u64,
}

/// All verdicts, as they stand in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Of hosts; one without a verdict is as healthy as its heartbeats say.
    pub hosts: BTreeMap<HostId, Verdict>,
    /// Actors in quarantine.
    pub quarantined: BTreeMap<ActorId, Quarantine>,
    /// Revision of the bucket.
    pub revision: Revision,
}

impl Verdicts {
    /// Takes in one key as it stands in the bucket. Keys of kinds that this program does not know are left alone.
    ///
    /// # Errors
    /// [`CorruptKey`] if its value makes no sense, or is another one's.
    pub fn insert(&mut self, key: &str, value: &[u8]) -> Result<(), CorruptKey> {
        let corrupt = |error: wire::DecodeError| CorruptKey::new(key, &error.to_string());
        match key.split_once('.') {
            Some(("host", id)) => {
                let verdict: Verdict = wire::decode(value).map_err(corrupt)?;
                if verdict.host.as_str() != id {
                    return Err(CorruptKey::new(key, "it is about another host"));
                }
                self.hosts.insert(verdict.host.clone(), verdict);
            }
            Some(("actor", id)) => {
                let quarantine: Quarantine = wire::decode(value).map_err(corrupt)?;
                if quarantine.actor.as_str() != id {
                    return Err(CorruptKey::new(key, "it is about another actor"));
                }
                self.quarantined.insert(quarantine.actor.clone(), quarantine);
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// Key of a host's verdict.
pub fn host_key(host: &HostId) -> String {
    format!("host.{host}")
}

/// Key of an actor's quarantine.
pub fn actor_key(actor: &ActorId) -> String {
    format!("actor.{actor}")
}
