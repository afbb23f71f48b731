//! The host's lease: renewed by a task, enforced by a plain thread that no busy executor can hold up.
//!
//! **Invariants.** From the deadline of the last renewal that was stored, counted from when it was *sent*, no slot that needs
//! the lease acts any more: first its gate is closed, then its guests are cut off, and only then anybody is told. A lease
//! that somebody else has written over is lost at that moment.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::Duration;

use lattice_core::id::Revision;
use lattice_core::lease::{Action, Lease};
use lattice_core::timing::TimingProfile;
use lattice_nats::{CommitError, Lattice};
use tokio::sync::{mpsc, watch};

use super::claims::News;
use super::gate::{Deadline, Gate, boot_time};
use crate::event_loop::Event;
use crate::reason;
use crate::recorder::Origin;

/// How often the deadline is looked at while something needs the lease.
const GUARD_INTERVAL: Duration = Duration::from_millis(50);
/// The same while nothing does.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest pause of the task, so that other times take effect.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The lease of this start of the host. Clones are the same.
#[derive(Clone)]
pub(crate) struct Leaseholder {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    deadline: Arc<Deadline>,
    /// The thread, once something needed the lease.
    guard: OnceLock<Option<Thread>>,
    events: mpsc::Sender<Event>,
    timing: watch::Sender<TimingProfile>,
}

struct State {
    lease: Lease,
    /// What must be closed when the lease ends.
    gates: Vec<Weak<Gate>>,
    held: bool,
    cloned: bool,
}

/// What has changed, to be told.
struct Changes {
    held: Option<News>,
    cloned: bool,
}

impl Leaseholder {
    /// Begins to ask for the lease and to renew it, for as long as the host runs.
    pub(crate) fn start(lattice: Lattice, origin: &Origin, events: mpsc::Sender<Event>) -> Self {
        let timing = TimingProfile::default();
        let lease = Lease::new(origin.host.clone(), origin.incarnation.clone(), timing);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { lease, gates: Vec::new(), held: false, cloned: false }),
            deadline: Arc::default(),
            guard: OnceLock::new(),
            events,
            timing: watch::channel(timing).0,
        });
        tokio::spawn(renew(shared.clone(), lattice, origin.clone()));
        Self { shared }
    }

    /// Renews at other times from now on.
    pub(crate) fn set_timing(&self, timing: TimingProfile) {
        if self.shared.timing.send_if_modified(|current| std::mem::replace(current, timing) != timing) {
            self.shared.lock().lease.set_timing(timing);
        }
    }

    /// Sequence of the last renewal; 0 while the lease is not held.
    pub(crate) fn sequence(&self) -> u64 {
        let state = self.shared.lock();
        if state.held { state.lease.sequence() } else { 0 }
    }

    /// A gate that is closed when the lease ends.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        let gate = Gate::new(Some(self.shared.deadline.clone()));
        let mut state = self.shared.lock();
        state.gates.retain(|gate| gate.strong_count() > 0);
        if state.held {
            state.gates.push(Arc::downgrade(&gate));
        } else {
            gate.close();
        }
        drop(state);
        self.shared.guard();
        gate
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on how the lease stands now, before anything else can happen to it.
    fn enforce(&self, state: &mut State) -> Changes {
        let held = state.lease.is_held(boot_time());
        self.deadline.set(state.lease.deadline().filter(|_| held));
        let before = std::mem::replace(&mut state.held, held);
        if !held {
            state.gates.drain(..).filter_map(|gate| gate.upgrade()).for_each(|gate| gate.close());
        }
        let cloned = state.lease.is_cloned() && !std::mem::replace(&mut state.cloned, state.lease.is_cloned());
        let news = if held { News::LeaseHeld { void: state.lease.is_void() } } else { News::LeaseLost };
        Changes { held: (held != before).then_some(news), cloned }
    }

    /// Makes sure that the thread looks.
    fn guard(self: &Arc<Self>) {
        let thread = self.guard.get_or_init(|| {
            let weak = Arc::downgrade(self);
            let started = std::thread::Builder::new().name("lease".to_owned()).spawn(move || stand_guard(&weak));
            started.map(|started| started.thread().clone()).ok()
        });
        if let Some(thread) = thread {
            thread.unpark();
        }
    }
}

/// The thread: looks at the deadline as long as there is a host.
fn stand_guard(shared: &Weak<Shared>) {
    loop {
        let interval = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.lock();
            let changes = shared.enforce(&mut state);
            let interval = if state.gates.iter().any(|gate| gate.strong_count() > 0) { GUARD_INTERVAL } else { IDLE_INTERVAL };
            drop(state);
            if let Some(news) = changes.held {
                // The event loop always makes room again; it is gone only with the host.
                let _ = shared.events.blocking_send(Event::Owner(news));
            }
            interval
        };
        std::thread::park_timeout(interval);
    }
}

async fn renew(shared: Arc<Shared>, lattice: Lattice, origin: Origin) {
    let mut timing = shared.timing.subscribe();
    loop {
        let now = boot_time();
        let action = shared.lock().lease.poll(now);
        let Some(action) = action else {
            let due = shared.lock().lease.poll_timeout();
            let pause = due.map_or(MAX_PAUSE, |due| due.saturating_sub(now).clamp(Duration::from_millis(1), MAX_PAUSE));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = timing.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let patience = timing.borrow_and_update().lease_renewal();
        let outcome = tokio::time::timeout(patience, carry_out(&lattice, &origin, action)).await.unwrap_or(Outcome::Failed);
        let changes = {
            let mut state = shared.lock();
            match outcome {
                Outcome::Renewed(sequence) => state.lease.handle_renewed(sequence),
                Outcome::Refused => state.lease.handle_refused(),
                Outcome::Read(found) => {
                    state.lease.handle_read(found.as_ref().map(|(record, sequence)| (record, *sequence)), boot_time());
                }
                Outcome::Failed => state.lease.handle_failed(boot_time()),
            }
            shared.enforce(&mut state)
        };
        if changes.cloned {
            let what = "another process uses this host's identity and started later: this one leaves the lease to it";
            let _ = shared.events.send(Event::Trouble(what.to_owned())).await;
        }
        if let Some(news) = changes.held {
            // Nobody listens any more: the host ends.
            if shared.events.send(Event::Owner(news)).await.is_err() {
                return;
            }
        }
    }
}

/// What came of an action.
enum Outcome {
    Renewed(u64),
    Refused,
    Read(Option<(lattice_core::wire::ownership::LeaseRecord, u64)>),
    Failed,
}

async fn carry_out(lattice: &Lattice, origin: &Origin, action: Action) -> Outcome {
    if !lattice.connection().is_connected() {
        return Outcome::Failed;
    }
    match action {
        Action::Renew { expected, record } => match lattice.write_lease(&origin.region, &record, Revision(expected)).await {
            Ok(revision) => Outcome::Renewed(revision.0),
            Err(CommitError::Conflict { .. }) => Outcome::Refused,
            Err(error) => {
                tracing::debug!(error = reason::of(&error), "lease was not renewed");
                Outcome::Failed
            }
        },
        Action::Read => match lattice.read_lease(&origin.region, &origin.host).await {
            Ok((record, revision)) => Outcome::Read(record.map(|record| (record, revision.0))),
            Err(error) => {
                tracing::debug!(error = reason::of(&error), "lease was not read");
                Outcome::Failed
            }
        },
    }
}
