//! Carries out what the agent decides. Owned by the event loop and never waits: work that takes time is a task that comes
//! back as an [`Event`].

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_core::admission::MAX_COMPONENT_BYTES;
use lattice_core::agent::LoadedCode;
use lattice_core::id::{ActorId, Digest, ProviderId};
use lattice_core::ownership::SlotId;
use lattice_core::wire::assignment::{ComponentAssignment, ProviderAssignment};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::event_loop::Event;
use crate::keeper::{Given, Keeper, Numbered, Order, Start, Surroundings};
use crate::logs::LogRing;
use crate::metrics::Metrics;
use crate::ownership::gate::Gate;
use crate::providers::Providers;
use crate::reason;
use crate::runtime::Loaded;
use crate::status::Status;
use crate::supervision::Supervision;

/// The hands of the event loop.
pub(crate) struct Executor {
    around: Surroundings,
    providers: Providers,
    metrics: Arc<Metrics>,
    logs: Arc<LogRing>,
    actors: BTreeMap<ActorId, Kept>,
    /// Keepers of actors that are no longer assigned, until they take nothing any more.
    leaving: Vec<Handle>,
    keepers: TaskTracker,
}

/// What there is of one actor.
#[derive(Default)]
struct Kept {
    /// Code that was asked for last.
    wanted: Option<Digest>,
    loaded: Option<Loaded>,
    keeper: Option<Handle>,
    /// The slots that run here.
    slots: watch::Sender<Given>,
}

struct Handle {
    orders: watch::Sender<Numbered>,
    slots: watch::Receiver<Given>,
    status: watch::Receiver<Status>,
}

impl Handle {
    fn order(&self, order: Option<Arc<Order>>) {
        self.orders.send_modify(|newest| *newest = Numbered { number: newest.number.saturating_add(1), order });
    }

    fn is_settled(&self) -> bool {
        self.status.borrow().is_settled(self.orders.borrow().number, self.slots.borrow().number)
    }
}

impl Executor {
    pub(crate) fn new(around: Surroundings, providers: Providers, metrics: Arc<Metrics>, logs: Arc<LogRing>) -> Self {
        Self { around, providers, metrics, logs, actors: BTreeMap::new(), leaving: Vec::new(), keepers: TaskTracker::new() }
    }

    /// Starts a provider.
    pub(crate) fn start_provider(&mut self, id: &ProviderId, spec: &ProviderAssignment) -> Result<(), String> {
        self.providers.start(id, spec).map_err(|error| reason::of(&error))
    }

    /// Stops a provider.
    pub(crate) fn stop_provider(&mut self, id: &ProviderId) {
        self.providers.stop(id);
    }

    /// Fetches and compiles code; comes back as [`Event::Loaded`].
    pub(crate) fn load(&mut self, actor: &ActorId, digest: &Digest) {
        self.actors.entry(actor.clone()).or_default().wanted = Some(digest.clone());
        let (around, actor, digest) = (self.around.clone(), actor.clone(), digest.clone());
        tokio::spawn(async move {
            let outcome = around.runtime.load(&digest, around.lattice.get_artifact(&digest, MAX_COMPONENT_BYTES)).await;
            // Nobody is left to tell when the host goes down.
            let _ = around.events.send(Event::Loaded { actor, digest, outcome }).await;
        });
    }

    /// Keeps code that was loaded, if it still is what was asked for; returns what it is judged by.
    pub(crate) fn keep(&mut self, actor: &ActorId, loaded: Loaded) -> LoadedCode {
        let code = LoadedCode { shape: loaded.shape().clone(), claim: loaded.claim().cloned() };
        if let Some(kept) = self.actors.get_mut(actor).filter(|kept| kept.wanted.as_ref() == Some(loaded.digest())) {
            kept.loaded = Some(loaded);
        }
        code
    }

