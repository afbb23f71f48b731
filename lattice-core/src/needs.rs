//! What an actor asks of the hosts that run it.
//!
//! Written by the operator as flags of `start` and `scale`; placement reads it, hosts never see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, Region};

/// Most CPU that one instance may ask for, in thousandths of a core: a thousand cores.
pub const MAX_CPU: u32 = 1_000_000;
/// Most memory that one instance may ask for, in MiB: what 32-bit wasm can address.
pub const MAX_MEMORY_MB: u32 = 4096;
/// Most slots of one actor.
pub const MAX_SLOTS: u32 = 1024;
/// Most labels, preferences or actors to keep away from.
pub const MAX_RULES: usize = 32;
/// Longest label name or value in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// What one instance of an actor asks for, and how its instances are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Needs {
    /// CPU of one instance in thousandths of a core; 0 asks for nothing, then only what was measured counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu: u32,
    /// Memory of one instance in MiB; 0 asks for nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_mb: u32,
    /// Region that is preferred; hosts elsewhere are taken when none there can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Labels that a host must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Labels that are preferred; a host with more of them comes before one with fewer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefer: BTreeMap<String, String>,
    /// Longest round trip to the preferred region in milliseconds, as hosts measure it; without a region to the farthest
    /// region that the host has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<u32>,
    /// An actor of higher priority is placed first and may displace those of lower priority.
    #[serde(default, skip_serializing_if = "is_lowest")]
    pub priority: u8,
    /// Actors that must not run on the same host, in either direction.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub anti_affinity: BTreeSet<ActorId>,
    /// Over what instances are spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Which of several fitting hosts is taken; none: as the scheduler is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// `max` instances on every host that fits, later ones included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub daemon: bool,
    /// What its instances are to each other.
    #[serde(default, skip_serializing_if = "Class::is_default")]
    pub class: Class,
    /// Into how many parts with one owner each the actor is divided; 0 and 1: it is one. Only for classes with owners.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slots: u32,
}

/// A host, or a label whose values make the domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Spread {
    /// Over hosts.
    Host,
    /// Over the values of a label; `region` is one that every host has.
    Label(String),
}

impl From<String> for Spread {
    fn from(text: String) -> Self {
        if text.is_empty() || text == "host" { Self::Host } else { Self::Label(text) }
    }
}

impl From<Spread> for String {
    fn from(spread: Spread) -> String {
        spread.to_string()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.pad("host"),
            Self::Label(label) => f.pad(label),
        }
    }
}

/// Which of several fitting hosts is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one that is used least: `cpu % + memory % + actors`, as the seed has it.
    #[default]
    Balanced,
    /// The one that is used most and still fits, so that few hosts are needed.
    Pack,
    /// One after the other, by name.
    RoundRobin,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Balanced, Self::Pack, Self::RoundRobin];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Pack => "pack",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// What the instances of an actor are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Instances are alike, nobody owns anything.
    #[default]
    Shared,
    /// Each slot has one owner, and the store refuses the effects of anybody else: taken over at once when its host is
    /// taken for gone.
    Fenced,
    /// As `Fenced`, and the owner stops by itself before anybody may take over: for effects that no store can refuse.
    Strict,
    /// Bound to its host: nothing ever moves or displaces it.
    Autonomous,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Fenced, Self::Strict, Self::Autonomous];

    /// Whether the store fences the effects of its slots.
    pub fn is_fenced(self) -> bool {
        matches!(self, Self::Fenced | Self::Strict)
    }

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Fenced => "fenced",
            Self::Strict => "strict",
            Self::Autonomous => "autonomous",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Why needs make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NeedsError {
    /// A number or text out of its bounds.
    #[error("{what}: {rule}")]
    Bounds {
        /// What it is.
        what: String,
        /// The bound.
        rule: String,
    },
    /// Two rules that no host can satisfy together.
    #[error("{first} and {second} contradict each other")]
    Contradiction {
        /// One rule.
        first: String,
        /// The other.
        second: String,
    },
}

impl Needs {
    /// Slots of an actor whose class has owners, at least one.
    pub fn slot_count(&self) -> u32 {
        self.slots.clamp(1, MAX_SLOTS)
    }

