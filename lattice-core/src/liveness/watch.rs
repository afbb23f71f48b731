//! One host as the detector sees it, and the verdict that follows.

use super::settings::{FailoverSettings, millis};
use super::{Cut, Opinion};
use crate::id::{HostId, HostName, Incarnation, Region};
use crate::scheduler::Millis;
use crate::timing::{CONFIRMATIONS, DISCONNECT_GRACE};
use crate::wire::report::{HostReport, HostState};
use crate::wire::verdict::{Evidence, Standing, Verdict};

/// Returns within this time of each other are counted together.
pub const FLAP_WINDOW_MS: Millis = 600_000;
/// Heartbeats of a returned host before it gets work.
pub const MIN_BEATS: u32 = 3;
/// From the second return within [`FLAP_WINDOW_MS`] on a host waits this many times the first wait, doubling each time.
const FLAP_FACTOR: u64 = 6;
/// Longest wait, in first waits.
const MAX_FLAP_FACTOR: u64 = 180;
/// A host is suspect after this many of its usual intervals.
const INTERVALS: u64 = 3;
/// The usual interval follows the measured ones by 1/2^this.
const SMOOTHING: u32 = 3;

/// How long a host has to be heard after its `flaps`-th return before it gets work; one that left on purpose has none.
pub fn hold_ms(settings: &FailoverSettings, flaps: u32) -> u64 {
    let first = millis(settings.profile.return_hold());
    let factor = match flaps {
        0 => 0,
        1 => 1,
        more => 1_u64.checked_shl(more - 2).map_or(MAX_FLAP_FACTOR, |doubled| doubled.saturating_mul(FLAP_FACTOR)),
    };
    first.saturating_mul(factor.min(MAX_FLAP_FACTOR))
}

/// How long a host has to come back after its connection has ended: a tenth of a heartbeat's interval on slow links.
fn grace_ms(settings: &FailoverSettings) -> u64 {
    millis(DISCONNECT_GRACE).max(millis(settings.profile.heartbeat()) / 10)
}

/// What the observer knows of one host.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) id: HostId,
    pub(super) name: HostName,
    pub(super) region: Region,
    pub(super) incarnation: Incarnation,
    seq: u64,
    /// When it was heard last; when it became known, if it never was.
    pub(super) heard: Millis,
    /// Whether this observer has heard it itself.
    pub(super) seen: bool,
    /// Usual time between heartbeats, in 1/2^[`SMOOTHING`] milliseconds.
    interval: u64,
    pub(super) errors: u32,
    pub(super) draining: bool,
    pub(super) life: Life,
    pub(super) stored: Option<Stored>,
    /// Heartbeats since `stored` was seen.
    beats: u32,
    /// When it was seen to return last, and until when it gets no work then.
    returned: Option<Millis>,
    hold_until: Millis,
    /// Verdict that was asked for and is not stored yet.
    pub(super) said: Option<Wanted>,
    /// A verdict that the brakes hold back, until then.
    pub(super) held_until: Option<Millis>,
    /// Since when it counts as one of the site's suspects.
    pub(super) doubted: Option<Millis>,
    /// Whether it counts as one of the site's live hosts.
    pub(super) counted: bool,
    /// Its lease is proven to have ended.
    pub(super) lease_ended: bool,
    /// The operator takes this start of it for gone.
    pub(super) condemned: bool,
    /// Its entry in the queue of deadlines.
    pub(super) wake: Option<Millis>,
}

/// What the observer makes of what it heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Nothing is wrong.
    Heard,
    /// Its connection has ended; it may be back in a moment.
    Cut { at: Millis, evidence: Evidence },
    /// It is asked for a sign of life.
    Asked { since: Millis, evidence: Evidence, times: u32, next: Millis },
    /// It is taken for gone.
    Gone { since: Millis, evidence: Evidence },
}

/// The verdict that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) incarnation: Incarnation,
    pub(super) standing: Standing,
    pub(super) evidence: Evidence,
    pub(super) flaps: u32,
    pub(super) lease_ended: bool,
    /// When it was seen first.
    pub(super) since: Millis,
}

/// What should be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) standing: Standing,
    pub(super) evidence: Evidence,
    pub(super) flaps: u32,
    pub(super) lease_ended: bool,
}

impl Watch {
    /// A host of which only its name is known.
    pub(super) fn new(id: HostId, name: HostName, region: Region, incarnation: Incarnation, now: Millis) -> Self {
        Self {
            id,
            name,
            region,
            incarnation,
            seq: 0,
            heard: now,
            seen: false,
            interval: 0,
            errors: 0,
            draining: false,
            life: Life::Heard,
            stored: None,
            beats: 0,
            returned: None,
            hold_until: 0,
            said: None,
            held_until: None,
            doubted: None,
            counted: false,
            lease_ended: false,
            condemned: false,
            wake: None,
        }
    }

