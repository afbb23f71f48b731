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
            self.gone.remove(&verdict.host);
            return;
        }
        if self.gone.get(&verdict.host).is_none_or(|gone| gone.incarnation != verdict.incarnation) {
            let (region, incarnation) = (verdict.region.clone(), verdict.incarnation.clone());
            self.gone.insert(verdict.host.clone(), Gone { region, incarnation, seen: None, confirmed: false, waiting: false });
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
            (gone.waiting, gone.confirmed) = (false, false);
        }
    }

    /// The lease as it was read.
    pub(super) fn handle_lease(&mut self, host: &HostId, record: Option<(&[u8], Revision)>, now: Millis) {
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
        if let Some(gone) = self.gone.get_mut(host) {
            (gone.seen, gone.confirmed, gone.waiting) = (None, false, false);
        }
    }

    /// What is to be done about a lease now.
    pub(super) fn poll(&mut self, profile: TimingProfile, now: Millis) -> Option<Step> {
        let takeover = millis(profile.lease_takeover());
        let owners = &self.owners;
        for (host, gone) in self.gone.iter_mut().filter(|(host, gone)| !gone.waiting && owners.contains(*host)) {
            let key = subject::lease_key(&gone.region, host);
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
