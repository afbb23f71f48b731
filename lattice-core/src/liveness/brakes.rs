//! Brakes: how many verdicts that move work may follow each other, and sites in which none may.
//!
//! One host that dies is an accident, many at once are rather a cut between them and us. Goodbyes and the operator's word
//! need no brakes.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{HostId, Region};
use crate::scheduler::Millis;

/// Between two hosts that are taken for gone; the first is at once.
pub const BUDGET_MS: Millis = 5_000;
/// The same in a site that was frozen.
pub const SLOW_MS: Millis = 10_000;
/// So many hosts of a site, and more than a third of them, must become suspect within [`BREAKER_WINDOW_MS`] to freeze it.
pub const BREAKER_HOSTS: usize = 3;
/// See [`BREAKER_HOSTS`].
pub const BREAKER_WINDOW_MS: Millis = 30_000;
/// How long a site is frozen.
pub const FREEZE_MS: Millis = 60_000;

/// The state of all brakes.
#[derive(Debug, Default)]
pub(super) struct Brakes {
    /// The host that was taken for gone last, and when.
    last: Option<(Millis, HostId)>,
    sites: BTreeMap<Region, Site>,
}

#[derive(Debug, Default)]
struct Site {
    /// Hosts that are heard.
    alive: usize,
    /// Hosts that became suspect within the window of the breaker.
    recent: BTreeSet<(Millis, HostId)>,
    frozen_until: Option<Millis>,
    slow_until: Millis,
}

impl Brakes {
    /// A host of `region` is heard.
    pub(super) fn enter(&mut self, region: &Region) {
        let site = self.sites.entry(region.clone()).or_default();
        site.alive = site.alive.saturating_add(1);
    }

    /// A host that was heard is not counted any more.
    pub(super) fn leave(&mut self, region: &Region) {
        if let Some(site) = self.sites.get_mut(region) {
            site.alive = site.alive.saturating_sub(1);
            if site.alive == 0 && site.recent.is_empty() && site.frozen_until.is_none() {
                self.sites.remove(region);
            }
        }
    }

    /// A host seems to be gone.
    pub(super) fn doubt(&mut self, region: &Region, host: &HostId, now: Millis) {
        self.sites.entry(region.clone()).or_default().recent.insert((now, host.clone()));
    }

    /// A doubt of `since` has gone.
    pub(super) fn clear(&mut self, region: &Region, host: &HostId, since: Millis) {
        if let Some(site) = self.sites.get_mut(region) {
            site.recent.remove(&(since, host.clone()));
        }
    }

    /// Whether any site has, or lately had, suspects.
    pub(super) fn has_suspects(&self, now: Millis) -> bool {
        let newest = |site: &Site| site.recent.last().map(|(at, _)| *at);
        self.sites.values().filter_map(newest).any(|at| now.saturating_sub(at) <= BREAKER_WINDOW_MS)
    }

    /// Freezes the site if it has too many suspects; how many of how many then.
    pub(super) fn trip(&mut self, region: &Region, now: Millis) -> Option<(usize, usize)> {
        let site = self.sites.get_mut(region)?;
        while site.recent.first().is_some_and(|(at, _)| now.saturating_sub(*at) > BREAKER_WINDOW_MS) {
            site.recent.pop_first();
        }
        let (suspects, all) = (site.recent.len(), site.alive.saturating_add(site.recent.len()));
        let many = suspects >= BREAKER_HOSTS && suspects.saturating_mul(3) > all;
        if !many || site.frozen_until.is_some() {
            return None;
        }
        site.frozen_until = Some(now.saturating_add(FREEZE_MS));
        Some((suspects, all))
    }

    /// Somebody else has frozen the site; whether that is new.
    pub(super) fn freeze(&mut self, region: &Region, now: Millis) -> bool {
        let site = self.sites.entry(region.clone()).or_default();
        let new = site.frozen_until.is_none();
        site.frozen_until.get_or_insert(now.saturating_add(FREEZE_MS));
        new
    }

    /// Ends the freeze.
    pub(super) fn thaw(&mut self, region: &Region, now: Millis) {
        if let Some(site) = self.sites.get_mut(region) {
            site.frozen_until = None;
            site.slow_until = now.saturating_add(FREEZE_MS);
        }
    }

    /// Until when the site is frozen.
    pub(super) fn frozen_until(&self, region: &Region) -> Option<Millis> {
        self.sites.get(region)?.frozen_until
    }

    /// All frozen sites, with the milliseconds that are left.
    pub(super) fn frozen(&self, now: Millis) -> BTreeMap<Region, u64> {
        let left = |(region, site): (&Region, &Site)| Some((region.clone(), site.frozen_until?.saturating_sub(now)));
        self.sites.iter().filter_map(left).collect()
    }

    /// When `host` may be taken for gone; not later than now if at once.
    pub(super) fn admits_at(&self, region: &Region, host: &HostId, now: Millis) -> Millis {
        let site = self.sites.get(region);
        if let Some(until) = site.and_then(|site| site.frozen_until) {
            return until;
        }
        let pause = if site.is_some_and(|site| now < site.slow_until) { SLOW_MS } else { BUDGET_MS };
        match &self.last {
            // Its verdict had to be repeated.
            Some((_, last)) if last == host => now,
            Some((at, _)) => at.saturating_add(pause),
            None => now,
        }
    }

    /// A host is taken for gone.
    pub(super) fn spend(&mut self, region: &Region, host: &HostId, now: Millis) {
        self.last = Some((now, host.clone()));
        if let Some(site) = self.sites.get_mut(region).filter(|site| now < site.slow_until) {
            site.slow_until = now.saturating_add(FREEZE_MS);
        }
    }
}
