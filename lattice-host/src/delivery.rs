//! From a subscription to the actor: one task per subscription ("inlet").
//!
//! * [`core`]: at most once (`core` and `broadcast` links). A bounded queue; what does not fit is dropped and counted.
//! * [`durable`]: at least once (`jetstream` links). Never more pulled than can start; every message is settled.
//!
//! **Invariants.** A subject of the control plane never reaches an actor, however wide its subscription was forced, unless
//! the link is a system actor's. An
//! inlet that is stopped takes nothing new, finishes what runs, and leaves what it did not start to others.

pub(crate) mod core;
pub(crate) mod durable;
mod failures;
pub(crate) mod owned;
mod queue;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lattice_core::id::ActorId;
use lattice_core::link::MessagingSettings;
use provider_api::messaging::{Inbox, Message, Messaging, Subscription};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::event_loop::Event;
use crate::metrics::{ActorMetrics, Operation};
use crate::ownership::slot::Slot;
use crate::reason;
use crate::runtime::{Actor, Handled, InvokeError, Pace, ReplyRoute};
use crate::status::InletStatus;
use crate::supervision::Supervision;

/// First and longest pause before a subscription that could not be made or has ended is made again.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The actor that takes messages now, and how many at once. Its code may be replaced while messages come in.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) actor: Actor,
    pub(crate) instances: usize,
}

/// Who gets the messages.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: ActorId,
    pub(crate) current: watch::Receiver<Current>,
    pub(crate) metrics: ActorMetrics,
    /// How it has fared lately.
    pub(crate) supervision: Arc<Supervision>,
    /// Where it is told that it has to rest.
    pub(crate) events: mpsc::Sender<Event>,
    /// The slot, of an actor whose slots have owners.
    pub(crate) slot: Option<Arc<Slot>>,
    /// The durable consumer that the messages come from, if any.
    pub(crate) consumer: Option<Arc<str>>,
}

impl Target {
    pub(crate) fn current(&self) -> Current {
        self.current.borrow().clone()
    }

    /// How the actor's calls run.
    pub(crate) fn pace(&self) -> Pace {
        self.current.borrow().actor.pace()
    }

    /// Hands over one message and counts how it went. If the code is replaced at this very moment, the new one gets it.
    /// `sequence`: its position in the stream that the consumer reads.
    pub(crate) async fn handle(
        &self,
        operation: Operation,
        message: Message,
        route: ReplyRoute,
        sequence: Option<u64>,
    ) -> Result<Handled, InvokeError> {
        let started = Instant::now();
        let outcome = match &self.slot {
            // Boxed: the others shall not carry it along.
            Some(slot) => Box::pin(slot.handle(&self.current().actor, message, route, self.consumer.as_deref().zip(sequence))).await,
            None => {
                let mut outcome = self.current().actor.handle_message(message.clone(), route.clone()).await;
                if matches!(outcome, Err(InvokeError::Closed)) && self.current.has_changed().is_ok() {
                    outcome = self.current().actor.handle_message(message, route).await;
                }
                outcome
            }
        };
        self.metrics.count(operation, outcome.is_ok(), started.elapsed());
        if let Some(rest) = self.supervision.note(&outcome) {
            let why = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let _ = self.events.send(Event::Resting { actor: self.id.clone(), rest, why }).await;
        }
        outcome
    }

    /// Until when the actor shall get no messages, because it fails again and again.
    pub(crate) fn rests_until(&self) -> Option<tokio::time::Instant> {
        self.supervision.rests_until()
    }
}

/// A subscription that is made, and made again whenever it ends, until `stop`.
pub(crate) struct Source {
    pub(crate) backend: Arc<dyn Messaging>,
    pub(crate) subscription: Subscription,
    settings: MessagingSettings,
    pub(crate) status: InletStatus,
    pub(crate) stop: CancellationToken,
    backoff: Backoff,
}

impl Source {
    pub(crate) fn new(
        backend: Arc<dyn Messaging>,
        subscription: Subscription,
        settings: MessagingSettings,
        status: InletStatus,
        stop: CancellationToken,
    ) -> Self {
        Self { backend, subscription, settings, status, stop, backoff: Backoff::new(RESUBSCRIBE.0, RESUBSCRIBE.1) }
    }

    /// Whether the actor may see a message on `subject`.
    fn may_see(&self, subject: &str) -> bool {
        self.settings.may_see(subject)
    }

    /// The subscription; `None` once it is to stop. Trouble is shown with the link until it works.
    async fn open(&mut self) -> Option<Box<dyn Inbox>> {
        loop {
            if self.stop.is_cancelled() {
                self.status.closed();
                return None;
            }
            match self.backend.subscribe(self.subscription.clone()).await {
                Ok(inbox) => {
                    self.status.works();
                    self.backoff.reset();
                    return Some(inbox);
                }
                Err(error) => self.status.fails(reason::of(&error)),
            }
            self.pause().await;
        }
    }

    /// Waits before the next attempt, or until it is to stop.
    async fn pause(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(self.backoff.delay()) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
