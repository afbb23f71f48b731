//! Whom this host believes: whose code it runs, whose policies it enforces, what time it is.
//!
//! * [`clock`]: the time that validity is judged by.
//! * [`ledger`]: what the host has seen, on its disk: the highest versions of code and policies, and a time that has passed.
//! * [`admission`]: asked by the runtime before code is compiled and whenever it is loaded.
//! * [`warden`]: the task that owns the policies: reads, verifies, keeps and enforces them.
//!
//! All decisions are [`lattice_core::claims`]'s and [`lattice_core::policy`]'s.
//!
//! **Invariants.** Trusted keys come from the command line and the settings file, never over the bus. What was verified is on
//! disk before it is acknowledged, and nothing is written that was not verified. A file that is there and cannot be read
//! is never taken for one that is not there.

pub(crate) mod admission;
pub(crate) mod clock;
pub(crate) mod ledger;
pub(crate) mod warden;

use lattice_core::trust::{PublicKey, Verify};
use nkeys::KeyPair;

/// Ed25519 by nkeys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nkeys;

impl Verify for Nkeys {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        KeyPair::from_public_key(key.as_str()).is_ok_and(|pair| pair.verify(message, signature).is_ok())
    }
}