    /// Whether a report tells anything: neither of an older start nor repeated, overtaken, or sent before the host's goodbye.
    pub(super) fn is_news(&self, report: &HostReport) -> bool {
        if report.incarnation != self.incarnation {
            return report.incarnation > self.incarnation;
        }
        let left = matches!(self.life, Life::Gone { evidence: Evidence::Left, .. });
        report.seq > self.seq && !(left && report.state == HostState::Draining)
    }

    /// Takes in a report that is news. `window` is when observation began.
    pub(super) fn hear(&mut self, report: &HostReport, window: Millis, settings: &FailoverSettings, now: Millis) {
        let steady = self.seen && self.heard >= window && !matches!(self.life, Life::Gone { .. });
        if report.incarnation != self.incarnation {
            self.incarnation = report.incarnation.clone();
            (self.lease_ended, self.condemned, self.interval, self.beats, self.said) = (false, false, 0, 0, None);
        } else if steady {
            let measured = now.saturating_sub(self.heard).min(settings.heartbeat_timeout_ms);
            let usual = self.interval.max(millis(settings.profile.heartbeat()) << SMOOTHING);
            self.interval = (usual - (usual >> SMOOTHING)).saturating_add(measured);
        } else {
            self.interval = 0;
        }
        (self.name, self.region) = (report.name.clone(), report.region.clone());
        (self.seq, self.errors, self.draining) = (report.seq, report.error_count, report.state == HostState::Draining);
        (self.heard, self.seen, self.life, self.held_until) = (now, true, Life::Heard, None);
        self.beats = self.beats.saturating_add(1);
    }

    /// Somebody else hears the host.
    pub(super) fn witness(&mut self, now: Millis) {
        if matches!(self.life, Life::Asked { .. } | Life::Gone { .. }) {
            (self.life, self.heard, self.held_until) = (Life::Heard, now, None);
        }
    }

    /// What is stored about it now; whether it was taken for gone by that.
    pub(super) fn handle_stored(&mut self, verdict: Option<&Verdict>, settings: &FailoverSettings, now: Millis) -> bool {
        self.said = None;
        let Some(verdict) = verdict else {
            self.stored = None;
            return false;
        };
        let before = self.stored.as_ref().filter(|stored| stored.incarnation == verdict.incarnation);
        let unchanged = before.is_some_and(|stored| stored.standing == verdict.standing && stored.flaps == verdict.flaps);
        let since = before.filter(|_| unchanged).map_or(now, |stored| stored.since);
        let said = before.is_some_and(|stored| stored.lease_ended);
        let died = verdict.standing == Standing::Dead && before.is_none_or(|stored| stored.standing != Standing::Dead);
        if !unchanged {
            self.beats = 0;
            self.note(verdict, settings, now);
        }
        self.lease_ended |= verdict.lease_ended && verdict.incarnation == self.incarnation && verdict.standing == Standing::Dead;
        if said && !verdict.lease_ended {
            // It was said; what it has from now on it has by the lease that it holds now.
            self.lease_ended = false;
        }
        self.stored = Some(Stored {
            incarnation: verdict.incarnation.clone(),
            standing: verdict.standing,
            evidence: verdict.evidence,
            flaps: verdict.flaps,
            lease_ended: verdict.lease_ended,
            since,
        });
        died
    }

    /// What a verdict that is new here tells about the host itself.
    fn note(&mut self, verdict: &Verdict, settings: &FailoverSettings, now: Millis) {
        if verdict.incarnation > self.incarnation {
            self.incarnation = verdict.incarnation.clone();
            (self.seq, self.heard, self.life, self.interval) = (0, now, Life::Heard, 0);
            (self.lease_ended, self.condemned) = (false, false);
        }
        if !self.seen {
            (self.name, self.region) = (verdict.name.clone(), verdict.region.clone());
        }
        if verdict.incarnation == self.incarnation {
            match verdict.standing {
                Standing::Dead if !matches!(self.life, Life::Gone { .. }) => {
                    self.life = Life::Gone { since: self.noticed().unwrap_or(now), evidence: verdict.evidence };
                }
                Standing::Healthy | Standing::Degraded | Standing::Returned => self.witness(now),
                Standing::Dead | Standing::Suspect => {}
            }
        }
        if verdict.flaps > 0 && (verdict.standing == Standing::Returned || self.stored.is_none()) {
            self.returned = Some(now);
        }
        if verdict.standing == Standing::Returned {
            self.hold_until = now.saturating_add(hold_ms(settings, verdict.flaps));
        }
    }

