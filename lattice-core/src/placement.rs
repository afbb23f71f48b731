//! Which hosts can take an instance, and which of them is best.
//!
//! [`Table`] holds the hosts with what is used of them; [`Table::best`] finds the best one for an [`Ask`]. A host that
//! cannot take it is rejected with a [`Reject`] that says why in numbers.
//!
//! **Invariants.** The order of hosts is total: score, instances of the same actor, name, id. Nothing in a report is
//! trusted: subtraction saturates, a capacity of 0 offers nothing, more use than capacity leaves nothing.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::contract::Contract;
use crate::id::{ActorId, HostId, HostName, ProviderId, Region};
use crate::needs::{Needs, Strategy};
use crate::wire::report::{HostReport, HostState};
use crate::wire::schedule::{EdgeNode, Need, TaskSpec};
pub use table::{Candidates, Index, Table};

/// Hundredths of a score that one actor on a host weighs; as much as one per cent of CPU or memory.
const ACTOR_WEIGHT: u32 = 100;

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Identity.
    pub id: HostId,
    /// Name, by which ties are broken.
    pub name: HostName,
    /// Region.
    pub region: Region,
    /// Labels; `region` is always among them.
    pub labels: BTreeMap<String, String>,
    /// CPU in thousandths of a core.
    pub cpu_capacity: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// CPU used or promised.
    pub cpu_used: u32,
    /// Memory used or promised, in MiB.
    pub memory_used_mb: u32,
    /// Different actors on it.
    pub actors: u32,
    /// Round trips to regions in microseconds.
    pub rtt_us: BTreeMap<Region, u32>,
    /// Why nothing new may be placed there, if so.
    pub closed: Option<Closed>,
}

/// Why nothing new is placed on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The operator said so.
    Cordoned,
    /// What runs there moves away.
    Draining,
    /// It was told to stop, or is about to.
    Stopping,
    /// It does not answer.
    Silent,
    /// It is not heard as it should be.
    Suspect,
    /// It is taken for gone.
    Dead,
    /// It was taken for gone and has not been heard for long enough since.
    Returned,
    /// It has too many errors of its own; what runs there moves away.
    Degraded,
    /// The operator takes it for gone.
    FailedOver,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cordoned => "it is cordoned",
            Self::Draining => "it is draining",
            Self::Stopping => "it is stopping",
            Self::Silent => "it does not answer",
            Self::Suspect => "it is Suspect: not heard as it should be",
            Self::Dead => "it is Dead: taken for gone",
            Self::Returned => "it is Returned: not heard for long enough since it was taken for gone",
            Self::Degraded => "it is Degraded: too many errors of its own",
            Self::FailedOver => "it was failed over by the operator",
        })
    }
}

impl Node {
    /// The host as it says it is.
    pub fn new(report: &HostReport) -> Self {
        let mut labels = report.labels.clone();
        labels.insert("region".to_owned(), report.region.to_string());
        Self {
            id: report.id.clone(),
            name: report.name.clone(),
            region: report.region.clone(),
            labels,
            cpu_capacity: report.profile.cpu_capacity,
            memory_mb: report.profile.memory_mb,
            cpu_used: report.profile.cpu_used,
            memory_used_mb: report.profile.memory_used_mb,
            actors: u32::try_from(report.components.len()).unwrap_or(u32::MAX),
            rtt_us: report.rtt_us.clone(),
            closed: (report.state == HostState::Draining).then_some(Closed::Stopping),
        }
    }

    /// CPU that is left, in thousandths of a core.
    pub fn cpu_free(&self) -> u32 {
        self.cpu_capacity.saturating_sub(self.cpu_used)
    }

    /// Memory that is left, in MiB.
    pub fn memory_free_mb(&self) -> u32 {
        self.memory_mb.saturating_sub(self.memory_used_mb)
    }

    /// How much it is used: `cpu % + memory % + actors`, in hundredths. Lower is emptier.
    pub fn score(&self) -> u32 {
        let actors = self.actors.saturating_mul(ACTOR_WEIGHT);
        percent(self.cpu_used, self.cpu_capacity).saturating_add(percent(self.memory_used_mb, self.memory_mb)).saturating_add(actors)
    }

