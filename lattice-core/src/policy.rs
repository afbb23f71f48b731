//! Policy: what actors may use on which hosts, whatever links and claims give them.
//!
//! [`SecurityPolicy`] is the document of the operator, [`Bundle`] the same with what makes it safe to send: which lattice and
//! which hosts it is for, and when. A signed bundle reaches every host; each decides for itself ([`accept`]), merges what is
//! meant for it ([`force`]) and applies that to what already runs ([`effects`]).
//!
//! Several policies may be in force on one host: a contract may be used if one of them allows it and none denies it, memory
//! is limited by the smallest cap, a restriction of one holds for all.
//!
//! **Invariants.** Deny wins over allow. Rules are texts and globs, matched in linear time, and all of them are looked at
//! once, when a policy is accepted: a call costs one look into a small table, however many rules there are. An expired policy
//! takes away nothing that it forbids: nothing new starts under it, and its denials stay.

pub mod accept;
pub mod effects;
pub mod force;
pub mod network;
pub mod posted;
pub mod report;
pub mod rules;
pub mod scope;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::claims::Permit;
use crate::id::{ConfigName, LatticeName};
use crate::trust::{MAX_KEYS, PublicKey};
use crate::wire::json;
use rules::Rule;
use scope::Scope;

/// Largest signed bundle in bytes: with its subject and headers it fits into one message of 1 MiB.
pub const MAX_BUNDLE_BYTES: usize = 768 * 1024;
/// Most rules of one policy, allowed and denied ones together.
pub const MAX_RULES: usize = 10_000;
/// Longest validity in seconds: ten years.
pub const MAX_VALIDITY_S: u64 = 10 * 366 * 86_400;
/// Highest version that a policy may begin with: a time in microseconds fits.
pub const MAX_FIRST_VERSION: u64 = 1 << 53;
/// How far a version may be above the one before it; seconds since 1970 may serve as versions. Whoever jumps to the end of
/// numbers shuts out all later policies.
pub const MAX_JUMP: u64 = 1_000_000_000;
/// Word in `network_restrictions`: only private and loopback addresses and this lattice's subjects may be reached.
pub const INTERNAL_ONLY: &str = "internal-only";
/// Deepest nesting of a bundle.
const DEPTH: usize = 6;

/// What the operator writes. The names are the article's. `allowed_contracts` must be there, because a policy that does not
/// say what it allows could be meant either way; `["*"]` allows everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityPolicy {
    /// Its name: a later version of the same name replaces it.
    pub policy_id: ConfigName,
    /// Counts up.
    pub version: u64,
    /// Contracts that may be used, in either spelling; `*` stands for any text.
    pub allowed_contracts: Vec<Rule>,
    /// Contracts that may not, whatever is allowed.
    #[serde(default)]
    pub denied_contracts: Vec<Rule>,
    /// Memory of all instances of an actor on a host in MiB; none: what the actor was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_actor_memory_mb: Option<u32>,
    /// Words that restrict what the network is used for: `internal-only`.
    #[serde(default)]
    pub network_restrictions: Vec<String>,
}

impl SecurityPolicy {
    /// The article's example.
    ///
    /// # Errors
    /// None in fact: the names are well-formed.
    pub fn edge_default() -> Result<Self, crate::id::InvalidName> {
        let allowed = ["wasmcloud:keyvalue", "wasmcloud:httpserver", "wasmcloud:messaging"];
        Ok(Self {
            policy_id: ConfigName::new("edge-default")?,
            version: 1,
            allowed_contracts: allowed.into_iter().filter_map(|text| Rule::new(text).ok()).collect(),
            denied_contracts: Vec::new(),
            max_actor_memory_mb: Some(64),
            network_restrictions: vec![INTERNAL_ONLY.to_owned()],
        })
    }
}

/// A policy with what makes it safe to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// What it says.
    pub policy: SecurityPolicy,
    /// The only lattice that it is for.
    pub lattice: LatticeName,
    /// The hosts that it is for.
    #[serde(default)]
    pub scope: Scope,
    /// When it was signed, in seconds since 1970.
    pub issued_at: u64,
    /// Start of its validity, in seconds since 1970.
    pub not_before: u64,
    /// End of its validity, in seconds since 1970.
    pub expires: u64,
    /// Who signed it.
    pub issuer: PublicKey,
    /// Keys that sign nothing here any more, neither actors nor policies.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked_keys: BTreeSet<PublicKey>,
    /// Older code that may run although newer was seen.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_older: BTreeSet<Permit>,
}

/// Why a bundle makes no sense, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Senseless {
    /// It cannot be read.
    #[error("{reason}")]
    Unreadable {
        /// Why not.
        reason: String,
    },
    /// More rules than allowed.
    #[error("it has {found} rules, at most {MAX_RULES} are allowed")]
    TooManyRules {
        /// How many it has.
        found: usize,
    },
    /// A restriction that cannot be kept.
    #[error("network restriction `{word}` is not known, so it could not be kept: known is {INTERNAL_ONLY}")]
    Restriction {
        /// The word.
        word: String,
    },
    /// One of the numbers.
    #[error("{what}")]
    Bounds {
        /// Which, and how it must be.
        what: &'static str,
    },
}

impl Bundle {
    /// The document to sign. Plain fields always encode.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a bundle and checks its bounds.
    ///
    /// # Errors
    /// [`Senseless`].
    pub fn decode(body: &[u8]) -> Result<Self, Senseless> {
        let unreadable = |error: json::JsonError| Senseless::Unreadable { reason: error.to_string() };
        let bundle: Self = json::parse(body, MAX_BUNDLE_BYTES, DEPTH).map_err(unreadable)?;
        bundle.check().map(|()| bundle)
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`Senseless`] names what does not.
    pub fn check(&self) -> Result<(), Senseless> {
        let policy = &self.policy;
        let found = policy.allowed_contracts.len().saturating_add(policy.denied_contracts.len());
        if found > MAX_RULES {
            return Err(Senseless::TooManyRules { found });
        }
        if let Some(word) = policy.network_restrictions.iter().find(|word| *word != INTERNAL_ONLY) {
            return Err(Senseless::Restriction { word: word.chars().take(40).flat_map(char::escape_debug).collect() });
        }
        let bounds = [
            (policy.version == 0, "its version is 0: versions begin with 1"),
            (policy.max_actor_memory_mb == Some(0), "max_actor_memory_mb is 0, so that nothing could run: leave it out for no cap"),
            (self.expires <= self.not_before, "it ends before it begins"),
            (self.expires.saturating_sub(self.not_before) > MAX_VALIDITY_S, "it is valid for more than ten years"),
            (self.revoked_keys.len() > MAX_KEYS, "it revokes more than 256 keys"),
            (self.revoked_keys.contains(&self.issuer), "it revokes the key that signed it"),
            (self.allow_older.len() > MAX_KEYS, "it lets in more than 256 pieces of older code"),
        ];
        match bounds.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, what)) => Err(Senseless::Bounds { what }),
            None => Ok(()),
        }
    }

    /// Rules that fit no contract that this program knows: spelling mistakes, mostly.
    pub fn idle_rules(&self) -> impl Iterator<Item = &Rule> {
        let rules = self.policy.allowed_contracts.iter().chain(&self.policy.denied_contracts);
        rules.filter(|rule| !rules::Point::ALL.into_iter().any(|point| rule.fits(point)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
