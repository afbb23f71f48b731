//! One instance: a store, its component, its typed exports; and the blueprint that instances are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lattice_core::admission::missing_links;
use lattice_core::contract::Contract;
use lattice_core::wire::assignment::{InstancePolicy, Limits};
use provider_api::messaging::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use wasmtime::component::InstancePre;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyIndices};

use super::bindings::guest::exports::wasmcloud::messaging::handler::BrokerMessage;
use super::bindings::guest::{MessagingGuest, MessagingGuestIndices};
use super::component::Loaded;
use super::error::LinkFault;
use super::links::Links;
use super::meter::{CpuExhausted, Meter, Verdict};
use super::state::{Identity, ReplyRoute, State, Surroundings, Task};
use super::{ActorSettings, MIB, Shared};

/// Bytes that one call may hand from the guest to the host.
const HOSTCALL_BYTES: usize = 8 * 1024 * 1024;
/// The same for an actor with a store: one commit of a plan.
const STORE_HOSTCALL_BYTES: usize = 32 * 1024 * 1024;
/// Component-model handles that one instance may hold.
const MAX_COMPONENT_HANDLES: usize = 1000;
/// Ticks after which a running guest is asked to account for its time: the very next one.
const EPOCHS_PER_SLICE: u64 = 1;

/// What instances of an actor are made from; a new one for each change of settings or links.
pub(crate) struct Blueprint {
    pub(crate) identity: Arc<Identity>,
    pub(crate) around: Surroundings,
    pub(crate) policy: InstancePolicy,
    pub(crate) limits: Limits,
    contracts: BTreeSet<Contract>,
    code: Result<Code, LinkFault>,
    largest_memory: usize,
}

/// Code with all imports resolved.
#[derive(Clone)]
pub(crate) struct Code {
    pre: InstancePre<State>,
    messaging: Option<Arc<MessagingGuestIndices>>,
    http: Option<Arc<ProxyIndices>>,
}

impl Blueprint {
    /// Resolves the imports of `loaded` by `links`. If that fails, so does every instantiation, with the same words.
    pub(crate) fn new(
        shared: &Shared,
        loaded: &Loaded,
        identity: Arc<Identity>,
        settings: ActorSettings,
        links: Links,
        former: Option<&Self>,
    ) -> Self {
        let contracts = links.contracts();
        let code = match former.filter(|former| former.contracts == contracts) {
            Some(former) => former.code.clone(),
            None => loaded.linked(&contracts, || Code::link(shared, loaded, &contracts)),
        };
        let mut env: BTreeMap<String, String> = links.env().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.extend(settings.env);
        Self {
            around: Surroundings { links, config: Arc::new(settings.config), env: Arc::new(env) },
            policy: settings.policy,
            limits: settings.limits,
            largest_memory: usize::try_from(u64::from(shared.config.max_actor_memory_mb).saturating_mul(MIB)).unwrap_or(usize::MAX),
            identity,
            contracts,
            code,
        }
    }

    /// Why there can be no instance.
    pub(crate) fn fault(&self) -> Option<&LinkFault> {
        self.code.as_ref().err()
    }

    pub(crate) fn handles(&self, contract: Contract) -> bool {
        self.code.as_ref().is_ok_and(|code| match contract {
            Contract::Messaging => code.messaging.is_some(),
            Contract::HttpServer => code.http.is_some(),
            Contract::KeyValue | Contract::HttpClient | Contract::Store => false,
        })
    }

    /// Whether an instance of `former` may live on: what it was linked and started with is the same.
    fn continues(&self, former: &Self) -> bool {
        self.policy == former.policy && self.contracts == former.contracts && self.around.env == former.around.env
    }

    /// A meter and a deadline that begin now.
    pub(crate) fn task(&self, reply_to: Option<String>, route: ReplyRoute) -> Task {
        Task {
            deadline: Instant::now() + Duration::from_millis(u64::from(self.limits.deadline_ms)),
            meter: Meter::new(Duration::from_millis(u64::from(self.limits.cpu_ms)), self.identity.usage.clone()),
            reply: None,
            reply_to,
            route,
            met_outage: false,
            requests_met_outage: None,
        }
    }
}

impl Code {
    fn link(shared: &Shared, loaded: &Loaded, contracts: &BTreeSet<Contract>) -> Result<Self, LinkFault> {
        let missing = missing_links(loaded.shape(), contracts);
        if !missing.is_empty() {
            return Err(LinkFault::Missing(missing));
        }
        let unfit = |error: wasmtime::Error| LinkFault::Unfit(format!("{error:#}"));
        let linker = shared.linker(contracts).map_err(unfit)?;
        let pre = linker.instantiate_pre(loaded.component()).map_err(unfit)?;
        let (messaging, http) = (MessagingGuestIndices::new(&pre), ProxyIndices::new(&pre));
        match (messaging, http) {
            // The shape says that there is a handler; then its type must be why neither fits.
            (Err(error), Err(_)) => Err(unfit(error)),
            (messaging, http) => Ok(Self { messaging: messaging.ok().map(Arc::new), http: http.ok().map(Arc::new), pre }),
        }
    }
}