    /// How many instances of `need` still fit; `u32::MAX` if it asks for nothing.
    pub fn fits(&self, need: &Need) -> u32 {
        let cpu = self.cpu_free().checked_div(need.cpu).unwrap_or(u32::MAX);
        let memory = self.memory_free_mb().checked_div(need.memory_mb).unwrap_or(u32::MAX);
        cpu.min(memory)
    }

    /// The host in the seed's words.
    pub fn edge_node(&self) -> EdgeNode {
        EdgeNode {
            node_id: self.name.to_string(),
            region: self.region.to_string(),
            cpu_capacity: self.cpu_capacity,
            memory_mb: self.memory_mb,
            cpu_used: self.cpu_used,
            memory_used_mb: self.memory_used_mb,
            actor_count: self.actors,
            is_healthy: self.closed.is_none(),
        }
    }
}

/// Hundredths of a per cent of `capacity`; all of it if there is none, or more is used than there is.
fn percent(used: u32, capacity: u32) -> u32 {
    let hundredths = u64::from(used).saturating_mul(10_000).checked_div(u64::from(capacity)).unwrap_or(10_000);
    u32::try_from(hundredths.min(10_000)).unwrap_or(10_000)
}

/// Why a host is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// Nothing new is placed there.
    Closed(Closed),
    /// It is not the preferred region, and a host there can take it.
    Region(Region),
    /// A label is missing or has another value.
    Label {
        /// Its name.
        name: String,
        /// The value that is asked for; none: any.
        wanted: Option<String>,
        /// What the host has.
        has: Option<String>,
    },
    /// Too little CPU, in thousandths of a core.
    Cpu {
        /// Asked.
        needs: u32,
        /// Free.
        has: u32,
    },
    /// Too little memory, in MiB.
    Memory {
        /// Asked.
        needs: u32,
        /// Free.
        has: u32,
    },
    /// Too far from a region.
    Latency {
        /// The region.
        region: Region,
        /// Allowed, in milliseconds.
        max_ms: u32,
        /// Measured, in microseconds; none: not measured yet.
        measured_us: Option<u32>,
    },
    /// An actor that must not be near.
    AntiAffinity(ActorId),
    /// A provider that a link names does not run there.
    Provider(ProviderId),
    /// A port is taken.
    Port {
        /// The port.
        port: u16,
        /// Who has it.
        holder: ActorId,
    },
    /// Policies in force there deny it.
    Policy {
        /// What is denied; none: anything that does not run yet.
        contract: Option<Contract>,
        /// Why, for people; shared by all who are told.
        why: Arc<str>,
    },
    /// Policies in force there leave an actor less memory than one of its instances was said to need.
    PolicyMemory {
        /// Asked, in MiB.
        needs: u32,
        /// Allowed, in MiB.
        cap: u32,
        /// Which policy says so.
        policy: String,
    },
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(why) => why.fmt(f),
            Self::Region(wanted) => write!(f, "region ≠ {wanted}"),
            Self::Label { name, wanted: Some(wanted), has: Some(has) } => write!(f, "label {name} ≠ {wanted}, it is {has}"),
            Self::Label { name, wanted: Some(wanted), has: None } => write!(f, "label {name} ≠ {wanted}, it has none"),
            Self::Label { name, wanted: None, .. } => write!(f, "it has no label {name}"),
            Self::Cpu { needs, has } => write!(f, "needs {needs} thousandths of a core, has {has}"),
            Self::Memory { needs, has } => write!(f, "needs {needs} MiB, has {has}"),
            Self::Latency { region, max_ms, measured_us: Some(us) } => {
                write!(f, "{} ms to {region}, at most {max_ms} ms are allowed", f64::from(*us) / 1000.0)
            }
            Self::Latency { region, max_ms, measured_us: None } => {
                write!(f, "round trip to {region} is not measured yet, at most {max_ms} ms are allowed")
            }
            Self::AntiAffinity(actor) => write!(f, "{actor} runs there, they keep apart"),
            Self::Provider(provider) => write!(f, "provider {provider} does not run there"),
            Self::Port { port, holder } => write!(f, "port {port} is taken by {holder}"),
            Self::Policy { contract: Some(contract), why } => write!(f, "capability denied: {contract}: {why}"),
            Self::Policy { contract: None, why } => f.write_str(why),
            Self::PolicyMemory { needs, cap, policy } => write!(f, "needs {needs} MiB, policy {policy} allows an actor {cap} MiB"),
        }
    }
}