    /// Lets an actor take work, or gives a running one other settings.
    pub(crate) fn run(&mut self, actor: &ActorId, spec: ComponentAssignment) -> Result<(), String> {
        let kept = self.actors.entry(actor.clone()).or_default();
        let Some(loaded) = kept.loaded.clone() else { return Err("its code is not loaded".to_owned()) };
        let used = spec.links.iter().map(|link| &link.provider);
        let providers = used.filter_map(|id| Some((id.clone(), self.providers.get(id)?.clone()))).collect();
        self.metrics.set_instances(actor, spec.instances);
        let order = Some(Arc::new(Order { spec, loaded, providers }));
        if let Some(keeper) = &kept.keeper {
            keeper.order(order);
            return Ok(());
        }
        let (orders, newest) = watch::channel(Numbered { number: 1, order });
        let supervision = Supervision::new();
        let (shown, status) = watch::channel(Status::new(supervision.clone()));
        let keeper = Keeper {
            id: actor.clone(),
            around: self.around.clone(),
            orders: newest,
            given: kept.slots.subscribe(),
            status: Arc::new(shown),
            metrics: self.metrics.actor(actor),
            supervision,
            endings: TaskTracker::new(),
        };
        self.keepers.spawn(keeper.run());
        kept.keeper = Some(Handle { orders, slots: kept.slots.subscribe(), status });
        Ok(())
    }

    /// Lets an actor finish; its code and counts stay.
    pub(crate) fn stop(&mut self, actor: &ActorId) {
        if let Some(keeper) = self.actors.get(actor).and_then(|kept| kept.keeper.as_ref()) {
            keeper.order(None);
            self.metrics.set_instances(actor, 0);
        }
    }

    /// Lets a slot run, behind `gate`.
    pub(crate) fn start_slot(&mut self, id: &SlotId, epoch: u64, gate: Arc<Gate>) {
        self.actors.entry(id.actor.clone()).or_default().slots.send_modify(|given| {
            given.number = given.number.saturating_add(1);
            given.slots.insert(id.slot, Start { epoch, gate });
        });
    }

    /// Lets a slot end whose gate is closed.
    pub(crate) fn stop_slot(&self, id: &SlotId) {
        let Some(kept) = self.actors.get(&id.actor) else { return };
        kept.slots.send_modify(|given| {
            given.number = given.number.saturating_add(1);
            given.slots.remove(&id.slot);
        });
    }

    /// Forgets actors that are no longer assigned.
    pub(crate) fn retain(&mut self, assigned: impl Fn(&ActorId) -> bool) {
        let gone: Vec<ActorId> = self.actors.keys().filter(|actor| !assigned(actor)).cloned().collect();
        for actor in gone {
            self.metrics.forget(&actor);
            self.logs.forget(&actor);
            self.leaving.extend(self.actors.remove(&actor).and_then(|kept| kept.keeper));
        }
        self.leaving.retain(|keeper| !keeper.is_settled());
    }

    /// Lets everything finish; comes back as [`Event::Drained`].
    pub(crate) fn drain(&mut self) {
        self.actors.clear();
        self.leaving.clear();
        self.keepers.close();
        let (keepers, events) = (self.keepers.clone(), self.around.events.clone());
        tokio::spawn(async move {
            keepers.wait().await;
            let _ = events.send(Event::Drained).await;
        });
    }

    /// Whether everything that was ordered is done, or it is known why not.
    pub(crate) fn is_settled(&self) -> bool {
        let leaving = self.leaving.iter().all(|keeper| keeper.is_settled());
        leaving && self.actors.values().filter_map(|kept| kept.keeper.as_ref()).all(Handle::is_settled)
    }

    /// How an actor stands.
    pub(crate) fn status(&self, actor: &ActorId) -> Option<Status> {
        self.actors.get(actor)?.keeper.as_ref().map(|keeper| keeper.status.borrow().clone())
    }

    /// Linear memory of all actors in bytes.
    pub(crate) fn memory_in_use(&self) -> u64 {
        self.around.runtime.memory_in_use()
    }
}
