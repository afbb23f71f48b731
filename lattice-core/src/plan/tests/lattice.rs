//! A lattice that is planned again and again.

use super::*;
use crate::inventory::tests::{carry_out, verdict};
use crate::needs::Needs;
use crate::policy::posted::Posted;
use crate::wire::assignment::SlotAssignment;
use crate::wire::report::{HostReport, Profile};
use crate::wire::verdict::{Standing, Verdict};

/// A host of 1,000 thousandths of a core and 1,000 MiB.
pub(super) fn host(n: u8, region: &str) -> HostReport {
    HostReport {
        region: crate::id::Region::new(region).unwrap(),
        profile: Profile { cpu_capacity: 1000, memory_mb: 1000, cpu_used: 0, memory_used_mb: 0 },
        ..report(n, &format!("NEDGE0{}", n + 1))
    }
}

pub(super) fn four() -> Vec<HostReport> {
    vec![host(0, "eu"), host(1, "eu"), host(2, "ap"), host(3, "ap")]
}

pub(super) fn with(needs: Needs, max: u32) -> ComponentSpec {
    ComponentSpec { needs, ..component(&[], max) }
}

/// A lattice that is planned again and again, as its hosts carry out what they are told.
pub(super) struct Lattice {
    pub(super) desired: Desired,
    pub(super) hosts: Vec<HostReport>,
    pub(super) state: PlanState,
    pub(super) verdicts: Verdicts,
    pub(super) policies: Posted,
    revision: u64,
}

impl Lattice {
    pub(super) fn new(hosts: Vec<HostReport>) -> Self {
        let (desired, state, verdicts) = (Desired::default(), PlanState::default(), Verdicts::default());
        Self { desired, hosts, state, verdicts, policies: Posted::default(), revision: 0 }
    }

    pub(super) fn set(&mut self, id: &str, spec: ComponentSpec) {
        self.desired.components.insert(actor(id), spec);
    }

    pub(super) fn plan(&mut self) -> Plan {
        self.revision += 1;
        let inventory = self.inventory();
        let plan = plan(&self.desired, Revision(self.revision), &inventory, &self.verdicts, &self.state);
        if !plan.is_empty() {
            self.state = self.state.after(&plan, Revision(self.revision));
        }
        plan
    }

    pub(super) fn inventory(&self) -> Inventory {
        Inventory::new(self.hosts.clone(), self.state.assignments.values()).under(self.policies.clone())
    }

    /// Every host runs what it was told.
    pub(super) fn apply(&mut self) {
        for host in &mut self.hosts {
            if let Some(assignment) = self.state.assignments.get(&host.id) {
                carry_out(host, assignment);
            }
        }
    }

    /// Instances on each of the hosts.
    pub(super) fn shares(&self, id: &str) -> Vec<u32> {
        let shares = self.state.shares_of(&actor(id));
        self.hosts.iter().map(|host| shares.get(&host.id).copied().unwrap_or(0)).collect()
    }

    /// What the failover actors make of a host, as it was when it started first.
    pub(super) fn judge(&mut self, n: u8, standing: Standing) {
        self.verdicts.hosts.insert(host_id(n), verdict(n, standing));
    }

    /// The same of a host whose lease has ended.
    pub(super) fn judge_ended(&mut self, n: u8, standing: Standing) {
        self.verdicts.hosts.insert(host_id(n), Verdict { lease_ended: true, ..verdict(n, standing) });
    }

    /// A host is not heard any more.
    pub(super) fn silence(&mut self, n: u8) {
        self.hosts.retain(|host| host.id != host_id(n));
    }

    /// Instances by the number of their host.
    pub(super) fn at(&self, id: &str) -> BTreeMap<u8, u32> {
        let shares = self.state.shares_of(&actor(id));
        (0..10).filter_map(|n| Some((n, *shares.get(&host_id(n))?))).collect()
    }

    /// Owner and term of each slot; a released one has a negative owner, less one.
    pub(super) fn slots(&self, id: &str) -> BTreeMap<u32, (i8, u64)> {
        let owned = |n: u8| {
            let component = self.state.assignments.get(&host_id(n)).and_then(|assignment| assignment.components.get(id));
            component.and_then(|component| component.ownership.clone()).map_or_else(BTreeMap::new, |ownership| ownership.slots)
        };
        let signed = |n: u8, slot: SlotAssignment| if slot.release { -i8::try_from(n).unwrap() - 1 } else { i8::try_from(n).unwrap() };
        (0..10).flat_map(|n| owned(n).into_iter().map(move |(number, slot)| (number, (signed(n, slot), slot.term.0)))).collect()
    }
}