/// What a host is asked to take: one instance.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// What it needs.
    pub need: Need,
    /// Rules of the actor.
    pub rules: &'a Needs,
    /// Which of several fitting hosts is taken.
    pub strategy: Strategy,
}

impl Ask<'_> {
    /// Whether `node` suits the actor, its size aside.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn suits(&self, node: &Node) -> Result<(), Reject> {
        if let Some(closed) = node.closed {
            return Err(Reject::Closed(closed));
        }
        self.labels_suit(node)?;
        self.latency_suits(node)
    }

    /// Whether `node` has the labels that the actor must have.
    ///
    /// # Errors
    /// [`Reject::Label`].
    pub fn labels_suit(&self, node: &Node) -> Result<(), Reject> {
        let wrong = self.rules.labels.iter().find(|(name, wanted)| node.labels.get(*name) != Some(wanted));
        match wrong {
            Some((name, wanted)) => {
                Err(Reject::Label { name: name.clone(), wanted: Some(wanted.clone()), has: node.labels.get(name).cloned() })
            }
            None => Ok(()),
        }
    }

    fn latency_suits(&self, node: &Node) -> Result<(), Reject> {
        let Some(max_ms) = self.rules.max_latency_ms else { return Ok(()) };
        let allowed_us = max_ms.saturating_mul(1000);
        let reject = |region: &Region, measured_us| Err(Reject::Latency { region: region.clone(), max_ms, measured_us });
        match &self.rules.region {
            Some(region) => match node.rtt_us.get(region) {
                Some(us) if *us <= allowed_us => Ok(()),
                // Within its own region a host is near enough until it is measured otherwise: it may be alone there.
                None if node.region == *region => Ok(()),
                measured => reject(region, measured.copied()),
            },
            None => match node.rtt_us.iter().max_by_key(|(_, us)| **us) {
                Some((region, us)) if *us > allowed_us => reject(region, Some(*us)),
                Some(_) | None => Ok(()),
            },
        }
    }

    /// Whether `node` has room for one instance.
    ///
    /// # Errors
    /// [`Reject::Cpu`], [`Reject::Memory`] with what is asked and what is free.
    pub fn has_room(&self, node: &Node) -> Result<(), Reject> {
        if node.cpu_free() < self.need.cpu {
            return Err(Reject::Cpu { needs: self.need.cpu, has: node.cpu_free() });
        }
        if node.memory_free_mb() < self.need.memory_mb {
            return Err(Reject::Memory { needs: self.need.memory_mb, has: node.memory_free_mb() });
        }
        Ok(())
    }

    /// How many of the preferred labels `node` has.
    pub fn preferred_labels(&self, node: &Node) -> usize {
        self.rules.prefer.iter().filter(|(name, value)| node.labels.get(*name) == Some(value)).count()
    }
}

impl TaskSpec {
    /// The task as rules of an actor; what is empty or 0 asks for nothing.
    ///
    /// # Errors
    /// What is wrong with the region's name, or a number out of bounds.
    pub fn rules(&self) -> Result<Needs, String> {
        let region = match self.preferred_region.as_str() {
            "" => None,
            name => Some(Region::new(name).map_err(|error| error.to_string())?),
        };
        let max_latency_ms = (self.max_latency_ms > 0).then(|| u32::try_from(self.max_latency_ms).unwrap_or(u32::MAX));
        let needs = Needs {
            cpu: self.cpu_required,
            memory_mb: self.memory_required_mb,
            region,
            max_latency_ms,
            priority: self.priority,
            ..Needs::default()
        };
        Ok(needs)
    }
}

/// Shares of `max` instances among `hosts`: as even as can be, the first ones get one more; a host whose share is 0 is left
/// out. The shares sum up to `max`.
pub fn shares(max: u32, hosts: &BTreeSet<HostId>) -> BTreeMap<HostId, u32> {
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
    let (base, rest) = (max / count, max % count);
    let share = |index: usize| base.saturating_add(u32::from(u32::try_from(index).unwrap_or(u32::MAX) < rest));
    let all = hosts.iter().enumerate().map(|(index, host)| (host.clone(), share(index)));
    all.filter(|(_, share)| *share > 0).collect()
}

#[cfg(test)]
mod tests;
