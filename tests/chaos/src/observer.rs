//! Whoever listens: results as they arrive, what hosts say of themselves, and events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::StreamExt as _;
use lattice_core::id::{ActorId, Generation, HostId, LatticeName};
use lattice_core::wire::event::{Event, EventKind};
use lattice_core::wire::report::HostReport;
use lattice_core::{subject, wire};
use tokio::runtime::Handle;

use crate::load::{Id, Stream};

/// A result as the subscriber saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// What it is the result of.
    pub(crate) id: Id,
    /// Node that says so.
    pub(crate) node: String,
    /// Milliseconds since 1970 at which the actor published it, by the clock of the machine.
    pub(crate) said_ms: u64,
    /// When it arrived.
    pub(crate) at: Instant,
}

/// A claim of a slot that was heard of: actor, slot, the plan that gave it, epoch, host.
pub(crate) type Claim = (ActorId, u32, Generation, u64, HostId);

/// Everything that was heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// Results by stream, in order of arrival.
    pub(crate) results: BTreeMap<Stream, Vec<Seen>>,
    /// The last word of each host.
    pub(crate) hosts: BTreeMap<HostId, HostReport>,
    /// Slots that hosts said they own, ever.
    pub(crate) claims: BTreeSet<Claim>,
    /// Events.
    pub(crate) events: Vec<(Instant, Event)>,
}

impl Heard {
    /// Events of a kind.
    pub(crate) fn events_of(&self, kind: EventKind) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(_, event)| event).filter(move |event| event.kind == kind)
    }
}

/// A subscriber.
pub(crate) struct Observer(Arc<Mutex<Heard>>);

impl Observer {
    /// Listens from now on.
    pub(crate) fn start(runtime: &Handle, client: &async_nats::Client, lattice: &LatticeName) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let subjects = ["edge.result.>".to_owned(), subject::heartbeats(lattice), subject::events(lattice)];
        for pattern in subjects {
            let mut messages = runtime.block_on(client.subscribe(pattern)).expect("subscribed");
            let heard = heard.clone();
            runtime.spawn(async move {
                while let Some(message) = messages.next().await {
                    lock(&heard).take(&message.subject, &message.payload);
                }
            });
        }
        runtime.block_on(client.flush()).expect("the server knows");
        Self(heard)
    }

    /// Looks at what was heard so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&lock(&self.0))
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    /// What nobody of ours can have said is left out.
    fn take(&mut self, subject: &str, payload: &[u8]) {
        if let Some(token) = subject.strip_prefix("edge.result.") {
            if let Some((stream, seen)) = result(token, payload) {
                self.results.entry(stream).or_default().push(seen);
            }
        } else if subject.contains(".hb.") {
            let Ok(report) = wire::decode::<HostReport>(payload) else { return };
            for (actor, component) in &report.components {
                let claims = component.slots.iter().map(|(slot, own)| (actor.clone(), *slot, own.term, own.epoch, report.id.clone()));
                self.claims.extend(claims);
            }
            self.hosts.insert(report.id.clone(), report);
        } else if let Ok(event) = wire::decode::<Event>(payload) {
            self.events.push((Instant::now(), event));
        }
    }
}

fn result(token: &str, payload: &[u8]) -> Option<(Stream, Seen)> {
    let stream = Stream::ALL.into_iter().find(|stream| stream.token() == token)?;
    let words: Vec<&str> = std::str::from_utf8(payload).ok()?.split(' ').collect();
    let [device, number, node, said] = words.as_slice() else { return None };
    let id = ((*device).to_owned(), number.parse().ok()?);
    Some((stream, Seen { id, node: (*node).to_owned(), said_ms: said.parse().ok()?, at: Instant::now() }))
}
