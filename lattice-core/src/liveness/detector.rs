//! The detector: all hosts, their deadlines and the brakes.

use std::collections::{BTreeMap, BTreeSet};

use super::brakes::Brakes;
use super::settings::{FailoverSettings, millis};
use super::watch::{Life, Progress, Watch};
use super::{Cut, Judgement};
use crate::fault::Faults;
use crate::id::{HostId, HostName, Incarnation, Region};
use crate::scheduler::{MAX_HOSTS, Millis};
use crate::wire::report::HostReport;
use crate::wire::verdict::{Evidence, Standing, Verdict, Verdicts};

/// An observer that heard nothing at all for this many half intervals was cut off itself.
const GAP_HALF_INTERVALS: u64 = 5;
/// Start of a host of which nobody knows one: earlier than any real one.
pub(crate) const UNKNOWN_INCARNATION: &str = "0";
/// Region of a host of which nobody knows one.
const UNKNOWN_REGION: &str = "unknown";

/// Judges hosts by what it hears.
#[derive(Debug)]
pub struct Detector {
    settings: FailoverSettings,
    faults: Faults,
    hosts: BTreeMap<HostId, Watch>,
    /// What is due when; at most one entry of each host and site, not later than it is due.
    queue: BTreeSet<(Millis, Due)>,
    brakes: Brakes,
    condemned: BTreeMap<HostId, Incarnation>,
    /// Since when everybody has had the chance to be heard.
    window: Millis,
    /// When anything was heard last.
    heard: Millis,
    gaps: u64,
    /// Whether the verdicts were read once: those that were there before cost nothing.
    primed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Site(Region),
    Host(HostId),
}

/// How a host stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView<'a> {
    /// The host.
    pub host: &'a HostId,
    /// Its name.
    pub name: &'a HostName,
    /// Its region.
    pub region: &'a Region,
    /// Its newest start.
    pub incarnation: &'a Incarnation,
    /// When it was heard last; when it became known, if it never was.
    pub heard: Millis,
    /// Since when something is wrong with it, by what this observer heard.
    pub noticed: Option<Millis>,
    /// The stored verdict about this start of it.
    pub standing: Option<Standing>,
    /// Errors of its own within the last minute.
    pub errors: u32,
    /// Whether it is about to leave.
    pub draining: bool,
    /// Whether this observer hears it as it should.
    pub is_heard: bool,
}

impl<'a> HostView<'a> {
    fn of(watch: &'a Watch) -> Self {
        HostView {
            host: &watch.id,
            name: &watch.name,
            region: &watch.region,
            incarnation: &watch.incarnation,
            heard: watch.heard,
            noticed: watch.noticed(),
            standing: watch.standing(),
            errors: watch.errors,
            draining: watch.draining,
            is_heard: watch.seen && watch.life == Life::Heard,
        }
    }
}

impl Detector {
    /// An observer that begins at `now`.
    pub fn new(settings: FailoverSettings, now: Millis) -> Self {
        Self {
            settings,
            faults: Faults::default(),
            hosts: BTreeMap::new(),
            queue: BTreeSet::new(),
            brakes: Brakes::default(),
            condemned: BTreeMap::new(),
            window: now,
            heard: now,
            gaps: 0,
            primed: false,
        }
    }

    /// With a seeded bug.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The settings in force.
    pub fn settings(&self) -> &FailoverSettings {
        &self.settings
    }

    /// Other settings.
    pub fn set_settings(&mut self, settings: FailoverSettings) {
        if self.settings != settings {
            self.settings = settings;
            self.wake_all();
        }
    }

    /// The starts of hosts that the operator takes for gone.
    pub fn set_condemned(&mut self, condemned: BTreeMap<HostId, Incarnation>) {
        let changed: Vec<HostId> = self.condemned.keys().chain(condemned.keys()).cloned().collect();
        self.condemned = condemned;
        for host in changed {
            self.settle(&host, self.heard);
        }
    }

    /// A host that should be there, by the plan: it is missed if it is not heard for long.
    pub fn handle_expected(&mut self, host: &HostId, name: Option<&HostName>, now: Millis) {
        if self.hosts.contains_key(host) {
            return;
        }
        let (Ok(incarnation), Ok(region)) = (Incarnation::new(UNKNOWN_INCARNATION), Region::new(UNKNOWN_REGION)) else { return };
        let name = name.cloned().or_else(|| HostName::new(host.as_str()).ok());
        if let Some(name) = name {
            self.insert(Watch::new(host.clone(), name, region, incarnation, now));
        }
    }

