//! Ending the leases of hosts that are gone and own slots of `strict` actors.
//!
//! A lease has ended when nobody renewed it for a whole time of take-over by this observer's own clock, which is longer than
//! the time after which its owner stops by itself, and the write that ends it is stored on condition of the renewal that
//! was seen. A lease that is missing says nothing, since leases live in memory: it is waited for as long, then a revoked one
//! is put in its place on condition that there still is none.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use crate::id::{HostId, Incarnation, Region, Revision};
use crate::liveness::{UNKNOWN_INCARNATION, millis};
use crate::needs::Class;
use crate::plan::PlanState;
use crate::scheduler::Millis;
use crate::subject;
use crate::timing::TimingProfile;
use crate::wire;
use crate::wire::ownership::LeaseRecord;
use crate::wire::report::HostReport;
use crate::wire::verdict::{Standing, Verdict};

/// Leases that are waited for, and what is known of all others.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Renewals as hosts tell them, and when each was first heard of.
    told: BTreeMap<HostId, Told>,
    /// Hosts that are taken for gone and whose lease is not known to have ended.
    gone: BTreeMap<HostId, Gone>,
    /// Hosts to which the plan gives slots of strict actors.
    owners: BTreeSet<HostId>,
}

#[derive(Debug)]
struct Told {
    incarnation: Incarnation,
    revision: Revision,
    since: Millis,
}

#[derive(Debug)]
struct Gone {
    region: Region,
    incarnation: Incarnation,
    /// What was read last, and since when it has been so; none if nothing has to be waited for.
    seen: Option<(Lease, Option<Millis>)>,
    /// Whether it was read again after the time of take-over.
    confirmed: bool,
    /// Whether an answer is awaited.
    waiting: bool,
    /// Whether that is the answer to the write that ends the lease.
    ending: bool,
    /// The host was heard again: nothing more is begun.
    back: bool,
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lease {
    Missing,
    Held(LeaseRecord, Revision),
    /// Somebody wrote what is no lease.
    Nonsense(Revision),
}

impl Leases {
    /// Notes the renewal that a host tells.
    pub(super) fn handle_heartbeat(&mut self, report: &HostReport, now: Millis) {
        if report.lease_rev == 0 {
            self.told.remove(&report.id);
            return;
        }
        let revision = Revision(report.lease_rev);
        match self.told.get_mut(&report.id) {
            Some(told) if told.revision == revision && told.incarnation == report.incarnation => {}
            Some(told) => *told = Told { incarnation: report.incarnation.clone(), revision, since: now },
            None => {
                self.told.insert(report.id.clone(), Told { incarnation: report.incarnation.clone(), revision, since: now });
            }
        }
    }

    /// Notes whether a host is gone.
    pub(super) fn handle_verdict(&mut self, verdict: &Verdict) {
        // Where the lease of a host is that nobody ever heard is not known: nothing can be proven about it.
        let unknown = verdict.incarnation.as_str() == UNKNOWN_INCARNATION;
        if verdict.standing != Standing::Dead || verdict.lease_ended || unknown {
            match self.gone.get_mut(&verdict.host) {
                // The write may be stored already: then it has to be said.
                Some(gone) if gone.ending && gone.incarnation == verdict.incarnation => gone.back = true,
                Some(_) | None => drop(self.gone.remove(&verdict.host)),
            }
            return;
        }
        if let Some(gone) = self.gone.get_mut(&verdict.host) {
            gone.back = false;
        }
        if self.gone.get(&verdict.host).is_none_or(|gone| gone.incarnation != verdict.incarnation) {
            let (region, incarnation) = (verdict.region.clone(), verdict.incarnation.clone());
            self.gone.insert(verdict.host.clone(), Gone::new(region, incarnation));
        }
    }

    /// Notes who owns slots of strict actors.
    pub(super) fn handle_plan(&mut self, plan: &PlanState) {
        let strict = |share: &&wire::assignment::Assignment| {
            let owned = |ownership: &wire::assignment::Ownership| ownership.class == Class::Strict && !ownership.slots.is_empty();
            share.components.values().filter_map(|component| component.ownership.as_ref()).any(owned)
        };
        self.owners = plan.assignments.values().filter(strict).map(|share| share.host.clone()).collect();
    }

