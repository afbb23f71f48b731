//! What is: the hosts that answered, folded from their reports, and the policies that they are under.
//!
//! **Invariant.** Health is ordered from good to bad: of two opinions of one host the worse counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{self, Problem};
use crate::id::{HostId, HostName};
use crate::policy::posted::Posted;
use crate::wire::assignment::Assignment;
use crate::wire::report::{HostReport, HostState};
use crate::wire::verdict::Standing;

/// Health in the seed's three words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// It answers and takes work.
    Healthy,
    /// It answers, with errors, while it drains, or not for long enough since it was taken for gone.
    Degraded,
    /// It does not answer, or not as it should.
    Unhealthy,
}

impl Health {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::Unhealthy => "Unhealthy",
        }
    }

    /// Health of a host by its own report.
    pub fn of(report: &HostReport) -> Self {
        if report.state == HostState::Draining || report.error_count > 0 { Self::Degraded } else { Self::Healthy }
    }

    /// Health of a host of which the failover actors, or the operator, think so.
    pub fn of_standing(standing: Standing) -> Self {
        match standing {
            Standing::Healthy => Self::Healthy,
            Standing::Degraded | Standing::Returned => Self::Degraded,
            Standing::Suspect | Standing::Dead => Self::Unhealthy,
        }
    }
}

/// All hosts that are known: by their own report, or only by the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Hosts that answered.
    pub hosts: BTreeMap<HostId, HostReport>,
    /// Hosts that the plan knows and that did not answer.
    pub absent: BTreeMap<HostId, Option<HostName>>,
    /// What operators have said that hosts shall allow.
    pub policies: Posted,
}

