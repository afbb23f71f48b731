//! State changes on their way to the event stream.
//!
//! **Invariant.** Recording never blocks and never fails: what does not fit into the queue is dropped and counted. One task
//! ([`run`]) stores the events in order and keeps trying while the bus is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::id::{HostId, HostName, Incarnation, Region};
use lattice_core::wire::event::{Event, EventKind};
use lattice_nats::Lattice;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock;

/// Events that wait while the bus is away; some hundred bytes each.
const QUEUE: usize = 512;
/// First and longest pause between two attempts to store one event.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Who an event is from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) host: HostId,
    pub(crate) name: HostName,
    pub(crate) region: Region,
    pub(crate) incarnation: Incarnation,
}

/// Records state changes. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    origin: Arc<Origin>,
    queue: mpsc::Sender<Event>,
    dropped: Counter,
}

impl Recorder {
    /// A recorder that counts in `dropped` what does not fit, and the end of its queue for [`run`].
    pub(crate) fn new(origin: Origin, dropped: Counter) -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(QUEUE);
        (Self { origin: Arc::new(origin), queue, dropped }, events)
    }

    /// An event of this host, now.
    pub(crate) fn event(&self, kind: EventKind, message: String, details: BTreeMap<String, String>) -> Event {
        let Origin { host, name, region, incarnation } = Origin::clone(&self.origin);
        Event { kind, host, host_name: name, region, incarnation, at_ms: clock::now_ms(), message, details }
    }

    /// Records that something changed.
    pub(crate) fn record(&self, kind: EventKind, message: String, details: BTreeMap<String, String>) {
        if self.queue.try_send(self.event(kind, message, details)).is_err() {
            self.dropped.inc();
        }
    }
}

/// Stores events in order until the queue ends or, once `leaving` is cancelled, it is empty or an event cannot be stored.
pub(crate) async fn run(lattice: Lattice, mut events: mpsc::Receiver<Event>, leaving: CancellationToken) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = leaving.cancelled() => None,
        };
        let Some(event) = event else { return };
        while let Err(error) = lattice.publish_event(&event).await {
            tracing::debug!(kind = event.kind.token(), %error, "event is not stored yet");
            if leaving.is_cancelled() {
                return;
            }
            // When it is time to leave, each event gets one more try.
            let _ = leaving.run_until_cancelled(backoff.pause()).await;
        }
        backoff.reset();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn recorder() -> (Recorder, mpsc::Receiver<Event>) {
        let origin = Origin {
            host: HostId::new(format!("N{}", "A".repeat(55))).unwrap(),
            name: HostName::new("a").unwrap(),
            region: Region::new("local").unwrap(),
            incarnation: Incarnation::new("1").unwrap(),
        };
        Recorder::new(origin, Counter::default())
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let (recorder, mut events) = recorder();
        for _ in 0..QUEUE + 3 {
            recorder.record(EventKind::Hello, "hello".into(), BTreeMap::new());
        }
        assert_eq!(recorder.dropped.get(), 3);
        assert_eq!(events.recv().await.unwrap().kind, EventKind::Hello);
    }
}
