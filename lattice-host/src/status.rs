//! What a keeper shows of its actor: read by the event loop for reports, written by the keeper and its inlets.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::event_loop::Event;
use crate::runtime::Actor;

/// How an actor stands here.
#[derive(Clone, Default)]
pub(crate) struct Status {
    /// Those that only finish work, then the one that takes some.
    pub(crate) actors: BTreeMap<u64, Actor>,
    /// Counts of those that are gone: handled, failed.
    pub(crate) past: (u64, u64),
    /// What is wrong with single links.
    pub(crate) link_errors: BTreeMap<String, String>,
}

impl Status {
    /// Calls that succeeded and failed since the host started.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.actors.values().fold(self.past, |(handled, failed), actor| {
            let stats = actor.stats();
            (handled.saturating_add(stats.handled), failed.saturating_add(stats.failed))
        })
    }
}

/// Where the trouble of one link is shown.
#[derive(Clone)]
pub(crate) struct Trouble {
    pub(crate) status: Arc<watch::Sender<Status>>,
    pub(crate) events: mpsc::Sender<Event>,
    /// Name under which it stands in the report.
    pub(crate) link: String,
}

impl Trouble {
    /// The link does not work.
    pub(crate) fn set(&self, why: String) {
        let changed = self.status.send_if_modified(|status| status.link_errors.insert(self.link.clone(), why.clone()).as_ref() != Some(&why));
        if changed {
            tracing::warn!(link = self.link, why, "link does not work, it is tried again");
            self.tell();
        }
    }

    /// The link works, or is gone.
    pub(crate) fn clear(&self) {
        if self.status.send_if_modified(|status| status.link_errors.remove(&self.link).is_some()) {
            self.tell();
        }
    }

    /// Has it reported at once; a full queue only delays that to the next heartbeat.
    fn tell(&self) {
        let _ = self.events.try_send(Event::Changed);
    }
}
