//! One actor on this host: how many calls at once, with which instance, within which limits.
//!
//! **Invariants.** At most [`ActorSettings::instances`] calls run at once. A resident instance takes one message after the
//! other in the order in which they came; an instance in which anything went wrong is never used again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use lattice_core::contract::Contract;
use lattice_core::id::ActorId;
use lattice_core::policy::rules::Point;
use lattice_core::wire::assignment::{InstancePolicy, Limits};
use provider_api::messaging::Message;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::Trap;

use super::component::Loaded;
use super::error::{InvokeError, LoadError};
use super::instance::{Blueprint, Instance};
use super::limits::MemoryAccount;
use super::links::{BoundLink, Links};
use super::logs::ActorLog;
use super::meter::{CpuExhausted, Meter};
use super::state::{Identity, ReplyRoute, Task};
use super::usage::{CpuTime, Usage};
use super::{MIB, Pace, Runtime};
use crate::capability::messaging::may_reply;

/// Longest error text of a guest that is passed on, in bytes.
const MAX_GUEST_ERROR_BYTES: usize = 1024;
/// Reply subject that an actor sees if its reply is captured and the caller named none.
const CAPTURED_REPLY: &str = "_INBOX.captured";
/// How long calls that were told to end may take to do so.
const END_OF_CALLS: Duration = Duration::from_secs(1);

/// How an actor runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorSettings {
    /// Its id.
    pub id: ActorId,
    /// How instances are used.
    pub policy: InstancePolicy,
    /// What a call may cost, and how much memory all instances may hold.
    pub limits: Limits,
    /// How many calls may run at once.
    pub instances: u32,
    /// What it reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// Environment variables, above those of its links.
    pub env: BTreeMap<String, String>,
}

/// What a handled message left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handled {
    /// The reply, if it was to be captured and the actor made one.
    pub reply: Option<Message>,
}

/// Counts of an actor since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActorStats {
    /// Calls that succeeded.
    pub handled: u64,
    /// Calls that failed, of any cause.
    pub failed: u64,
    /// Those of them that trapped.
    pub trapped: u64,
    /// Those of them that reached a limit of time.
    pub timed_out: u64,
    /// Calls under way.
    pub running: u64,
    /// Linear memory that its instances hold now, in bytes.
    pub memory_bytes: u64,
    /// Largest linear memory that one of its instances ever held, in bytes.
    pub memory_peak_bytes: u64,
    /// CPU time of its own code.
    pub cpu: CpuTime,
}

/// A running actor.
#[derive(Clone)]
pub struct Actor {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    loaded: Loaded,
    identity: Arc<Identity>,
    blueprint: RwLock<Arc<Blueprint>>,
    permits: Permits,
    pace: Pace,
    /// Resident instances that wait for work.
    idle: Mutex<Vec<Instance>>,
    /// Cut off what still runs.
    cut: CancellationToken,
    /// Wants to know when a call has succeeded for the first time.
    first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    handled: AtomicU64,
    failed: AtomicU64,
    trapped: AtomicU64,
    timed_out: AtomicU64,
}

impl Actor {
    /// Links `loaded` by `links`. Nothing is instantiated yet.
    ///
    /// # Errors
    /// [`LoadError::Link`] if an import cannot be resolved.
    pub fn new(runtime: &Runtime, loaded: Loaded, settings: ActorSettings, links: Vec<BoundLink>) -> Result<Self, LoadError> {
        Self::under(runtime, loaded, settings, links, &CancellationToken::new())
    }

    /// The same; its calls are cut off as soon as `end` is cancelled, which any thread may do.
    pub(crate) fn under(
        runtime: &Runtime,
        loaded: Loaded,
        settings: ActorSettings,
        links: Vec<BoundLink>,
        end: &CancellationToken,
    ) -> Result<Self, LoadError> {
        let shared = runtime.shared();
        let shield = shared.shield_of(&links);
        let identity = Arc::new(Identity {
            actor: settings.id.clone(),
            node: shared.config.node_name.to_string(),
            log: ActorLog::new(settings.id.clone(), shared.config.logs.clone()),
            memory: MemoryAccount::of_actor(&shared.memory, memory_limit(&settings), shield.clone()),
            shield,
            usage: Arc::new(Usage::new(shared.config.thread_clock)),
        });
        let permits = Permits::new(settings.instances);
        let blueprint = Blueprint::new(shared, &loaded, identity.clone(), settings, Links::new(links), None);
        let inner = Inner {
            runtime: runtime.clone(),
            blueprint: RwLock::new(Arc::new(blueprint)),
            idle: Mutex::default(),
            cut: end.child_token(),
            first: Mutex::default(),
            counts: Counts::default(),
            pace: Pace::new(shared.lane.clone()),
            loaded,
            identity,
            permits,
        };
        let actor = Self { inner: Arc::new(inner) };
        actor.check()?;
        Ok(actor)
    }