    /// A heartbeat; whether it told anything.
    pub fn handle_heartbeat(&mut self, report: &HostReport, now: Millis) -> bool {
        self.hear(now);
        if !self.hosts.contains_key(&report.id) {
            let (id, name, region) = (report.id.clone(), report.name.clone(), report.region.clone());
            if !self.insert(Watch::new(id, name, region, report.incarnation.clone(), now)) {
                return false;
            }
        }
        let Some(watch) = self.hosts.get_mut(&report.id) else { return false };
        if !watch.is_news(report) {
            return false;
        }
        if watch.counted && watch.region != report.region {
            self.brakes.leave(&watch.region);
            watch.counted = false;
        }
        if let Some(since) = watch.doubted.take() {
            self.brakes.clear(&watch.region, &report.id, since);
        }
        watch.hear(report, self.window, &self.settings, now);
        if !watch.counted {
            self.brakes.enter(&watch.region);
            watch.counted = true;
        }
        self.settle(&report.id, now);
        true
    }

    /// The connection of a start of a host has ended; whether that matters. The host may have another one by now: whoever
    /// asks it for a heartbeat hears within the grace.
    pub fn handle_disconnect(&mut self, host: &HostId, incarnation: &Incarnation, cut: Cut, now: Millis) -> bool {
        self.hear(now);
        let Some(watch) = self.hosts.get_mut(host).filter(|watch| watch.incarnation == *incarnation) else { return false };
        let open = watch.cut(cut, now);
        if open {
            self.doubt(host, now);
            self.settle(host, now);
        }
        open
    }

    /// A start of a host leaves on purpose.
    pub fn handle_bye(&mut self, host: &HostId, incarnation: &Incarnation, now: Millis) {
        self.hear(now);
        let Some(watch) = self.hosts.get_mut(host).filter(|watch| watch.incarnation == *incarnation) else { return };
        watch.life = Life::Gone { since: now, evidence: Evidence::Left };
        if std::mem::take(&mut watch.counted) {
            self.brakes.leave(&watch.region);
        }
        if let Some(since) = watch.doubted.take() {
            self.brakes.clear(&watch.region, host, since);
        }
        self.settle(host, now);
    }

    /// The observer was cut off, so that it could not hear anybody.
    pub fn handle_gap(&mut self, now: Millis) {
        self.gaps = self.gaps.saturating_add(1);
        self.restart(now);
    }

    /// Gives every host a whole window to be heard. That is nothing that was heard: if nothing comes after it either, the
    /// observer is still cut off.
    pub fn restart(&mut self, now: Millis) {
        self.window = now;
        let left = Evidence::Left;
        for watch in self.hosts.values_mut() {
            let settled = matches!(watch.life, Life::Heard) || matches!(watch.life, Life::Gone { evidence, .. } if evidence == left);
            if !settled && !watch.is_stored_dead() {
                (watch.life, watch.held_until) = (Life::Heard, None);
                if let Some(since) = watch.doubted.take() {
                    self.brakes.clear(&watch.region, &watch.id, since);
                    self.brakes.enter(&watch.region);
                    watch.counted = true;
                }
            }
        }
        self.wake_all();
    }

    /// How often the observer was cut off.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Whether a whole window has passed since observation began.
    pub fn is_ready(&self, now: Millis) -> bool {
        now.saturating_sub(self.window) >= millis(self.settings.profile.suspicion_floor()).min(self.settings.heartbeat_timeout_ms)
    }

    /// What is stored, all of it.
    pub fn handle_verdicts(&mut self, verdicts: &Verdicts, now: Millis) {
        let gone: Vec<HostId> = self.hosts.keys().filter(|host| !verdicts.hosts.contains_key(*host)).cloned().collect();
        for host in gone {
            self.handle_verdict(&host, None, now);
        }
        for (host, verdict) in &verdicts.hosts {
            self.handle_verdict(host, Some(verdict), now);
        }
        self.primed = true;
    }

    /// What is stored about one host.
    pub fn handle_verdict(&mut self, host: &HostId, verdict: Option<&Verdict>, now: Millis) {
        if let Some(verdict) = verdict
            && !self.hosts.contains_key(host)
        {
            let (name, region, incarnation) = (verdict.name.clone(), verdict.region.clone(), verdict.incarnation.clone());
            self.insert(Watch::new(host.clone(), name, region, incarnation, now));
        }
        let Some(watch) = self.hosts.get_mut(host) else { return };
        let died = watch.handle_stored(verdict, &self.settings, now);
        let accident = verdict.is_some_and(|verdict| !matches!(verdict.evidence, Evidence::Left | Evidence::Operator));
        if watch.life == Life::Heard {
            if let Some(since) = watch.doubted.take() {
                self.brakes.clear(&watch.region, host, since);
                self.brakes.enter(&watch.region);
                watch.counted = true;
            }
        } else if watch.counted && accident {
            self.doubt(host, now);
        }
        if died && accident && self.primed {
            self.spend(host, now);
        }
        self.settle(host, now);
    }