impl Inventory {
    /// Folds reports and the plan's assignments. Of two reports of one host the newer counts: same incarnation, higher
    /// sequence; of two incarnations the one that sorts last, as they are made to.
    pub fn new<'a>(reports: impl IntoIterator<Item = HostReport>, assignments: impl IntoIterator<Item = &'a Assignment>) -> Self {
        let mut hosts: BTreeMap<HostId, HostReport> = BTreeMap::new();
        for report in reports {
            let newer = |known: &HostReport| (&report.incarnation, report.seq) >= (&known.incarnation, known.seq);
            if hosts.get(&report.id).is_none_or(newer) {
                hosts.insert(report.id.clone(), report);
            }
        }
        let unseen = assignments.into_iter().filter(|assignment| !hosts.contains_key(&assignment.host));
        let absent = unseen.map(|assignment| (assignment.host.clone(), assignment.host_name.clone())).collect();
        Self { hosts, absent, policies: Posted::default() }
    }

    /// The same in a lattice with these policies.
    #[must_use]
    pub fn under(mut self, policies: Posted) -> Self {
        self.policies = policies;
        self
    }

    /// Name of a host, its id if it has none.
    pub fn name_of(&self, id: &HostId) -> String {
        let absent = || self.absent.get(id).and_then(Option::as_ref);
        let name = self.hosts.get(id).map(|report| &report.name).or_else(absent);
        name.map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// The host that `text` means: an id, a name, or the beginning of exactly one id or name.
    ///
    /// # Errors
    /// `host not found: <text>` with the nearest names; also if several hosts fit.
    pub fn find(&self, text: &str) -> Result<HostId, Problem> {
        let ids = || self.hosts.keys().chain(self.absent.keys());
        let names: Vec<(String, &HostId)> = ids().map(|id| (self.name_of(id), id)).collect();
        let exact: Vec<&HostId> = names.iter().filter(|(name, id)| name == text || id.as_str() == text).map(|(_, id)| *id).collect();
        let begins = || names.iter().filter(|(name, id)| !text.is_empty() && (name.starts_with(text) || id.as_str().starts_with(text)));
        let fitting: Vec<&HostId> = if exact.is_empty() { begins().map(|(_, id)| *id).collect() } else { exact };
        match fitting.as_slice() {
            [id] => Ok((*id).clone()),
            [] => {
                let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
                let live: Vec<&str> = self.hosts.values().map(|report| report.name.as_str()).collect();
                let hint = match error::nearest(text, names.iter().map(|(name, _)| name.as_str())) {
                    Some(name) => format!("did you mean {name}? `lattice-ctl get hosts` lists all"),
                    None if live.is_empty() => "no host answers: `lattice-ctl doctor`".to_owned(),
                    None => format!("live hosts: {}", live.join(", ")),
                };
                Err(Problem::host_not_found(&shown).hint(hint))
            }
            several => {
                let list: Vec<String> = several.iter().map(|id| format!("{} ({id})", self.name_of(id))).collect();
                Err(Problem::host_not_found(text).hint(format!("{} hosts fit: {}", several.len(), list.join(", "))))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::{Generation, Incarnation, LatticeName, Region};
    use crate::wire::report::{ComponentReport, ComponentState, Profile, SlotReport};
    use crate::wire::verdict::{Evidence, Verdict};

    pub(crate) fn host_id(n: u8) -> HostId {
        HostId::new(format!("N{}", char::from(b'A' + n).to_string().repeat(55))).unwrap()
    }

    pub(crate) fn report(n: u8, name: &str) -> HostReport {
        HostReport {
            id: host_id(n),
            name: HostName::new(name).unwrap(),
            lattice: LatticeName::new("default").unwrap(),
            region: Region::new("local").unwrap(),
            labels: BTreeMap::new(),
            incarnation: Incarnation::new("01").unwrap(),
            seq: 1,
            version: "0.1.0".into(),
            state: HostState::Ready,
            uptime_seconds: 1,
            profile: Profile::default(),
            applied_generation: Generation(0),
            error_count: 0,
            lease_rev: 0,
            rtt_us: BTreeMap::new(),
            components: BTreeMap::new(),
            providers: BTreeMap::new(),
            policy: None,
        }
    }

    /// The host runs what it was told, and says so.
    pub(crate) fn carry_out(host: &mut HostReport, assignment: &Assignment) {
        host.seq += 1;
        host.applied_generation = assignment.generation;
        host.components = assignment
            .components
            .iter()
            .map(|(id, component)| {
                let slots = component.ownership.iter().flat_map(|ownership| &ownership.slots).filter(|(_, slot)| !slot.release);
                let slots = slots.map(|(number, slot)| (*number, SlotReport { term: slot.term, epoch: 1 })).collect();
                let running = ComponentReport::new(component.digest.clone(), ComponentState::Running, component.instances);
                (id.clone(), ComponentReport { slots, ..running })
            })
            .collect();
    }

    pub(crate) fn verdict(n: u8, standing: Standing) -> Verdict {
        Verdict {
            host: host_id(n),
            name: HostName::new(format!("NEDGE{:02}", n + 1)).unwrap(),
            region: Region::new("local").unwrap(),
            incarnation: Incarnation::new("01").unwrap(),
            standing,
            evidence: Evidence::Silent,
            reason: "heartbeat timeout: 3000ms".into(),
            lease_ended: false,
            flaps: 0,
            at_ms: 0,
            by: "test".into(),
        }
    }

    #[test]
    fn health_in_the_seed_s_words() {
        let check = |standing: Standing, expected: Health| assert_eq!(Health::of_standing(standing), expected, "{standing:?}");
        check(Standing::Healthy, Health::Healthy);
        check(Standing::Degraded, Health::Degraded);
        check(Standing::Suspect, Health::Unhealthy);
        check(Standing::Dead, Health::Unhealthy);
        check(Standing::Returned, Health::Degraded);
        assert_eq!(Health::of(&report(0, "NEDGE01")), Health::Healthy);
        assert_eq!(Health::of(&HostReport { error_count: 1, ..report(0, "NEDGE01") }), Health::Degraded);
        assert_eq!(Health::of(&HostReport { state: HostState::Draining, ..report(0, "NEDGE01") }), Health::Degraded);
    }

    #[test]
    fn finding_hosts() {
        let absent = Assignment { host_name: Some(HostName::new("NEDGE07").unwrap()), ..Assignment::empty(host_id(7)) };
        let inventory = Inventory::new([report(0, "NEDGE01"), report(1, "NEDGE02")], [&absent]);
        assert_eq!(inventory.find("NEDGE01").unwrap(), host_id(0));
        assert_eq!(inventory.find(host_id(1).as_str()).unwrap(), host_id(1));
        assert_eq!(inventory.find("NBBB").unwrap(), host_id(1));
        assert_eq!(inventory.find("NEDGE07").unwrap(), host_id(7));
        let check = |text: &str, message: &str, hint: &str| {
            let problem = inventory.find(text).unwrap_err();
            assert_eq!(problem.message, message);
            assert!(problem.hint.as_ref().unwrap().contains(hint), "{problem:?}");
        };
        check("NEDGE03", "host not found: NEDGE03", "did you mean NEDGE01");
        check("NEDGE", "host not found: NEDGE", "3 hosts fit");
        check("zzz", "host not found: zzz", "live hosts: NEDGE01, NEDGE02");
        check("", "host not found: ", "live hosts");
    }

    #[test]
    fn the_newer_report_counts() {
        let newer = HostReport { seq: 2, uptime_seconds: 9, ..report(0, "NEDGE01") };
        let inventory = Inventory::new([newer.clone(), report(0, "NEDGE01")], []);
        assert_eq!(inventory.hosts[&host_id(0)], newer);
        let restarted = HostReport { incarnation: Incarnation::new("02").unwrap(), ..report(0, "NEDGE01") };
        let inventory = Inventory::new([restarted.clone(), newer], []);
        assert_eq!(inventory.hosts[&host_id(0)], restarted);
    }
}
