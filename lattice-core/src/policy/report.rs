//! Who complies: what a host says that it enforces, held against what it should.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::accept::Holding;
use super::force::{InForce, Preset};
use super::scope::{Facts, Scope};
use crate::id::ConfigName;
use crate::trust::clock::Standing;

/// Longest reason that a host reports, in characters.
const MAX_REASON_CHARS: usize = 300;

/// What a host enforces: its acknowledgement, a part of its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Policies in force with their versions.
    #[serde(default)]
    pub policies: BTreeMap<ConfigName, u64>,
    /// Versions that it knows and that are not for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<ConfigName, u64>,
    /// Why it refused the newest document of a policy, by policy; under an empty name what names none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
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
    /// What a host says of itself. `refused`: the last refusal of each policy, as (name, sentence).
    pub fn new(holding: &Holding, force: &InForce, preset: Preset, clock: Standing, refused: &BTreeMap<String, String>) -> Self {
        let cut = |text: &str| -> String { text.chars().take(MAX_REASON_CHARS).collect() };
        let elsewhere = holding.marks().iter().filter(|(_, mark)| mark.elsewhere);
        Self {
            policies: force.policies().clone(),
            elsewhere: elsewhere.map(|(policy, mark)| (policy.clone(), mark.version)).collect(),
            refused: refused.iter().map(|(policy, why)| (policy.clone(), cut(why))).collect(),
            preset,
            lost: holding.lost().map(cut),
            no_starts: force.may_start().err().map(|why| cut(&why.to_string())),
            clock,
        }
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
    /// It refused it.
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
    match said.refused.get(wanted.policy.as_str()) {
        Some(why) => Compliance::Refuses { has, why: why.clone() },
        None => Compliance::Behind { has },
    }
}
