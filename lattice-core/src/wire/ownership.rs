//! Proofs of ownership: the lease of a host, the epoch of a slot, and what a slot has applied.
//!
//! All of them are written on condition of what was there before. None of them is ever believed because it was read: the
//! write decides.

use serde::{Deserialize, Serialize};

use crate::id::{Generation, HostId, Incarnation};

/// Who owns a slot: one message on [`crate::subject::epoch`]. Its sequence in the stream is the epoch, the fence of every
/// write of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The owner.
    pub owner: HostId,
    /// The start of it that owns the slot.
    pub incarnation: Incarnation,
    /// Plan that gave the slot to this host. A claim for an older one is void.
    pub term: Generation,
}

/// How far a slot has worked through one of its consumers: one message on [`crate::subject::applied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Position in the input stream up to which effects are stored.
    pub sequence: u64,
}

/// Proof that a host lives: one message on [`crate::subject::lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The host.
    pub host: HostId,
    /// The start of it that holds the lease.
    pub incarnation: Incarnation,
    /// Counts the renewals of this start, from 1.
    pub number: u64,
    /// Set by whoever ended the lease on the host's behalf: the host must not renew it, and has stopped what needs one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}
