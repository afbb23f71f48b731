//! Tells the event loop what the plan says for this host, and how the connection stands.
//!
//! Level-triggered: a notification, a reconnect and a minute without either all lead to the same full read.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lattice_core::id::HostId;
use lattice_core::subject;
use lattice_core::timing::RESYNC_INTERVAL;
use lattice_core::wire::assignment::Assignment;
use lattice_nats::{ConnectionState, Lattice, StoreError};
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::event_loop::Event;

/// First and longest pause before the store is read again after it could not be.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Between two looks whether somebody has made the lattice.
const LOOK_FOR_LATTICE: Duration = Duration::from_secs(1);

/// What came of reading this host's assignment.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The store was read; it may hold no assignment for this host.
    Plan(Option<Box<Assignment>>),
    /// NATS answers, but nobody has made this lattice.
    NoLattice,
    /// The store could not be read.
    Failed(StoreError),
}

/// Runs until the event loop is gone.
pub(crate) async fn run(lattice: Lattice, host: HostId, events: mpsc::Sender<Event>) -> Result<(), StoreError> {
    // Subscribed before the first read, so that nothing falls between.
    let mut planned = lattice.subscribe(subject::planned(lattice.name(), &host)).await?;
    let mut state = lattice.connection().state();
    let mut retry = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let connected = *state.borrow_and_update();
        if events.send(Event::Connection(connected)).await.is_err() {
            return Ok(());
        }
        // Until the connection comes or goes.
        loop {
            let pause = match connected {
                ConnectionState::Connected => {
                    let (fetched, pause) = fetch(&lattice, &host, &mut retry).await;
                    if events.send(Event::Fetched(fetched)).await.is_err() {
                        return Ok(());
                    }
                    pause
                }
                ConnectionState::Disconnected => RESYNC_INTERVAL,
            };
            tokio::select! {
                told = planned.next() => match told {
                    // One read answers all notifications that are here.
                    Some(_) => while let Some(Some(_)) = planned.next().now_or_never() {},
                    None => return Ok(()),
                },
                () = tokio::time::sleep(pause) => {}
                changed = state.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
                }
            }
        }
    }
}

async fn fetch(lattice: &Lattice, host: &HostId, retry: &mut Backoff) -> (Fetched, Duration) {
    match lattice.read_assignment(host).await {
        Ok(assignment) => {
            retry.reset();
            (Fetched::Plan(assignment.map(Box::new)), RESYNC_INTERVAL)
        }
        Err(error) => match lattice.exists().await {
            Ok(false) => (Fetched::NoLattice, LOOK_FOR_LATTICE),
            Ok(true) | Err(_) => (Fetched::Failed(error), retry.delay()),
        },
    }
}
