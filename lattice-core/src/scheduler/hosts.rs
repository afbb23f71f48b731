//! Who is there, by heartbeats.

use std::collections::{BTreeMap, BTreeSet};

use super::Millis;
use crate::id::{ActorId, HostId, LatticeName, Region};
use crate::wire;
use crate::wire::report::HostReport;

/// Most hosts that are kept in mind; heartbeats of others are counted as malformed.
pub const MAX_HOSTS: usize = 20_000;
/// How long a host that no plan names is kept in mind after its last heartbeat.
const FORGET_AFTER_MS: Millis = 600_000;
/// Heartbeats of an older start, after those of a newer one, from which on two processes are thought to share an identity:
/// a few may overtake each other when a host is restarted.
const CLONE_BEATS: u32 = 3;

/// Hosts by identity.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    seen: BTreeMap<HostId, Seen>,
    lattice: Option<LatticeName>,
    malformed: u64,
}

#[derive(Debug)]
struct Seen {
    report: HostReport,
    at: Millis,
    /// Heartbeats of older starts since this one began, and when the last of them came.
    older: u32,
    older_at: Millis,
}

/// What a heartbeat brought.
#[derive(Debug)]
pub(super) struct News {
    pub(super) report: HostReport,
    /// The host, or this start of it, was not there before, or it has lost what it was given.
    pub(super) joined: bool,
    /// Something changed that a plan could wait for.
    pub(super) material: bool,
    /// It says something new of the policies that it enforces.
    pub(super) enforces_anew: bool,
}

impl Hosts {
    /// Takes in a heartbeat; none if it makes no sense or is older than what is known.
    pub(super) fn handle_heartbeat(&mut self, subject: &str, payload: &[u8], now: Millis, fresh_for: Millis) -> Option<News> {
        let Some(report) = self.decode(subject, payload) else {
            self.malformed = self.malformed.saturating_add(1);
            return None;
        };
        let news = match self.seen.get_mut(&report.id) {
            Some(seen) if report.incarnation < seen.report.incarnation => {
                seen.older = seen.older.saturating_add(1);
                seen.older_at = now;
                return None;
            }
            Some(seen) => {
                let restarted = report.incarnation != seen.report.incarnation;
                if !restarted && report.seq < seen.report.seq {
                    return None;
                }
                let was_silent = !seen.is_fresh(now, fresh_for);
                let (material, loses) = (differs(&seen.report, &report), loses(&seen.report, &report));
                let enforces_anew = seen.report.policy != report.policy;
                if restarted {
                    (seen.older, seen.older_at) = (0, 0);
                }
                (seen.report, seen.at) = (report.clone(), now);
                let joined = restarted || was_silent || loses;
                News { report, joined, material, enforces_anew }
            }
            None => {
                self.seen.insert(report.id.clone(), Seen { report: report.clone(), at: now, older: 0, older_at: 0 });
                let enforces_anew = report.policy.is_some();
                News { report, joined: true, material: true, enforces_anew }
            }
        };
        Some(news)
    }

    /// The report, if it is one of this lattice and of the host that its subject names.
    fn decode(&mut self, subject: &str, payload: &[u8]) -> Option<HostReport> {
        let report: HostReport = wire::decode(payload).ok()?;
        let named = crate::subject::heartbeat(&report.lattice, &report.region, &report.id) == subject;
        let ours = self.lattice.as_ref().is_none_or(|lattice| *lattice == report.lattice);
        let room = self.seen.contains_key(&report.id) || self.seen.len() < MAX_HOSTS;
        if !(named && ours && room) {
            return None;
        }
        if self.lattice.is_none() {
            self.lattice = Some(report.lattice.clone());
        }
        Some(report)
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }

    pub(super) fn report(&self, host: &HostId) -> Option<&HostReport> {
        self.seen.get(host).map(|seen| &seen.report)
    }

    pub(super) fn is_fresh(&self, host: &HostId, now: Millis, fresh_for: Millis) -> bool {
        self.seen.get(host).is_some_and(|seen| seen.is_fresh(now, fresh_for))
    }

    /// Reports of the hosts that are there.
    pub(super) fn fresh(&self, now: Millis, fresh_for: Millis) -> impl Iterator<Item = &HostReport> {
        self.seen.values().filter(move |seen| seen.is_fresh(now, fresh_for)).map(|seen| &seen.report)
    }

    /// All hosts, and whether they are there.
    pub(super) fn all(&self, now: Millis, fresh_for: Millis) -> impl Iterator<Item = (&HostId, bool)> {
        self.seen.iter().map(move |(id, seen)| (id, seen.is_fresh(now, fresh_for)))
    }

    /// The regions of all hosts.
    pub(super) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.seen.values().map(|seen| &seen.report.region).collect::<BTreeSet<_>>().into_iter()
    }

    /// Hosts whose identity two processes use at this time.
    pub(super) fn cloned(&self, now: Millis, fresh_for: Millis) -> Vec<HostId> {
        let twice = |seen: &Seen| seen.older >= CLONE_BEATS && now.saturating_sub(seen.older_at) < fresh_for;
        self.seen.iter().filter(|(_, seen)| twice(seen)).map(|(id, _)| id.clone()).collect()
    }

    /// Forgets hosts that were silent for long and that nobody needs.
    pub(super) fn forget_gone(&mut self, now: Millis, needed: impl Fn(&HostId) -> bool) {
        self.seen.retain(|host, seen| now.saturating_sub(seen.at) < FORGET_AFTER_MS || needed(host));
    }
}

impl Seen {
    fn is_fresh(&self, now: Millis, fresh_for: Millis) -> bool {
        now.saturating_sub(self.at) < fresh_for
    }
}

/// Whether a host has lost a slot since it reported last.
fn loses(before: &HostReport, after: &HostReport) -> bool {
    after.components.iter().filter(|(_, component)| !component.lost.is_empty()).any(|(actor, component)| {
        before.components.get(actor).is_none_or(|known| component.lost.iter().any(|(slot, term)| known.lost.get(slot) != Some(term)))
    })
}

/// Whether a report says something new that a plan could wait for: room, readiness, whether it takes work.
fn differs(before: &HostReport, after: &HostReport) -> bool {
    fn ready(report: &HostReport) -> impl Iterator<Item = (&ActorId, u32, impl Iterator<Item = &u32>)> {
        report.components.iter().map(|(id, component)| (id, component.instances, component.slots.keys()))
    }
    fn same(before: &HostReport, after: &HostReport) -> bool {
        before.components.len() == after.components.len()
            && ready(before).zip(ready(after)).all(|(one, other)| (one.0, one.1) == (other.0, other.1) && one.2.eq(other.2))
    }
    before.state != after.state
        || before.region != after.region
        || before.labels != after.labels
        || before.applied_generation != after.applied_generation
        || before.profile.cpu_capacity != after.profile.cpu_capacity
        || before.profile.memory_mb != after.profile.memory_mb
        || before.rtt_us.keys().ne(after.rtt_us.keys())
        || !same(before, after)
}
