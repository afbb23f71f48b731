//! The highest version that a host has seen of each thing that an issuer signed.
//!
//! **Invariants.** A mark never falls, and its code never changes. Marks are raised by claims that hold and by nothing else;
//! they are written to disk before the code runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Claim, Version};
use crate::id::Digest;
use crate::trust::PublicKey;

/// Names that are remembered for one issuer, so that no issuer fills a host's disk.
const MAX_NAMES: usize = 4096;

/// A version, and its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Version.
    pub version: Version,
    /// Build of that version.
    pub revision: u32,
    /// Digest of the code without claims.
    pub digest: Digest,
}

impl Mark {
    /// What tells older from newer.
    pub fn age(&self) -> (Version, u32) {
        (self.version, self.revision)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rev {}", self.version, self.revision)
    }
}

/// All marks of a host, as they stand on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    #[serde(default)]
    issuers: BTreeMap<PublicKey, BTreeMap<String, Mark>>,
}

impl Marks {
    /// The highest version of `name` that `issuer` signed and that was seen.
    pub fn of(&self, issuer: &PublicKey, name: &str) -> Option<&Mark> {
        self.issuers.get(issuer)?.get(name)
    }

    /// Takes in a claim that holds. Returns whether anything changed.
    pub(super) fn raise(&mut self, claim: &Claim) -> bool {
        let names = self.issuers.entry(claim.issuer.clone()).or_default();
        let newer = match names.get(&claim.name) {
            Some(seen) => claim.mark().age() > seen.age(),
            None => names.len() < MAX_NAMES,
        };
        if newer {
            names.insert(claim.name.clone(), claim.mark());
        }
        newer
    }

    /// The marks, issuer by issuer.
    pub fn all(&self) -> impl Iterator<Item = (&PublicKey, &str, &Mark)> {
        self.issuers.iter().flat_map(|(issuer, names)| names.iter().map(move |(name, mark)| (issuer, name.as_str(), mark)))
    }
}
