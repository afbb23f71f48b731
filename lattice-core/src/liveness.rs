//! Liveness: which hosts are there, from heartbeats, closed connections and goodbyes.
//!
//! A pure detector that each replica of the failover actor keeps. It says what *should* be stored as verdicts; whoever
//! drives it stores that on condition of what was there, and tells it what *is* stored ([`Detector::handle_verdicts`]).
//!
//! **Invariants.** A host that is heard is never taken for gone, whatever came before, unless the operator says so. An
//! observer that heard nothing at all judges nobody: after such a gap, and at the start, every host has a whole window to be
//! heard. Evidence is about one incarnation; of a host only its newest counts. Many hosts that seem to be gone at once are
//! rather an error of ours: brakes hold verdicts back. A heartbeat costs the logarithm of the number of hosts.
//!
//! * `detector`: the detector
//! * `watch`: what is known of one host, and what follows from it
//! * `brakes`: the budget of verdicts, and sites that are frozen
//! * `settings`: what the operator tells failure detection

mod brakes;
mod detector;
mod settings;
mod watch;

pub use brakes::{BREAKER_HOSTS, BREAKER_WINDOW_MS, BUDGET_MS, FREEZE_MS, SLOW_MS};
pub(crate) use detector::UNKNOWN_INCARNATION;
pub use detector::{Detector, HostView};
pub(crate) use settings::millis;
pub use settings::{CONFIG, FailoverSettings};
pub use watch::{FLAP_WINDOW_MS, MIN_BEATS, hold_ms};

use crate::id::{HostId, HostName, Incarnation, Region};
use crate::scheduler::Millis;
use crate::wire::verdict::{Evidence, Standing, Verdict};

/// How the connection of a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its side closed it without a word.
    ProcessGone,
    /// It broke or went stale.
    LinkDown,
}

/// What should be done; each is said once until something new is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Ask the host for a heartbeat.
    Ask(HostId),
    /// Store a verdict.
    Store(Box<Opinion>),
    /// So many hosts of a site are silent that nobody is taken for gone there for a while.
    Freeze {
        /// The site.
        region: Region,
        /// The host that was one too many.
        host: HostId,
        /// Hosts of it that seem to be gone.
        suspects: usize,
        /// All of its hosts.
        of: usize,
    },
    /// Verdicts about the site's hosts go on, slowly.
    Thaw {
        /// The site.
        region: Region,
    },
}

/// A verdict that should be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Its region.
    pub region: Region,
    /// The start of it that is meant.
    pub incarnation: Incarnation,
    /// How it stands.
    pub standing: Standing,
    /// Why.
    pub evidence: Evidence,
    /// One sentence for people.
    pub reason: String,
    /// Whether its lease is proven to have ended.
    pub lease_ended: bool,
    /// How often it came back lately.
    pub flaps: u32,
    /// When it was noticed.
    pub noticed: Millis,
    /// How long before it was noticed the host was heard last, in milliseconds.
    pub silent_ms: u64,
}

impl Opinion {
    /// The verdict, as it is stored by `by`.
    pub fn verdict(&self, at_ms: u64, by: &str) -> Verdict {
        Verdict {
            host: self.host.clone(),
            name: self.name.clone(),
            region: self.region.clone(),
            incarnation: self.incarnation.clone(),
            standing: self.standing,
            evidence: self.evidence,
            reason: self.reason.clone(),
            lease_ended: self.lease_ended,
            flaps: self.flaps,
            at_ms,
            by: by.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