    /// Whether the actor is divided into slots with one owner and one instance each. An autonomous one that is in one part
    /// runs whole wherever it runs.
    pub fn is_divided(&self) -> bool {
        match self.class {
            Class::Shared => false,
            Class::Fenced | Class::Strict => true,
            Class::Autonomous => self.slots > 1 && !self.daemon,
        }
    }

    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Looks for values out of bounds and for rules of `actor` that contradict each other. `max` is how many instances it
    /// may have.
    ///
    /// # Errors
    /// [`NeedsError`] names the rules.
    pub fn check(&self, actor: &ActorId) -> Result<(), NeedsError> {
        let bounds = |what: &str, rule: String| Err(NeedsError::Bounds { what: what.to_owned(), rule });
        if self.cpu > MAX_CPU {
            return bounds("cpu", format!("{} thousandths of a core, at most {MAX_CPU} may be asked for", self.cpu));
        }
        if self.memory_mb > MAX_MEMORY_MB {
            return bounds("memory", format!("{} MiB, at most {MAX_MEMORY_MB} may be asked for", self.memory_mb));
        }
        if self.slots > MAX_SLOTS {
            return bounds("slots", format!("{}, at most {MAX_SLOTS} are allowed", self.slots));
        }
        if self.labels.len() > MAX_RULES || self.prefer.len() > MAX_RULES || self.anti_affinity.len() > MAX_RULES {
            return bounds("labels", format!("at most {MAX_RULES} of a kind are allowed"));
        }
        let spread = match &self.spread {
            Some(Spread::Label(label)) => Some((label, label)),
            Some(Spread::Host) | None => None,
        };
        for (name, value) in self.labels.iter().chain(&self.prefer).chain(spread) {
            if name.is_empty() || name.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES || has_control(name) || has_control(value) {
                let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
                return bounds(&format!("label `{shown}`"), format!("must have 1 to {MAX_LABEL_BYTES} bytes and no control characters"));
            }
        }
        self.check_contradictions(actor)
    }

    fn check_contradictions(&self, actor: &ActorId) -> Result<(), NeedsError> {
        let contradict = |first: String, second: String| Err(NeedsError::Contradiction { first, second });
        if self.anti_affinity.contains(actor) {
            return contradict(format!("{actor}"), "keeping away from itself (spread it over hosts instead)".into());
        }
        if let (true, Some(spread)) = (self.daemon, &self.spread) {
            return contradict("daemon".into(), format!("spread over {spread}"));
        }
        if self.slots > 1 && self.class == Class::Shared {
            return contradict(format!("{} slots", self.slots), "class shared, in which nobody owns anything".into());
        }
        if self.daemon && self.class.is_fenced() {
            return contradict("daemon".into(), format!("class {}, of which each slot has one owner", self.class.as_str()));
        }
        match (&self.region, self.labels.get("region")) {
            (Some(region), Some(label)) if region.as_str() != label => {
                contradict(format!("region {region}"), format!("label region={label}"))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if gives references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if gives references")]
fn is_lowest(priority: &u8) -> bool {
    *priority == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn nonsense_is_named() {
        let actor = ActorId::new("a").unwrap();
        let check = |needs: Needs, expected: &str| assert_eq!(needs.check(&actor).unwrap_err().to_string(), expected);
        check(Needs { cpu: 2_000_000, ..Needs::default() }, "cpu: 2000000 thousandths of a core, at most 1000000 may be asked for");
        check(Needs { memory_mb: 5000, ..Needs::default() }, "memory: 5000 MiB, at most 4096 may be asked for");
        check(
            Needs { anti_affinity: BTreeSet::from([actor.clone()]), ..Needs::default() },
            "a and keeping away from itself (spread it over hosts instead) contradict each other",
        );
        check(Needs { daemon: true, spread: Some(Spread::Host), ..Needs::default() }, "daemon and spread over host contradict each other");
        check(
            Needs { region: Some(Region::new("eu").unwrap()), labels: label("region", "ap"), ..Needs::default() },
            "region eu and label region=ap contradict each other",
        );
        check(Needs { labels: label("", "x"), ..Needs::default() }, "label ``: must have 1 to 128 bytes and no control characters");
        check(
            Needs { spread: Some(Spread::Label("a\n".into())), ..Needs::default() },
            "label `a\\n`: must have 1 to 128 bytes and no control characters",
        );
        assert!(Needs::default().check(&actor).is_ok());
    }

    #[test]
    fn what_is_not_asked_for_is_not_written() {
        assert_eq!(serde_json::to_string(&Needs::default()).unwrap(), "{}");
        let needs =
            Needs { cpu: 250, spread: Some(Spread::Label("region".into())), strategy: Some(Strategy::RoundRobin), ..Needs::default() };
        let text = serde_json::to_string(&needs).unwrap();
        assert_eq!(text, r#"{"cpu":250,"spread":"region","strategy":"round-robin"}"#);
        assert_eq!(serde_json::from_str::<Needs>(&text).unwrap(), needs);
    }
}