    /// What was told before an interruption is not counted on: leases may have been lost and made anew in the meantime.
    pub(super) fn handle_gap(&mut self) {
        self.told.clear();
    }

    /// Answers that were awaited do not come.
    pub(super) fn handle_failure(&mut self) {
        self.told.clear();
        for gone in self.gone.values_mut() {
            (gone.waiting, gone.ending, gone.confirmed) = (false, false, false);
        }
    }

    /// The lease as it was read; the start of the host whose lease turns out to have ended after it was back.
    pub(super) fn handle_lease(&mut self, host: &HostId, record: Option<(&[u8], Revision)>, now: Millis) -> Option<Incarnation> {
        if self.gone.get(host).is_some_and(|gone| gone.back) {
            let gone = self.gone.remove(host)?;
            let record: LeaseRecord = wire::decode(record?.0).ok()?;
            return (record.revoked && record.incarnation == gone.incarnation).then_some(gone.incarnation);
        }
        self.note_lease(host, record, now);
        None
    }

    fn note_lease(&mut self, host: &HostId, record: Option<(&[u8], Revision)>, now: Millis) {
        let told = self.told.get(host);
        let Some(gone) = self.gone.get_mut(host) else { return };
        gone.waiting = false;
        let lease = match record {
            None => Lease::Missing,
            Some((value, revision)) => match wire::decode::<LeaseRecord>(value) {
                Ok(record) => Lease::Held(record, revision),
                Err(_) => Lease::Nonsense(revision),
            },
        };
        if let Lease::Held(record, _) = &lease
            && record.incarnation > gone.incarnation
        {
            // A later start of the host holds it: that one is not gone.
            self.gone.remove(host);
            return;
        }
        if gone.seen.as_ref().is_some_and(|(seen, _)| *seen == lease) {
            gone.confirmed = true;
            return;
        }
        let since = match &lease {
            // It has ended; writing it once more proves that it still has.
            Lease::Held(record, _) if record.revoked => {
                gone.confirmed = true;
                None
            }
            Lease::Held(_, revision) => {
                let told = told.filter(|told| told.revision == *revision && told.incarnation == gone.incarnation);
                Some(told.map_or(now, |told| told.since))
            }
            Lease::Missing | Lease::Nonsense(_) => Some(now),
        };
        gone.seen = Some((lease, since));
    }

    /// The write was stored; the start of the host whose lease has ended.
    pub(super) fn handle_revoked(&mut self, host: &HostId) -> Option<Incarnation> {
        self.gone.remove(host).map(|gone| gone.incarnation)
    }

    /// The lease was renewed in the meantime.
    pub(super) fn handle_renewed(&mut self, host: &HostId) {
        self.gone.retain(|known, gone| known != host || !gone.back);
        if let Some(gone) = self.gone.get_mut(host) {
            (gone.seen, gone.confirmed, gone.waiting, gone.ending) = (None, false, false, false);
        }
    }

    /// What is to be done about a lease now.
    pub(super) fn poll(&mut self, profile: TimingProfile, now: Millis) -> Option<Step> {
        let takeover = millis(profile.lease_takeover());
        let owners = &self.owners;
        for (host, gone) in self.gone.iter_mut().filter(|(host, gone)| !gone.waiting && (gone.back || owners.contains(*host))) {
            let key = subject::lease_key(&gone.region, host);
            if gone.back {
                // What became of the write that would have ended it is not known.
                gone.waiting = true;
                return Some(Step::ReadLease { host: host.clone(), key });
            }
            let due = gone.due(takeover);
            let Some((lease, _)) = &gone.seen else {
                gone.waiting = true;
                return Some(Step::ReadLease { host: host.clone(), key });
            };
            if now < due {
                // Only what is read after the whole time counts as unchanged.
                gone.confirmed = false;
                continue;
            }
            gone.waiting = true;
            if !gone.confirmed {
                return Some(Step::ReadLease { host: host.clone(), key });
            }
            let (record, expected) = match lease {
                Lease::Held(record, revision) => (LeaseRecord { revoked: true, ..record.clone() }, *revision),
                Lease::Missing => (gone.revoked(host), Revision(0)),
                Lease::Nonsense(revision) => (gone.revoked(host), *revision),
            };
            gone.ending = true;
            return Some(Step::RevokeLease { host: host.clone(), key, expected, value: wire::encode(&record) });
        }
        None
    }

