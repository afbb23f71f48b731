//! Who complies: what a host says that it enforces, held against what it should.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::accept::Holding;
use super::force::{InForce, Preset};
use super::scope::{Facts, Scope};
use crate::id::{ConfigName, Digest};
use crate::trust::clock::Standing;

/// Longest reason that a host reports, in characters.
const MAX_REASON_CHARS: usize = 300;

/// A document that a host refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Digest of the whole document, with the line that says who signed it: the same words under another signature are another
    /// document.
    pub document: Digest,
    /// Why, in at most 300 characters.
    pub why: String,
}

impl Refusal {
    /// The refusal of `document`, which may be anything.
    pub fn new(document: &[u8], why: &str) -> Self {
        Self { document: Digest::of(document), why: cut(why) }
    }
}

fn cut(why: &str) -> String {
    why.chars().take(MAX_REASON_CHARS).collect()
}

/// What a host enforces: its acknowledgement, a part of its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Policies in force with their versions.
    #[serde(default)]
    pub policies: BTreeMap<ConfigName, u64>,
    /// Versions that it knows and that are not for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<ConfigName, u64>,
    /// What it refuses of that which stands in the store, as it last read it: by the policy in whose place it stands, whatever
    /// it says itself. No more of them than a host keeps policies.
    #[serde(rename = "refusals", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<ConfigName, Refusal>,
    /// What holds without any policy.
    #[serde(default)]
    pub preset: Preset,
    /// Why it does not know what to enforce, and allows nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Why nothing starts there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_starts: Option<String>,
    /// How its clock stands.
    #[serde(default = "trusted", skip_serializing_if = "is_trusted")]
    pub clock: Standing,
}

fn trusted() -> Standing {
    Standing::Trusted
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_trusted(clock: &Standing) -> bool {
    *clock == Standing::Trusted
}

impl Enforced {
    /// What a host says of itself. `refused`: as in the field.
    pub fn new(holding: &Holding, force: &InForce, preset: Preset, clock: Standing, refused: &BTreeMap<ConfigName, Refusal>) -> Self {
        let elsewhere = holding.marks().iter().filter(|(_, mark)| mark.elsewhere);
        Self {
            policies: force.policies().clone(),
            elsewhere: elsewhere.map(|(policy, mark)| (policy.clone(), mark.version)).collect(),
            refused: refused.clone(),
            preset,
            lost: holding.lost().map(cut),
            no_starts: force.may_start().err().map(|why| cut(&why.to_string())),
            clock,
        }
    }

    /// The refusal of the document with this digest, wherever it stands.
    pub fn refusal_of(&self, document: &Digest) -> Option<&Refusal> {
        self.refused.values().find(|refusal| refusal.document == *document)
    }
}

/// A policy as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The policy.
    pub policy: ConfigName,
    /// Its newest version.
    pub version: u64,
    /// Hosts that it is for.
    pub scope: Scope,
    /// Digest of the whole document, as in [`Refusal`].
    pub document: Digest,
}

/// How a host stands to one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Compliance {
    /// It enforces this version, or knows that it is not meant.
    Complies,
    /// It enforces an older version, or none.
    Behind {
        /// Its version.
        has: Option<u64>,
    },
    /// It refuses this very document.
    Refuses {
        /// Its version.
        has: Option<u64>,
        /// Why.
        why: String,
    },
    /// It does not answer, or is too old to say.
    Silent,
}

/// How `host`, which says `said`, stands to `wanted`.
pub fn compliance(wanted: &Wanted, host: &Facts<'_>, said: Option<&Enforced>) -> Compliance {
    let Some(said) = said else { return Compliance::Silent };
    let meant = wanted.scope.covers(host);
    let has = said.policies.get(&wanted.policy).copied();
    if has.is_some_and(|version| version >= wanted.version) || (!meant && has.is_none()) {
        return Compliance::Complies;
    }
    // What it refused before says nothing about what it will do with this one.
    match said.refusal_of(&wanted.document) {
        Some(refusal) => Compliance::Refuses { has, why: refusal.why.clone() },
        None => Compliance::Behind { has },
    }
}
