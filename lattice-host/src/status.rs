//! What a keeper shows of its actor: read by the event loop for reports, written by the keeper and its inlets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::event_loop::Event;
use crate::runtime::{Actor, ActorStats, CpuTime};
use crate::supervision::Supervision;

/// How an actor stands here.
#[derive(Clone, Default)]
pub(crate) struct Status {
    /// Those that only finish work, then the one that takes some.
    pub(crate) actors: BTreeMap<u64, Actor>,
    /// What those did that are gone.
    pub(crate) past: Past,
    /// How it has fared lately.
    pub(crate) supervision: Option<Arc<Supervision>>,
    /// Number of the newest order that was worked through.
    pub(crate) obeyed: u64,
    /// The same of the orders about slots.
    pub(crate) slots_obeyed: u64,
    /// Number of the last inlet that was made.
    inlets: u64,
    /// Inlets that are about to open or close.
    busy: BTreeSet<u64>,
    /// What is wrong with inlets that do not work: name of the link, reason.
    troubles: BTreeMap<u64, (String, String)>,
}

/// What actors did that are gone.
#[derive(Clone, Copy, Default)]
pub(crate) struct Past {
    handled: u64,
    failed: u64,
    cpu: CpuTime,
}

impl Past {
    pub(crate) fn add(&mut self, stats: &ActorStats) {
        self.handled = self.handled.saturating_add(stats.handled);
        self.failed = self.failed.saturating_add(stats.failed);
        self.cpu = self.cpu.plus(stats.cpu);
    }
}

impl Status {
    /// Of an actor that is about to run.
    pub(crate) fn new(supervision: Arc<Supervision>) -> Self {
        Self { supervision: Some(supervision), ..Self::default() }
    }

    /// Whether everything is as order `ordered`, and order `slots` about slots, want it, or it is known why not.
    pub(crate) fn is_settled(&self, ordered: u64, slots: u64) -> bool {
        self.obeyed >= ordered && self.slots_obeyed >= slots && self.busy.is_empty()
    }

    /// Calls that succeeded and failed since the host started.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let all = self.all();
        (all.handled, all.failed)
    }

    /// CPU time of the actor's own code since the host started.
    pub(crate) fn cpu(&self) -> CpuTime {
        self.all().cpu
    }

    /// Largest linear memory of one instance of the code that runs, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> u64 {
        self.actors.values().map(|actor| actor.stats().memory_peak_bytes).max().unwrap_or(0)
    }

    fn all(&self) -> Past {
        self.actors.values().fold(self.past, |mut all, actor| {
            all.add(&actor.stats());
            all
        })
    }

    /// Failures in a row that were its own.
    pub(crate) fn crashes(&self) -> u32 {
        self.supervision.as_ref().map_or(0, |supervision| supervision.crashes())
    }

    /// What is wrong with single links.
    pub(crate) fn link_errors(&self) -> BTreeMap<String, String> {
        self.troubles.values().cloned().collect()
    }
}

/// How one inlet stands: opening, open, in trouble, closing, gone.
#[derive(Clone)]
pub(crate) struct InletStatus {
    status: Arc<watch::Sender<Status>>,
    events: mpsc::Sender<Event>,
    number: u64,
    link: String,
}

impl InletStatus {
    /// An inlet that is about to open; `link` is how its trouble is named in reports.
    pub(crate) fn opening(status: &Arc<watch::Sender<Status>>, events: &mpsc::Sender<Event>, link: String) -> Self {
        let mut number = 0;
        status.send_modify(|status| {
            status.inlets = status.inlets.saturating_add(1);
            number = status.inlets;
            status.busy.insert(number);
        });
        Self { status: status.clone(), events: events.clone(), number, link }
    }

    /// It works.
    pub(crate) fn works(&self) {
        self.change(|status, number| status.troubles.remove(&number).is_some() | status.busy.remove(&number));
    }

    /// It does not work, and is tried again.
    pub(crate) fn fails(&self, why: String) {
        let trouble = (self.link.clone(), why);
        let mut news = false;
        self.change(|status, number| {
            news = status.troubles.insert(number, trouble.clone()).as_ref() != Some(&trouble);
            news | status.busy.remove(&number)
        });
        if news {
            tracing::warn!(link = self.link, why = trouble.1, "link does not work, it is tried again");
        }
    }

    /// It is about to close.
    pub(crate) fn closing(&self) {
        self.change(|status, number| status.busy.insert(number));
    }

    /// It takes nothing any more.
    pub(crate) fn closed(&self) {
        self.works();
    }

    /// Changes the status and has a change reported at once; a full queue only delays that to the next heartbeat.
    fn change(&self, change: impl FnOnce(&mut Status, u64) -> bool) {
        if self.status.send_if_modified(|status| change(status, self.number)) {
            let _ = self.events.try_send(Event::Changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inlet_from_opening_to_closed() {
        let status = Arc::new(watch::channel(Status::default()).0);
        let (events, mut told) = mpsc::channel(8);
        let settled = |ordered| status.borrow().is_settled(ordered, 0);
        assert!(settled(0) && !settled(1));
        let inlet = InletStatus::opening(&status, &events, "link".into());
        assert!(!settled(0));
        inlet.fails("port is taken".into());
        assert!(settled(0));
        assert_eq!(status.borrow().link_errors(), BTreeMap::from([("link".to_owned(), "port is taken".to_owned())]));
        inlet.fails("port is taken".into());
        inlet.works();
        assert!(status.borrow().link_errors().is_empty());
        inlet.closing();
        assert!(!settled(0));
        inlet.closed();
        assert!(settled(0));
        let count = std::iter::from_fn(|| told.try_recv().ok()).count();
        assert_eq!(count, 4, "one for each change, none for the repetition");
    }
}
