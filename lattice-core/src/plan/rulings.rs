//! What policies leave of each host: where an actor would be refused, and where it is.
//!
//! Two questions. Where something *may go* follows the store, because a host that does not know the newest policy yet will
//! in a moment. What *runs* is judged by policy only on a host that says that it enforces exactly what is stored, and has
//! stopped it by then: a document that hosts do not accept takes nothing away from anybody. Whether a policy has expired and
//! whether a host has lost its own is the host's word, too.
//!
//! **Invariants.** Hosts that say nothing of policy are not judged by it. What policies come to is worked out once for each
//! set of them, not for each host or actor. System actors are beyond policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::contract::Contract;
use crate::id::HostId;
use crate::inventory::Inventory;
use crate::placement::Reject;
use crate::policy::effects;
use crate::policy::force::{InForce, Preset};
use crate::policy::posted::{Posted, Set};
use crate::policy::report::Enforced;
use crate::policy::scope::Facts;
use crate::wire::report::HostReport;

/// Contracts that policies are about.
const CONTRACTS: [Contract; 4] = [Contract::KeyValue, Contract::Messaging, Contract::HttpServer, Contract::HttpClient];
/// Sets of them.
const CONTRACT_SETS: usize = 1 << CONTRACTS.len();

/// What an actor asks of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asks {
    contracts: usize,
    /// Memory that was asked for one instance in MiB. What was measured does not count: it is gone with the instance.
    memory_mb: u32,
}

impl Asks {
    /// An actor with links of these contracts.
    pub(super) fn new(contracts: impl IntoIterator<Item = Contract>, memory_mb: u32) -> Self {
        let bit = |contract: Contract| CONTRACTS.iter().position(|known| *known == contract).map_or(0, |place| 1 << place);
        Self { contracts: contracts.into_iter().fold(0, |set, contract| set | bit(contract)), memory_mb }
    }
}

/// The hosts on which policies shut anything out.
#[derive(Debug, Default)]
pub(super) struct Rulings<'a> {
    hosts: BTreeMap<&'a HostId, usize>,
    rulings: Vec<Ruling>,
}

impl<'a> Rulings<'a> {
    /// The rulings for hosts that answer.
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let mut all = Self::default();
        let mut known: BTreeMap<Grounds<'a>, Option<usize>> = BTreeMap::new();
        for (id, report) in &inventory.hosts {
            let Some(grounds) = Grounds::of(&inventory.policies, report) else { continue };
            let place = *known.entry(grounds).or_insert_with(|| {
                let ruling = Ruling::new(&inventory.policies, &grounds);
                ruling.shuts_out_anything().then(|| {
                    all.rulings.push(ruling);
                    all.rulings.len() - 1
                })
            });
            if let Some(place) = place {
                all.hosts.insert(id, place);
            }
        }
        all
    }

    /// Whether an actor may be placed on a host.
    pub(super) fn admits(&self, asks: Option<Asks>, host: &HostId) -> Result<(), Reject> {
        match (asks, self.of(host)) {
            (Some(asks), Some(ruling)) => ruling.admits(asks),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// Whether a host goes on with an actor that it has; `runs`: it says that it runs it.
    pub(super) fn keeps(&self, asks: Option<Asks>, host: &HostId, runs: bool) -> Result<(), Reject> {
        match (asks, self.of(host)) {
            (Some(asks), Some(ruling)) if ruling.enforced => ruling.keeps(asks, runs),
            (None, _) | (_, None | Some(_)) => Ok(()),
        }
    }

    fn of(&self, host: &HostId) -> Option<&Ruling> {
        if self.hosts.is_empty() {
            return None;
        }
        self.hosts.get(host).and_then(|place| self.rulings.get(*place))
    }
}

/// Everything that a ruling depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grounds<'a> {
    set: Set,
    preset: Preset,
    /// Whether the host enforces exactly this.
    enforced: bool,
    lost: Option<&'a str>,
    no_starts: Option<&'a str>,
}

impl<'a> Grounds<'a> {
    /// None for a host that says nothing of policy.
    fn of(posted: &Posted, report: &'a HostReport) -> Option<Self> {
        let said: &Enforced = report.policy.as_ref()?;
        let facts = Facts { id: &report.id, name: &report.name, region: &report.region, labels: &report.labels };
        let meant = posted.meant_for(&facts);
        let enforced = said.lost.is_some() || posted.is_enforced(meant, said);
        let set = if enforced { meant } else { meant & !posted.refused_by(said) };
        // What an older version says that a host holds on to is not known here.
        let unknown = !enforced && set == 0 && !said.policies.is_empty();
        Some(Self {
            set,
            preset: if unknown { Preset::Open } else { said.preset },
            enforced,
            lost: said.lost.as_deref(),
            no_starts: said.no_starts.as_deref().filter(|_| enforced),
        })
    }
}

/// A sentence, and the contract that it is about.
type Why = (Option<Contract>, Arc<str>);

/// What a set of policies comes to.
#[derive(Debug)]
struct Ruling {
    enforced: bool,
    /// Why an actor with these contracts is denied.
    denied: [Option<Why>; CONTRACT_SETS],
    /// Why nothing starts.
    no_starts: Option<Why>,
    /// Most memory of an actor in MiB, and which policy says so.
    memory_cap: Option<(u32, String)>,
}

impl Ruling {
    fn new(posted: &Posted, grounds: &Grounds<'_>) -> Self {
        let force: InForce = posted.in_force(grounds.set, grounds.preset);
        let lost: Option<Why> = grounds.lost.map(|why| (None, Arc::from(format!("{why}: nothing is allowed there"))));
        let denied = std::array::from_fn(|contracts| lost.clone().or_else(|| denied(&force, contracts)));
        let by_host = || grounds.no_starts.map(|why| (None, Arc::from(why)));
        let by_force = || force.may_start().err().map(|why| (None, Arc::from(why.to_string())));
        Self {
            enforced: grounds.enforced,
            denied,
            no_starts: lost.or_else(by_host).or_else(by_force),
            memory_cap: force.memory_cap().map(|(cap, policy)| (cap, policy.to_string())),
        }
    }

    fn shuts_out_anything(&self) -> bool {
        self.no_starts.is_some() || self.memory_cap.is_some() || self.denied.iter().any(Option::is_some)
    }

    fn admits(&self, asks: Asks) -> Result<(), Reject> {
        self.no_starts.as_ref().map_or(Ok(()), |why| Err(reject(why)))?;
        self.allows(asks)
    }

    fn keeps(&self, asks: Asks, runs: bool) -> Result<(), Reject> {
        if runs { self.allows(asks) } else { self.admits(asks) }
    }

    fn allows(&self, asks: Asks) -> Result<(), Reject> {
        if let Some(Some(why)) = self.denied.get(asks.contracts) {
            return Err(reject(why));
        }
        match &self.memory_cap {
            Some((cap, policy)) if asks.memory_mb > *cap => {
                Err(Reject::PolicyMemory { needs: asks.memory_mb, cap: *cap, policy: policy.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn denied(force: &InForce, contracts: usize) -> Option<Why> {
    let used = CONTRACTS.into_iter().enumerate().filter(|(place, _)| contracts & (1 << place) != 0);
    let used: BTreeSet<Contract> = used.map(|(_, contract)| contract).collect();
    let (point, why) = effects::keeps(force, &used).err()?;
    Some((Some(point.contract()), Arc::from(why.to_string())))
}

fn reject((contract, why): &Why) -> Reject {
    Reject::Policy { contract: *contract, why: why.clone() }
}