    /// Changes settings and links from the next message on. Links that are gone or changed are revoked: calls under way
    /// through them fail at once. The actor's id stays.
    ///
    /// # Errors
    /// As [`Actor::new`]; the change is in force all the same, and every call fails until another mends it.
    pub fn reconfigure(&self, settings: ActorSettings, links: Vec<BoundLink>) -> Result<(), LoadError> {
        let inner = &self.inner;
        inner.identity.memory.set_limit(memory_limit(&settings));
        inner.permits.resize(settings.instances);
        let former = {
            let mut current = inner.blueprint.write().unwrap_or_else(PoisonError::into_inner);
            let links = current.around.links.replaced(links);
            let blueprint = Blueprint::new(inner.runtime.shared(), &inner.loaded, inner.identity.clone(), settings, links, Some(&current));
            std::mem::replace(&mut *current, Arc::new(blueprint))
        };
        former.around.links.revoke_all_but(&self.blueprint().around.links);
        self.check()
    }

    /// Hands a message to the actor: waits for its turn, then works within the limits.
    ///
    /// # Errors
    /// [`InvokeError`]; the message had no effect that the host knows of, but may have had some on backends.
    pub async fn handle_message(&self, message: Message, route: ReplyRoute) -> Result<Handled, InvokeError> {
        let call = self.begin().await?;
        if !call.blueprint.handles(Contract::Messaging) {
            return Err(call.failed(call.unavailable(Contract::Messaging)));
        }
        call.permitted(Point::MessagingHandler)?;
        let (message, route) = call.replying(message, route);
        let task = call.blueprint.task(message.reply_to.clone(), route);
        let (end, meter) = (task.deadline, task.meter.clone());
        let mut instance = None;
        let outcome = call
            .limited(end, &meter, async {
                let instance = instance.insert(call.instance(task).await?);
                instance.handle_message(&message).await
            })
            .await;
        match outcome {
            Ok(Ok(())) => {
                let reply = instance.as_mut().and_then(|instance| instance.state_mut().task.reply.take());
                call.keep(instance);
                call.succeeded();
                Ok(Handled { reply })
            }
            Ok(Err(text)) => {
                let met_outage = instance.as_ref().is_some_and(|instance| instance.state().task.has_met_outage());
                call.keep(instance);
                let text = text.get(..text.floor_char_boundary(MAX_GUEST_ERROR_BYTES)).unwrap_or_default().to_owned();
                Err(call.failed(InvokeError::Guest(text).after(met_outage)))
            }
            Err(stop) => Err(call.failed(stop.explained_by(instance.as_ref()))),
        }
    }