    fn spend(&mut self, host: &HostId, now: Millis) {
        if let Some(watch) = self.hosts.get(host) {
            self.brakes.spend(&watch.region, host, now);
        }
    }

    /// The lease of this start of a host is proven to have ended.
    pub fn handle_lease_ended(&mut self, host: &HostId, incarnation: &Incarnation, now: Millis) {
        if let Some(watch) = self.hosts.get_mut(host).filter(|watch| watch.incarnation == *incarnation) {
            watch.lease_ended = true;
            self.settle(host, now);
        }
    }

    /// Somebody else has frozen a site.
    pub fn handle_frozen(&mut self, region: &Region, now: Millis) {
        if self.brakes.freeze(region, now) {
            self.wake_site(region);
        }
    }

    /// What should be done next; none until something comes in or [`Detector::poll_timeout`] has passed. An observer that
    /// hears nothing says nothing.
    pub fn poll(&mut self, now: Millis) -> Option<Judgement> {
        if self.is_blind(now) {
            return None;
        }
        while let Some((at, due)) = self.queue.first().cloned().filter(|(at, _)| *at <= now) {
            self.queue.remove(&(at, due.clone()));
            let judgement = match due {
                Due::Site(region) => self.thaw(region, now),
                Due::Host(host) => self.judge(&host, now),
            };
            if judgement.is_some() {
                return judgement;
            }
        }
        None
    }

    /// Milliseconds until something is due if nothing is heard before; 0 if it is due already.
    pub fn poll_timeout(&mut self, now: Millis) -> Option<Millis> {
        while let Some((at, due)) = self.queue.first().cloned() {
            let real = match &due {
                Due::Site(_) => at,
                Due::Host(host) => {
                    let watch = self.hosts.get_mut(host)?;
                    let open =
                        watch.wanted(&self.settings, now).is_some_and(|wanted| watch.said != Some(wanted)) && watch.held_until.is_none();
                    match watch.due(self.window, &self.settings) {
                        Some(real) if !open && real > at => {
                            watch.wake = Some(real);
                            real
                        }
                        Some(_) | None => at,
                    }
                }
            };
            if real == at {
                return Some(at.saturating_sub(now));
            }
            self.queue.remove(&(at, due.clone()));
            self.queue.insert((real, due));
        }
        None
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = HostView<'_>> {
        self.hosts.values().map(HostView::of)
    }