    /// The connection of this start has ended; whether that is to be looked into.
    pub(super) fn cut(&mut self, cut: Cut, now: Millis) -> bool {
        let evidence = match cut {
            Cut::ProcessGone => Evidence::ProcessGone,
            Cut::LinkDown => Evidence::LinkDown,
        };
        let open = matches!(self.life, Life::Heard | Life::Asked { .. });
        if open {
            self.life = Life::Cut { at: now, evidence };
        }
        open
    }

    /// Silence after which it is suspect. A host that this observer never heard may just be starting, as may the observer.
    pub(super) fn patience(&self, settings: &FailoverSettings) -> u64 {
        let floor = millis(settings.profile.suspicion_floor());
        if !self.seen {
            return floor.max(settings.heartbeat_timeout_ms);
        }
        floor.max(self.interval.saturating_mul(INTERVALS) >> SMOOTHING).min(settings.heartbeat_timeout_ms)
    }

    /// When something is due, if nothing is heard until then.
    pub(super) fn due(&self, window: Millis, settings: &FailoverSettings) -> Option<Millis> {
        let life = match self.life {
            Life::Heard => Some(self.heard.max(window).saturating_add(self.patience(settings))),
            Life::Cut { at, .. } => Some(at.saturating_add(grace_ms(settings))),
            Life::Asked { next, .. } => Some(next),
            Life::Gone { .. } => self.held_until,
        };
        let on_hold = self.stored.as_ref().is_some_and(|stored| stored.standing == Standing::Returned) && self.life == Life::Heard;
        let hold = (on_hold && self.beats >= MIN_BEATS && self.said.is_none()).then_some(self.hold_until);
        life.into_iter().chain(hold).min()
    }

    /// Goes on to what follows when a deadline has passed.
    pub(super) fn advance(&mut self, window: Millis, settings: &FailoverSettings, now: Millis) -> Progress {
        let since = match self.life {
            Life::Heard => {
                if now.saturating_sub(self.heard.max(window)) < self.patience(settings) {
                    return Progress::None;
                }
                self.life = Life::Asked { since: now, evidence: Evidence::Silent, times: 0, next: now };
                return Progress::Doubted;
            }
            Life::Cut { at, evidence } if now.saturating_sub(at) >= grace_ms(settings) => {
                self.life = Life::Gone { since: at, evidence };
                return Progress::Gone;
            }
            Life::Asked { since, evidence, times, next } if now >= next => {
                if times < CONFIRMATIONS {
                    let next = now.saturating_add(millis(settings.profile.confirm()));
                    self.life = Life::Asked { since, evidence, times: times + 1, next };
                    return Progress::Ask;
                }
                (since, evidence)
            }
            Life::Cut { .. } | Life::Asked { .. } | Life::Gone { .. } => return Progress::None,
        };
        self.life = Life::Gone { since: since.0, evidence: since.1 };
        Progress::Gone
    }

    /// Since when something is wrong with it, if anything is.
    pub(super) fn noticed(&self) -> Option<Millis> {
        match self.life {
            Life::Heard => None,
            Life::Cut { at, .. } => Some(at),
            Life::Asked { since, .. } | Life::Gone { since, .. } => Some(since),
        }
    }

    /// Whether the stored verdict takes this start for gone.
    pub(super) fn is_stored_dead(&self) -> bool {
        self.about_this().is_some_and(|stored| stored.standing == Standing::Dead)
    }

