//! Carries out what the agent decides. Owned by the event loop and never waits: work that takes time is a task that comes
//! back as an [`Event`].

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_core::admission::{ComponentShape, MAX_COMPONENT_BYTES};
use lattice_core::agent::Obstacle;
use lattice_core::claims::Claim;
use lattice_core::contract::Contract;
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, Digest, ProviderId};
use lattice_core::ownership::SlotId;
use lattice_core::policy::effects::is_system;
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

    /// Keeps code that was loaded, if it still is what was asked for; returns its shape.
    pub(crate) fn keep(&mut self, actor: &ActorId, loaded: Loaded) -> ComponentShape {
        let shape = loaded.shape().clone();
        if let Some(kept) = self.actors.get_mut(actor).filter(|kept| kept.wanted.as_ref() == Some(loaded.digest())) {
            kept.loaded = Some(loaded);
        }
        shape
    }

    /// Lets an actor take work, or gives a running one other settings.
    pub(crate) fn run(&mut self, actor: &ActorId, spec: ComponentAssignment) -> Result<(), Obstacle> {
        let kept = self.actors.entry(actor.clone()).or_default();
        let Some(loaded) = kept.loaded.clone() else { return Err(Obstacle::Failed("its code is not loaded".to_owned())) };
        if let Err(problem) = check_links(actor, &spec, loaded.claim()) {
            self.stop(actor);
            return Err(Obstacle::Forbidden(problem.line()));
        }
        let kept = self.actors.entry(actor.clone()).or_default();
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

    /// What the issuer of an actor's code says of it.
    pub(crate) fn claim(&self, actor: &ActorId) -> Option<&Claim> {
        self.actors.get(actor)?.loaded.as_ref()?.claim()
    }

    /// Whether an actor was let run with this code and not stopped since.
    pub(crate) fn runs(&self, actor: &ActorId, digest: &Digest) -> bool {
        let keeper = self.actors.get(actor).and_then(|kept| kept.keeper.as_ref());
        keeper.is_some_and(|keeper| keeper.orders.borrow().order.as_ref().is_some_and(|order| order.spec.digest == *digest))
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

/// Whether the claim of an actor allows the contract of each of its links. What is linked as one of lattice's own is beyond
/// policy, so that its issuer must have said that it is one.
fn check_links(actor: &ActorId, spec: &ComponentAssignment, claim: Option<&Claim>) -> Result<(), Problem> {
    let Some(claim) = claim else { return Ok(()) };
    let own = is_system(spec).then_some(Contract::Store);
    let mut contracts = spec.links.iter().map(|link| link.contract).chain(own);
    contracts.try_for_each(|contract| claim.check_link(actor.as_str(), contract, &spec.image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::LinkName;
    use lattice_core::link::{KindSettings, LinkSpec};
    use lattice_core::trust::PublicKey;
    use lattice_core::wire::assignment::{InstancePolicy, Limits, LinkAssignment};

    /// A link for messages, which may be one of lattice's own.
    fn messaging(system: bool) -> LinkAssignment {
        let (name, provider) = (LinkName::new("default").unwrap(), ProviderId::new("messaging").unwrap());
        let link = LinkSpec {
            source: ActorId::new("a").unwrap(),
            target: provider.clone(),
            contract: Contract::Messaging,
            name: name.clone(),
            values: BTreeMap::new(),
            permissions: Default::default(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        };
        let mut settings = link.settings(&BTreeMap::new()).unwrap();
        if let KindSettings::Messaging(kind) = &mut settings.kind {
            kind.system = system;
        }
        LinkAssignment { name, contract: Contract::Messaging, provider, settings }
    }

    #[test]
    fn who_is_beyond_policy_needs_a_claim_that_says_so() {
        let key = |kind: char| PublicKey::new(format!("{kind}{}", "A".repeat(55))).unwrap();
        let claim = |allow: &[&str]| Claim {
            name: "a".to_owned(),
            version: "1.0.0".parse().unwrap(),
            revision: 0,
            digest: Digest::of(b"a"),
            allow: allow.iter().map(|contract| (*contract).to_owned()).collect(),
            issued_at: 1,
            not_before: 1,
            expires: 2,
            issuer: key('A'),
            subject: key('M'),
            lattice: None,
        };
        let check = |system: bool, allow: &[&str]| {
            let spec = ComponentAssignment {
                image: "file:///a.wasm".to_owned(),
                digest: Digest::of(b"a"),
                instances: 1,
                policy: InstancePolicy::PerMessage,
                limits: Limits::default(),
                config: BTreeMap::new(),
                links: vec![messaging(system)],
                ownership: None,
            };
            check_links(&ActorId::new("a").unwrap(), &spec, Some(&claim(allow))).map_err(|problem| problem.message)
        };
        assert_eq!(check(false, &["wasmcloud:messaging"]), Ok(()));
        let denied = check(true, &["wasmcloud:messaging"]).unwrap_err();
        assert!(denied.starts_with("capability denied: lattice:store: the claim of a does not allow it"), "{denied}");
        assert_eq!(check(true, &["wasmcloud:messaging", "lattice:store"]), Ok(()));
    }
}