    /// One host.
    pub fn host(&self, host: &HostId) -> Option<HostView<'_>> {
        self.hosts.get(host).map(HostView::of)
    }

    /// Whether any host is, or was lately, not heard as it should be.
    pub fn has_suspects(&self, now: Millis) -> bool {
        self.brakes.has_suspects(now)
    }

    /// Sites that are frozen, with the milliseconds that are left.
    pub fn frozen(&self, now: Millis) -> BTreeMap<Region, u64> {
        self.brakes.frozen(now)
    }

    /// Whether nothing at all was heard for so long that the fault is on this side.
    fn is_blind(&self, now: Millis) -> bool {
        let gap = millis(self.settings.profile.heartbeat()).saturating_mul(GAP_HALF_INTERVALS) / 2;
        now.saturating_sub(self.heard) > gap && !self.faults.gap_is_silence()
    }

    /// Something was heard, so that this side works.
    fn hear(&mut self, now: Millis) {
        if self.is_blind(now) {
            self.handle_gap(now);
        }
        self.heard = self.heard.max(now);
    }

    fn insert(&mut self, mut watch: Watch) -> bool {
        if self.hosts.len() >= MAX_HOSTS {
            return false;
        }
        let (id, now) = (watch.id.clone(), watch.heard);
        watch.condemned = self.condemned.get(&id) == Some(&watch.incarnation);
        self.hosts.insert(id.clone(), watch);
        self.settle(&id, now);
        true
    }

    /// Sees to it that `host` is looked at when something is due, now if its verdict should be another.
    fn settle(&mut self, host: &HostId, now: Millis) {
        let Some(watch) = self.hosts.get_mut(host) else { return };
        watch.condemned = self.condemned.get(host) == Some(&watch.incarnation);
        let wanted = watch.wanted(&self.settings, now).filter(|wanted| watch.said != Some(*wanted));
        let at = match wanted {
            Some(_) if watch.held_until.is_none() => Some(now),
            Some(_) | None => watch.due(self.window, &self.settings),
        };
        if let Some(at) = at {
            self.wake(host, at);
        }
    }

    /// An earlier entry of the host stays: it is looked at then, and comes back.
    fn wake(&mut self, host: &HostId, at: Millis) {
        let Some(watch) = self.hosts.get_mut(host) else { return };
        match watch.wake {
            Some(known) if known <= at => return,
            Some(known) => {
                self.queue.remove(&(known, Due::Host(host.clone())));
            }
            None => {}
        }
        watch.wake = Some(at);
        self.queue.insert((at, Due::Host(host.clone())));
    }

    fn wake_all(&mut self) {
        let hosts: Vec<HostId> = self.hosts.keys().cloned().collect();
        for host in hosts {
            self.settle(&host, self.heard);
        }
    }

    fn wake_site(&mut self, region: &Region) {
        if let Some(at) = self.brakes.frozen_until(region) {
            self.queue.insert((at, Due::Site(region.clone())));
        }
    }

    /// The host counts as one of its site's suspects.
    fn doubt(&mut self, host: &HostId, now: Millis) {
        let Some(watch) = self.hosts.get_mut(host) else { return };
        if std::mem::take(&mut watch.counted) {
            self.brakes.leave(&watch.region);
        }
        if watch.doubted.is_none() {
            watch.doubted = Some(now);
            self.brakes.doubt(&watch.region, host, now);
        }
    }

    /// One look at a host whose time has come.
    fn judge(&mut self, host: &HostId, now: Millis) -> Option<Judgement> {
        let watch = self.hosts.get_mut(host)?;
        watch.wake = None;
        let progress = watch.advance(self.window, &self.settings, now);
        let region = watch.region.clone();
        match progress {
            Progress::Ask => {
                self.wake(host, now);
                return Some(Judgement::Ask(host.clone()));
            }
            Progress::Doubted => self.doubt(host, now),
            Progress::None | Progress::Gone => {}
        }
        if matches!(progress, Progress::Doubted | Progress::Gone)
            && let Some((suspects, of)) = self.brakes.trip(&region, now)
        {
            self.wake_site(&region);
            self.wake(host, now);
            return Some(Judgement::Freeze { region, host: host.clone(), suspects, of });
        }
        let opinion = self.opine(host, now);
        self.settle(host, now);
        opinion
    }

    /// The verdict that should be stored and is not asked for yet, if the brakes let it.
    fn opine(&mut self, host: &HostId, now: Millis) -> Option<Judgement> {
        let watch = self.hosts.get_mut(host)?;
        watch.held_until = None;
        let mut wanted = watch.wanted(&self.settings, now)?;
        let accident = wanted.standing == Standing::Dead && !matches!(wanted.evidence, Evidence::Left | Evidence::Operator);
        if accident && !watch.is_stored_dead() {
            let at = self.brakes.admits_at(&watch.region, host, now);
            if at > now {
                watch.held_until = Some(at);
                wanted = watch.suspect(wanted.evidence)?;
            } else if watch.said != Some(wanted) {
                self.brakes.spend(&watch.region, host, now);
            }
        }
        if watch.said == Some(wanted) {
            return None;
        }
        watch.said = Some(wanted);
        Some(Judgement::Store(Box::new(watch.opinion(wanted, &self.settings, now))))
    }

    /// Ends the freeze of a site: whoever still seems to be gone there is asked again first.
    fn thaw(&mut self, region: Region, now: Millis) -> Option<Judgement> {
        match self.brakes.frozen_until(&region) {
            Some(until) if until <= now => {}
            Some(_) => {
                self.wake_site(&region);
                return None;
            }
            None => return None,
        }
        self.brakes.thaw(&region, now);
        let mut held = Vec::new();
        for watch in self.hosts.values_mut().filter(|watch| watch.region == region && watch.held_until.is_some()) {
            if let Life::Gone { since, evidence } = watch.life {
                watch.life = Life::Asked { since, evidence, times: 0, next: now };
                watch.held_until = None;
                held.push(watch.id.clone());
            }
        }
        for host in held {
            self.settle(&host, now);
        }
        Some(Judgement::Thaw { region })
    }
}