    /// Milliseconds until a lease may be ended.
    pub(super) fn poll_timeout(&self, profile: TimingProfile, now: Millis) -> Option<Millis> {
        let takeover = millis(profile.lease_takeover());
        let waited = self.gone.iter().filter(|(host, gone)| !gone.waiting && self.owners.contains(*host));
        waited.map(|(_, gone)| gone.due(takeover).saturating_sub(now)).min()
    }
}

impl Gone {
    fn new(region: Region, incarnation: Incarnation) -> Self {
        Self { region, incarnation, seen: None, confirmed: false, waiting: false, ending: false, back: false }
    }

    /// When something is to be done about it.
    fn due(&self, takeover: Millis) -> Millis {
        let since = self.seen.as_ref().and_then(|(_, since)| *since);
        since.map_or(0, |since| since.saturating_add(takeover))
    }

    /// A lease that has ended, in place of one of which nothing is known.
    fn revoked(&self, host: &HostId) -> LeaseRecord {
        LeaseRecord { host: host.clone(), incarnation: self.incarnation.clone(), number: 0, revoked: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::HostName;
    use crate::inventory::tests::host_id;
    use crate::wire::verdict::Evidence;

    const NOW: Millis = 100_000;

    fn verdict(standing: Standing) -> Verdict {
        Verdict {
            host: host_id(0),
            name: HostName::new("NEDGE01").unwrap(),
            region: Region::new("local").unwrap(),
            incarnation: Incarnation::new("02").unwrap(),
            standing,
            evidence: Evidence::Silent,
            reason: String::new(),
            lease_ended: false,
            flaps: 0,
            at_ms: 0,
            by: String::new(),
        }
    }

    fn record(revoked: bool) -> Vec<u8> {
        wire::encode(&LeaseRecord { host: host_id(0), incarnation: Incarnation::new("02").unwrap(), number: 1, revoked })
    }

    /// The write that ends the lease is under way, and the host is back.
    fn ending() -> Leases {
        let mut leases = Leases { owners: BTreeSet::from([host_id(0)]), ..Leases::default() };
        leases.handle_verdict(&verdict(Standing::Dead));
        assert!(matches!(leases.poll(TimingProfile::Test, 0), Some(Step::ReadLease { .. })));
        leases.handle_lease(&host_id(0), Some((&record(false), Revision(7))), 0);
        assert!(matches!(leases.poll(TimingProfile::Test, NOW), Some(Step::ReadLease { .. })));
        leases.handle_lease(&host_id(0), Some((&record(false), Revision(7))), NOW);
        assert!(matches!(leases.poll(TimingProfile::Test, NOW), Some(Step::RevokeLease { .. })));
        leases.handle_verdict(&verdict(Standing::Returned));
        leases
    }

    #[test]
    fn what_was_ended_while_the_host_came_back_is_said() {
        let incarnation = Incarnation::new("02").unwrap();
        assert_eq!(ending().handle_revoked(&host_id(0)), Some(incarnation.clone()));
        let mut renewed = ending();
        renewed.handle_renewed(&host_id(0));
        assert_eq!(renewed.poll(TimingProfile::Test, NOW), None, "it lives");
        let check = |found: Option<bool>, expected: Option<&Incarnation>| {
            let mut unknown = ending();
            unknown.handle_failure();
            assert!(matches!(unknown.poll(TimingProfile::Test, NOW), Some(Step::ReadLease { .. })));
            let value = found.map(record);
            let told = unknown.handle_lease(&host_id(0), value.as_deref().map(|value| (value, Revision(8))), NOW);
            assert_eq!(told.as_ref(), expected, "{found:?}");
            assert_eq!(unknown.poll(TimingProfile::Test, NOW), None);
        };
        check(Some(true), Some(&incarnation));
        check(Some(false), None);
        check(None, None);
    }
}