    /// Calls `told` once, when the first call has succeeded.
    pub(crate) fn on_first(&self, told: impl FnOnce() + Send + 'static) {
        *self.inner.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(told));
    }

    /// Calls that could begin now.
    pub fn free(&self) -> usize {
        self.inner.permits.semaphore.available_permits()
    }

    /// Waits until a call could begin, or the actor is closed.
    pub async fn ready(&self) {
        // The permit is given back at once: whoever waits next finds it.
        let _ = self.inner.permits.semaphore.acquire().await;
    }

    /// How its calls run.
    pub(crate) fn pace(&self) -> Pace {
        self.inner.pace.clone()
    }

    /// Takes no more calls, waits up to `grace` for those under way, then cuts them off.
    pub async fn close(&self, grace: Duration) {
        let inner = &self.inner;
        inner.permits.semaphore.close();
        if tokio::time::timeout(grace, inner.permits.idle()).await.is_err() {
            inner.cut.cancel();
            if tokio::time::timeout(END_OF_CALLS, inner.permits.idle()).await.is_err() {
                tracing::warn!(actor = %inner.identity.actor, "calls do not end although they were told to");
            }
        }
        inner.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Counts until now.
    pub fn stats(&self) -> ActorStats {
        let counts = &self.inner.counts;
        ActorStats {
            handled: counts.handled.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            trapped: counts.trapped.load(Ordering::Relaxed),
            timed_out: counts.timed_out.load(Ordering::Relaxed),
            running: u64::try_from(self.inner.permits.running.load(Ordering::Relaxed)).unwrap_or(u64::MAX),
            memory_bytes: self.inner.identity.memory.used(),
            memory_peak_bytes: self.inner.identity.memory.peak(),
            cpu: self.inner.identity.usage.cpu(),
        }
    }

    pub(crate) fn blueprint(&self) -> Arc<Blueprint> {
        self.inner.blueprint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a turn.
    pub(crate) async fn begin(&self) -> Result<Call, InvokeError> {
        let permit = self.inner.permits.semaphore.clone().acquire_owned().await.map_err(|_closed| InvokeError::Closed)?;
        self.inner.permits.running.fetch_add(1, Ordering::AcqRel);
        Ok(Call { actor: self.clone(), blueprint: self.blueprint(), permit: Some(permit) })
    }

    fn check(&self) -> Result<(), LoadError> {
        match self.blueprint().fault() {
            None => Ok(()),
            Some(fault) => Err(fault.clone().into()),
        }
    }
}

fn memory_limit(settings: &ActorSettings) -> u64 {
    u64::from(settings.limits.memory_mb).saturating_mul(MIB)
}

/// One call that has its turn. Dropping it ends the turn.
pub(crate) struct Call {
    actor: Actor,
    pub(crate) blueprint: Arc<Blueprint>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why a call came to no end of its own.
pub(crate) enum Stop {
    Deadline(Duration),
    Closed,
    Failed(wasmtime::Error),
}

impl Stop {
    /// The reason in words, with what the instance knows of it.
    pub(crate) fn explained_by(self, instance: Option<&Instance>) -> InvokeError {
        let met_outage = instance.is_some_and(|instance| instance.state().task.has_met_outage());
        self.explained(instance).after(met_outage)
    }

    fn explained(self, instance: Option<&Instance>) -> InvokeError {
        let error = match self {
            Self::Deadline(limit) => return InvokeError::Deadline(limit),
            Self::Closed => return InvokeError::Closed,
            Self::Failed(error) => error,
        };
        if let Some(CpuExhausted(limit)) = error.downcast_ref() {
            return InvokeError::CpuLimit(*limit);
        }
        if let Some(exhausted) = instance.and_then(|instance| instance.state().limiter.refused()) {
            return InvokeError::OutOfMemory(exhausted);
        }
        let text = error.downcast_ref::<Trap>().map_or_else(|| error.root_cause().to_string(), Trap::to_string);
        tracing::debug!(%error, "call of a guest failed");
        if instance.is_some_and(Instance::is_instantiated) { InvokeError::Trap(text) } else { InvokeError::Instantiate(text) }
    }
}

impl Call {
    /// An instance for the task: one that waits, or a new one as soon as the host has room for it.
    pub(crate) async fn instance(&self, task: Task) -> wasmtime::Result<Instance> {
        while let Some(idle) = self.take_idle() {
            if idle.fits(&self.blueprint) {
                return Ok(idle.resume(&self.blueprint, task));
            }
        }
        let shared = self.actor.inner.runtime.shared();
        let slot = shared.slots.clone().acquire_owned().await?;
        Ok(Instance::new(shared, self.blueprint.clone(), task, slot))
    }

    /// The message as the actor sees it: with a reply subject exactly if a reply can go there. The host may publish where
    /// whoever sent the message may not, so a subject of the control plane or the server is none to reply to.
    fn replying(&self, mut message: Message, route: ReplyRoute) -> (Message, ReplyRoute) {
        let reply_to = message.reply_to.take();
        message.reply_to = match (&route, reply_to) {
            (ReplyRoute::None, _) | (ReplyRoute::Publish(_), None) => None,
            (ReplyRoute::Capture, reply_to) => reply_to.or_else(|| Some(CAPTURED_REPLY.to_owned())),
            (ReplyRoute::Publish(_), Some(subject)) if may_reply(&subject) => Some(subject),
            (ReplyRoute::Publish(_), Some(subject)) => {
                let log = &self.actor.inner.identity.log;
                log.denied(Contract::Messaging.as_str(), &format!("no reply to `{subject}`, which a message asked for"));
                None
            }
        };
        (message, route)
    }

    fn take_idle(&self) -> Option<Instance> {
        self.actor.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Gives a sound instance back: a resident one waits for the next message, any other is dropped.
    pub(crate) fn keep(&self, instance: Option<Instance>) {
        if self.blueprint.policy == InstancePolicy::Resident
            && !self.actor.inner.permits.semaphore.is_closed()
            && let Some(instance) = instance
        {
            self.actor.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
    }

    /// Runs `work` until it is done, its time is over, or the actor is cut off.
    pub(crate) async fn limited<T>(&self, end: Instant, meter: &Meter, work: impl Future<Output = wasmtime::Result<T>>) -> Result<T, Stop> {
        // The clock goes for as long as a guest might run.
        let _running = self.actor.inner.runtime.shared().ticker.running();
        // Begins when it is polled first: a call that never waits costs neither a timer nor a registration.
        let stop = async {
            tokio::select! {
                () = tokio::time::sleep_until(end) => Stop::Deadline(Duration::from_millis(u64::from(self.blueprint.limits.deadline_ms))),
                () = self.actor.inner.cut.cancelled() => Stop::Closed,
            }
        };
        tokio::select! {
            biased;
            done = meter.measure(work) => done.map_err(Stop::Failed),
            stop = stop => Err(stop),
        }
    }

    /// Whether policy lets the actor be called at `point`.
    pub(crate) fn permitted(&self, point: Point) -> Result<(), InvokeError> {
        let identity = &self.actor.inner.identity;
        identity.shield.check(point).map_err(|denied| {
            identity.log.denied(point.contract().as_str(), &denied.to_string());
            self.failed(InvokeError::Denied { point, denied })
        })
    }

    /// Why the actor cannot be called through `contract`.
    pub(crate) fn unavailable(&self, contract: Contract) -> InvokeError {
        self.blueprint.fault().map_or(InvokeError::NoHandler(contract), |fault| InvokeError::Instantiate(fault.to_string()))
    }

    pub(crate) fn succeeded(&self) {
        let inner = &self.actor.inner;
        if inner.counts.handled.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(told) = inner.first.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            told();
        }
    }

    /// Counts the failure and hands it back.
    pub(crate) fn failed(&self, error: InvokeError) -> InvokeError {
        let counts = &self.actor.inner.counts;
        counts.failed.fetch_add(1, Ordering::Relaxed);
        match error {
            InvokeError::Trap(_) | InvokeError::OutOfMemory(_) => counts.trapped.fetch_add(1, Ordering::Relaxed),
            InvokeError::CpuLimit(_) | InvokeError::Deadline(_) => counts.timed_out.fetch_add(1, Ordering::Relaxed),
            InvokeError::Guest(_)
            | InvokeError::Outage(_)
            | InvokeError::Instantiate(_)
            | InvokeError::NoHandler(_)
            | InvokeError::Closed
            | InvokeError::NotStored(_)
            | InvokeError::Denied { .. } => 0,
        };
        error
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.actor.inner.permits.release(permit);
        }
    }
}

/// Turns, as many as the actor may have instances. The number can change while turns are taken.
struct Permits {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Turns to be withdrawn when they come back.
    surplus: AtomicUsize,
    running: AtomicUsize,
    returned: Notify,
}

impl Permits {
    fn new(instances: u32) -> Self {
        let limit = permits(instances);
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            surplus: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            returned: Notify::new(),
        }
    }

    fn resize(&self, instances: u32) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = permits(instances);
        let (more, fewer) = (wanted.saturating_sub(*limit), limit.saturating_sub(wanted));
        *limit = wanted;
        // Turns that were to be withdrawn and are wanted again after all.
        let kept = self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| Some(surplus.saturating_sub(more)));
        self.semaphore.add_permits(more.saturating_sub(kept.unwrap_or(0)));
        self.surplus.fetch_add(fewer.saturating_sub(self.semaphore.forget_permits(fewer)), Ordering::AcqRel);
    }

    fn release(&self, permit: OwnedSemaphorePermit) {
        if self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1)).is_ok() {
            permit.forget();
        } else {
            drop(permit);
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.returned.notify_waiters();
    }

    /// Waits until no turn is taken.
    async fn idle(&self) {
        loop {
            let returned = self.returned.notified();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            returned.await;
        }
    }
}

fn permits(instances: u32) -> usize {
    usize::try_from(instances).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_number_of_turns_changes_while_some_are_taken() {
        let permits = Permits::new(2);
        let take = || {
            permits.running.fetch_add(1, Ordering::AcqRel);
            permits.semaphore.clone().try_acquire_owned().unwrap()
        };
        let (first, second) = (take(), take());
        permits.resize(1);
        permits.release(first);
        assert_eq!(permits.semaphore.available_permits(), 0, "one is withdrawn");
        permits.release(second);
        assert_eq!(permits.semaphore.available_permits(), 1);
        let only = take();
        permits.resize(0);
        permits.resize(3);
        assert_eq!(permits.semaphore.available_permits(), 2, "the one that is taken stays");
        permits.release(only);
        assert_eq!(permits.semaphore.available_permits(), 3);
        permits.idle().await;
    }
}
