//! Actors that fail wherever they land: moving them on would only take them to the next host.
//!
//! Two signs: an actor that fails in a row on several hosts, and hosts that die soon after a failover brought them the same
//! actor. A success, the operator's change and other code each wipe the slate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::stored::{Stored, changed_at};
use crate::desired::Desired;
use crate::id::{ActorId, Digest, HostId};
use crate::scheduler::Millis;
use crate::wire::report::{ComponentReport, ComponentState, HostReport};
use crate::wire::verdict::{Evidence, Quarantine, Verdict};

/// Failures in a row, on all hosts together, that are too many.
const MAX_FAILURES: u32 = 5;
/// Hosts on which it must have failed: one alone may be the host's fault.
const MIN_HOSTS: usize = 2;
/// What is older does not count.
const WINDOW_MS: Millis = 600_000;
/// A host that dies so soon after an actor came to it may have died of it.
const SOON_MS: Millis = 60_000;
/// So many hosts must have died of an actor.
const MAX_DEATHS: usize = 3;
/// Actors that are kept in mind; more are left out.
const MAX_ACTORS: usize = 10_000;

/// What speaks against actors.
#[derive(Debug, Default)]
pub(super) struct Poison {
    actors: BTreeMap<ActorId, Slate>,
}

/// What speaks against one actor.
#[derive(Debug)]
struct Slate {
    digest: Digest,
    changed_at_ms: u64,
    /// Failures in a row on each host, and when the last of them was seen.
    failing: BTreeMap<HostId, Failing>,
    /// Where failovers brought it lately.
    landed: VecDeque<(HostId, Millis)>,
    /// Hosts that died soon after.
    deaths: VecDeque<(HostId, Millis)>,
}

#[derive(Debug)]
struct Failing {
    /// Failures in a row when counting began.
    base: u32,
    count: u32,
    at: Millis,
}

impl Poison {
    /// A report that may tell of failures.
    pub(super) fn handle_heartbeat(&mut self, report: &HostReport, desired: &Desired, now: Millis) {
        for (actor, component) in &report.components {
            let known = self.actors.contains_key(actor);
            if !known && (failures(component) == 0 || self.actors.len() >= MAX_ACTORS) {
                continue;
            }
            let Some(spec) = desired.components.get(actor).filter(|spec| spec.digest == component.digest && spec.system.is_none()) else {
                continue;
            };
            let slate = self.actors.entry(actor.clone()).or_insert_with(|| Slate::new(spec.digest.clone(), changed_at(desired, actor)));
            slate.handle_report(&report.id, component, now);
        }
    }

    /// Desired state has changed: actors that are gone, changed or have other code begin anew.
    pub(super) fn handle_desired(&mut self, desired: &Desired) {
        self.actors.retain(|actor, slate| {
            let Some(spec) = desired.components.get(actor) else { return false };
            let changed_at_ms = changed_at(desired, actor);
            if slate.digest != spec.digest || slate.changed_at_ms != changed_at_ms {
                slate.wipe(spec.digest.clone(), changed_at_ms);
            }
            true
        });
    }

    /// A failover has brought an actor to a host.
    pub(super) fn handle_landed(&mut self, actor: &ActorId, host: &HostId, desired: &Desired, now: Millis) {
        let Some(spec) = desired.components.get(actor).filter(|spec| spec.system.is_none()) else { return };
        if !self.actors.contains_key(actor) && self.actors.len() >= MAX_ACTORS {
            return;
        }
        let slate = self.actors.entry(actor.clone()).or_insert_with(|| Slate::new(spec.digest.clone(), changed_at(desired, actor)));
        slate.landed.retain(|(_, at)| now.saturating_sub(*at) < SOON_MS);
        slate.landed.push_back((host.clone(), now));
        if slate.landed.len() > MAX_DEATHS * 2 {
            slate.landed.pop_front();
        }
    }

    /// A host was taken for gone.
    pub(super) fn handle_death(&mut self, verdict: &Verdict, now: Millis) {
        if matches!(verdict.evidence, Evidence::Left | Evidence::Operator) {
            return;
        }
        for slate in self.actors.values_mut() {
            slate.deaths.retain(|(_, at)| now.saturating_sub(*at) < WINDOW_MS);
            if slate.landed.iter().any(|(host, at)| *host == verdict.host && now.saturating_sub(*at) < SOON_MS) {
                slate.landed.retain(|(host, _)| *host != verdict.host);
                slate.deaths.push_back((verdict.host.clone(), now));
            }
        }
    }

    /// An actor to be put in quarantine; `at_ms` is left 0.
    pub(super) fn poll(&self, stored: &Stored, now: Millis) -> Option<Quarantine> {
        let bad = self.actors.iter().filter(|(actor, _)| !stored.is_quarantined(actor));
        bad.filter_map(|(actor, slate)| slate.quarantine(actor, now)).next()
    }
}

/// Failures that a report tells: those in a row, or that it could not be started. What a claim or a policy forbids is no failure.
fn failures(component: &ComponentReport) -> u32 {
    let failed = matches!(component.state, ComponentState::Failed(_)) && !component.held;
    component.crashes.max(u32::from(failed))
}

impl Slate {
    fn new(digest: Digest, changed_at_ms: u64) -> Self {
        Self { digest, changed_at_ms, failing: BTreeMap::new(), landed: VecDeque::new(), deaths: VecDeque::new() }
    }

    /// Counts from what the hosts say now.
    fn wipe(&mut self, digest: Digest, changed_at_ms: u64) {
        (self.digest, self.changed_at_ms) = (digest, changed_at_ms);
        (self.landed, self.deaths) = (VecDeque::new(), VecDeque::new());
        for failing in self.failing.values_mut() {
            (failing.base, failing.count) = (failing.base.saturating_add(failing.count), 0);
        }
    }

    fn handle_report(&mut self, host: &HostId, component: &ComponentReport, now: Millis) {
        let failures = failures(component);
        if failures == 0 {
            self.failing.remove(host);
            return;
        }
        let failing = self.failing.entry(host.clone()).or_insert(Failing { base: 0, count: 0, at: now });
        if failures < failing.base {
            failing.base = 0;
        }
        let count = failures.saturating_sub(failing.base);
        if count > failing.count {
            failing.at = now;
        }
        failing.count = count;
    }

    fn quarantine(&self, actor: &ActorId, now: Millis) -> Option<Quarantine> {
        let lately = |at: Millis| now.saturating_sub(at) < WINDOW_MS;
        let failing = || self.failing.iter().filter(|(_, failing)| failing.count > 0 && lately(failing.at));
        let failures = failing().fold(0_u32, |sum, (_, failing)| sum.saturating_add(failing.count));
        let failed_on: BTreeSet<HostId> = failing().map(|(host, _)| host.clone()).collect();
        let died: BTreeSet<HostId> = self.deaths.iter().filter(|(_, at)| lately(*at)).map(|(host, _)| host.clone()).collect();
        let deaths = self.deaths.iter().filter(|(_, at)| lately(*at)).count();
        let (hosts, reason) = if failures >= MAX_FAILURES && failed_on.len() >= MIN_HOSTS {
            let reason = format!("failed {failures} times in a row on {} hosts", failed_on.len());
            (failed_on, reason)
        } else if deaths >= MAX_DEATHS {
            (died, format!("{deaths} hosts died within a minute after it came to them"))
        } else {
            return None;
        };
        let (digest, changed_at_ms) = (self.digest.clone(), self.changed_at_ms);
        Some(Quarantine { actor: actor.clone(), digest, changed_at_ms, hosts, reason, at_ms: 0 })
    }
}