    /// The stored verdict about this start of it.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.about_this().map(|stored| stored.standing)
    }

    fn about_this(&self) -> Option<&Stored> {
        self.stored.as_ref().filter(|stored| stored.incarnation == self.incarnation)
    }

    /// What should be stored, if that is not what is; brakes aside.
    pub(super) fn wanted(&self, settings: &FailoverSettings, now: Millis) -> Option<Wanted> {
        if self.stored.as_ref().is_some_and(|stored| stored.incarnation > self.incarnation) {
            return None;
        }
        let flaps = self.stored.as_ref().map_or(0, |stored| stored.flaps);
        let dead = |evidence| {
            let told = self.about_this().is_some_and(|stored| stored.standing == Standing::Dead && stored.lease_ended == self.lease_ended);
            let evidence = self.about_this().filter(|stored| stored.standing == Standing::Dead).map_or(evidence, |stored| stored.evidence);
            (!told).then_some(Wanted { standing: Standing::Dead, evidence, flaps, lease_ended: self.lease_ended })
        };
        if self.condemned {
            return dead(Evidence::Operator);
        }
        match self.life {
            Life::Heard => self.wanted_when_heard(settings, now),
            Life::Cut { .. } => None,
            Life::Asked { evidence, .. } => self.suspect(evidence),
            Life::Gone { evidence, .. } => dead(evidence),
        }
    }

    /// Suspect, unless that or worse is stored.
    pub(super) fn suspect(&self, evidence: Evidence) -> Option<Wanted> {
        let flaps = self.stored.as_ref().map_or(0, |stored| stored.flaps);
        let known = self.about_this().is_some_and(|stored| matches!(stored.standing, Standing::Suspect | Standing::Dead));
        (!known).then_some(Wanted { standing: Standing::Suspect, evidence, flaps, lease_ended: false })
    }

    fn wanted_when_heard(&self, settings: &FailoverSettings, now: Millis) -> Option<Wanted> {
        if !self.seen {
            return None;
        }
        let faulty = self.errors >= settings.max_error_count;
        let Some(stored) = &self.stored else { return faulty.then(|| degraded(0)) };
        let (same, flaps) = (stored.incarnation == self.incarnation, stored.flaps);
        let fit = if faulty { degraded(flaps) } else { heard(Standing::Healthy, flaps) };
        let answered = self.beats > 0;
        if same && self.lease_ended && !stored.lease_ended && stored.standing != Standing::Dead && answered {
            // Its lease was ended while it came back: it has given up what needs one, so that has to go elsewhere.
            return Some(Wanted { lease_ended: true, ..heard(Standing::Returned, flaps) });
        }
        match stored.standing {
            Standing::Dead if !same || answered => {
                let lease_ended = same && self.lease_ended;
                Some(Wanted { lease_ended, ..heard(Standing::Returned, self.flaps_after(stored, now)) })
            }
            Standing::Returned if !same => Some(heard(Standing::Returned, flaps)),
            Standing::Returned => (self.beats >= MIN_BEATS && now >= self.hold_until).then_some(fit),
            Standing::Suspect if !same || answered => Some(if now < self.hold_until { heard(Standing::Returned, flaps) } else { fit }),
            Standing::Degraded if !same || (answered && self.errors == 0) => (fit.standing == Standing::Healthy || !same).then_some(fit),
            Standing::Healthy => faulty.then_some(fit),
            Standing::Dead | Standing::Suspect | Standing::Degraded => None,
        }
    }

    /// How often it came back, once it has; leaving on purpose does not count, nor what the operator took back.
    fn flaps_after(&self, stored: &Stored, now: Millis) -> u32 {
        let lately = self.returned.is_some_and(|at| now.saturating_sub(at) < FLAP_WINDOW_MS);
        let before = if lately { stored.flaps } else { 0 };
        if matches!(stored.evidence, Evidence::Left | Evidence::Operator) { before } else { before.saturating_add(1) }
    }

    /// `wanted` in full.
    pub(super) fn opinion(&self, wanted: Wanted, settings: &FailoverSettings, now: Millis) -> Opinion {
        let noticed = self.noticed().unwrap_or(now);
        Opinion {
            host: self.id.clone(),
            name: self.name.clone(),
            region: self.region.clone(),
            incarnation: self.incarnation.clone(),
            standing: wanted.standing,
            evidence: wanted.evidence,
            reason: self.reason(wanted, settings),
            lease_ended: wanted.lease_ended,
            flaps: wanted.flaps,
            noticed,
            silent_ms: noticed.saturating_sub(self.heard),
        }
    }

    fn reason(&self, wanted: Wanted, settings: &FailoverSettings) -> String {
        match wanted.evidence {
            Evidence::Heard if wanted.standing == Standing::Returned => match hold_ms(settings, wanted.flaps) {
                0 => "heard again after it left".to_owned(),
                hold => format!("heard again; gets work after {hold}ms"),
            },
            Evidence::Heard => "heard".to_owned(),
            Evidence::Left => "left on purpose".to_owned(),
            Evidence::ProcessGone => "its process is gone: it closed its connection without a word".to_owned(),
            Evidence::LinkDown => "its connection is down; it may live on".to_owned(),
            Evidence::Silent => format!("heartbeat timeout: {}ms", self.patience(settings)),
            Evidence::Errors => format!("{} errors of its own within a minute", self.errors),
            Evidence::Operator => "failed over by the operator".to_owned(),
        }
    }
}

/// What has come of a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing: something was heard, or the time has not come.
    None,
    /// The host is suspect from now on.
    Doubted,
    /// It is to be asked.
    Ask,
    /// It seems to be gone.
    Gone,
}

fn heard(standing: Standing, flaps: u32) -> Wanted {
    Wanted { standing, evidence: Evidence::Heard, flaps, lease_ended: false }
}

fn degraded(flaps: u32) -> Wanted {
    Wanted { standing: Standing::Degraded, evidence: Evidence::Errors, flaps, lease_ended: false }
}