/// A live instance, or one about to live.
pub(crate) struct Instance {
    // Dropped before the slot is given back: the slot stands for the memory in the pool.
    store: Store<State>,
    exports: Option<Exports>,
    blueprint: Arc<Blueprint>,
    _slot: OwnedSemaphorePermit,
}

/// What can be called, looked up when it is called first: a message needs no HTTP handler, and the other way round.
struct Exports {
    instance: wasmtime::component::Instance,
    messaging: Option<MessagingGuest>,
    http: Option<Proxy>,
}

impl Instance {
    /// A store with all limits, nothing in it yet.
    pub(crate) fn new(shared: &Shared, blueprint: Arc<Blueprint>, task: Task, slot: OwnedSemaphorePermit) -> Self {
        let state = State::new(blueprint.identity.clone(), blueprint.around.clone(), task, blueprint.largest_memory);
        let mut store = Store::new(&shared.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(if blueprint.contracts.contains(&Contract::Store) { STORE_HOSTCALL_BYTES } else { HOSTCALL_BYTES });
        store.set_max_component_handles(MAX_COMPONENT_HANDLES);
        store.epoch_deadline_callback(account);
        store.set_epoch_deadline(EPOCHS_PER_SLICE);
        Self { store, exports: None, blueprint, _slot: slot }
    }

    /// Whether this instance can go on by `blueprint`.
    pub(crate) fn fits(&self, blueprint: &Arc<Blueprint>) -> bool {
        Arc::ptr_eq(&self.blueprint, blueprint) || blueprint.continues(&self.blueprint)
    }

    /// Takes the next task by a blueprint that it fits.
    pub(crate) fn resume(mut self, blueprint: &Arc<Blueprint>, task: Task) -> Self {
        if !Arc::ptr_eq(&self.blueprint, blueprint) {
            self.blueprint = blueprint.clone();
            self.store.data_mut().around = blueprint.around.clone();
        }
        self.store.data_mut().task = task;
        self.store.set_epoch_deadline(EPOCHS_PER_SLICE);
        self
    }

    pub(crate) fn state(&self) -> &State {
        self.store.data()
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// Whether the component's own code has run.
    pub(crate) fn is_instantiated(&self) -> bool {
        self.exports.is_some()
    }

    /// Instantiates the component, unless it is.
    ///
    /// # Errors
    /// No room, no link, or the component's start function failed.
    pub(crate) async fn instantiate(&mut self) -> wasmtime::Result<()> {
        if self.exports.is_some() {
            return Ok(());
        }
        let code = self.blueprint.code.as_ref().map_err(|fault| wasmtime::Error::msg(fault.to_string()))?;
        let instance = code.pre.instantiate_async(&mut self.store).await?;
        self.exports = Some(Exports { instance, messaging: None, http: None });
        Ok(())
    }

    /// Calls the message handler.
    ///
    /// # Errors
    /// The outer one is a trap or a limit, the inner one the handler's own.
    pub(crate) async fn handle_message(&mut self, message: &Message) -> wasmtime::Result<Result<(), String>> {
        self.instantiate().await?;
        let indices = self.blueprint.code.as_ref().ok().and_then(|code| code.messaging.as_ref());
        let (Some(indices), Some(exports)) = (indices, &mut self.exports) else {
            return Err(wasmtime::Error::msg("no message handler"));
        };
        let handler = match &mut exports.messaging {
            Some(handler) => handler,
            none => none.insert(indices.load(&mut self.store, &exports.instance)?),
        };
        let message = BrokerMessage { subject: &message.subject, body: &message.body, reply_to: message.reply_to.as_deref() };
        handler.wasmcloud_messaging_handler().call_handle_message(&mut self.store, message).await
    }

    /// The HTTP handler and the store to call it with.
    pub(crate) fn http(&mut self) -> wasmtime::Result<(&Proxy, &mut Store<State>)> {
        let indices = self.blueprint.code.as_ref().ok().and_then(|code| code.http.as_ref());
        let (Some(indices), Some(exports)) = (indices, &mut self.exports) else {
            return Err(wasmtime::Error::msg("no HTTP handler"));
        };
        let handler = match &mut exports.http {
            Some(handler) => handler,
            none => none.insert(indices.load(&mut self.store, &exports.instance)?),
        };
        Ok((handler, &mut self.store))
    }
}

/// Asked at each tick of the epoch that finds the guest running.
fn account(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let meter = &store.data().task.meter;
    match meter.judge() {
        Verdict::Continue => Ok(UpdateDeadline::Continue(EPOCHS_PER_SLICE)),
        Verdict::GiveWay => Ok(UpdateDeadline::YieldCustom(EPOCHS_PER_SLICE, Box::pin(tokio::task::yield_now()))),
        Verdict::Stop => Err(wasmtime::Error::new(CpuExhausted(meter.budget()))),
    }
}
