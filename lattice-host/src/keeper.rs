//! One actor as the agent wants it: one task per actor, which alone binds its links, makes it, replaces its code, opens and
//! closes its inlets.
//!
//! **Orders are level-triggered:** the keeper always works towards the newest one. **Inlets** (one task per subscription,
//! port, bucket, and one for calls) outlive a change of code or of other links. What is replaced finishes in the background,
//! at most as long as draining may take.
//!
//! **Slots.** Of an actor whose slots have owners only HTTP requests come in here, which read; its messages go to the slots
//! that run on this host, each with an instance and inlets of its own ([`slots`]).

mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lattice_core::contract::Contract;
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, HostName, LatticeName, LinkName, ProviderId};
use lattice_core::link::{Delivery, KindSettings, MessagingSettings};
use lattice_core::ownership::SlotId;
use lattice_core::policy::effects::is_system;
use lattice_core::policy::force::InForce;
use lattice_core::subject::{self, SubjectPattern};
use lattice_core::wire::assignment::{ComponentAssignment, LinkAssignment};
use lattice_nats::{Connection, ConnectionState, Lattice};
use provider_api::messaging::{Messaging, Subscription};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::calls::{self, Desk};
use crate::dead_letter::DeadLetters;
use crate::delivery::{self, Current, Source, Target};
use crate::event_loop::Event;
use crate::http::{self, Port};
use crate::lazy_bucket::LazyBucket;
use crate::metrics::ActorMetrics;
use crate::ownership::claims::News;
use crate::ownership::gate::Gate;
use crate::providers::Instance;
use crate::reason;
use crate::runtime::{Actor, ActorSettings, Backend, BoundLink, Loaded, Runtime, Shield};
use crate::status::{InletStatus, Status};
use crate::supervision::Supervision;
use slots::Slots;

/// First and longest pause between two attempts to open a bucket.
const REOPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long the server that a link names may be away before that counts as trouble.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);

/// What all keepers share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) runtime: Runtime,
    pub(crate) lattice: Lattice,
    pub(crate) host: HostName,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) events: mpsc::Sender<Event>,
    /// What policies leave actors.
    pub(crate) shield: Arc<Shield>,
    /// How long work may finish that is told to end.
    pub(crate) grace: Duration,
}

/// What the actor shall be.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) spec: ComponentAssignment,
    pub(crate) loaded: Loaded,
    pub(crate) providers: BTreeMap<ProviderId, Instance>,
}

/// An order with its number.
#[derive(Clone)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    /// `None`: run nothing.
    pub(crate) order: Option<Arc<Order>>,
}

/// The slots that run here, with the number of the order that says so.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) number: u64,
    pub(crate) slots: BTreeMap<u32, Start>,
}

/// One start of a slot.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) epoch: u64,
    pub(crate) gate: Arc<Gate>,
}

/// The task.
pub(crate) struct Keeper {
    pub(crate) id: ActorId,
    pub(crate) around: Surroundings,
    /// The newest order.
    pub(crate) orders: watch::Receiver<Numbered>,
    pub(crate) given: watch::Receiver<Given>,
    pub(crate) status: Arc<watch::Sender<Status>>,
    pub(crate) metrics: ActorMetrics,
    pub(crate) supervision: Arc<Supervision>,
    /// What finishes in the background.
    pub(crate) endings: TaskTracker,
}

/// A link and what it is bound to.
#[derive(Clone)]
struct Bound {
    link: BoundLink,
    instance: Instance,
    /// The bucket of a key-value link, to be opened.
    bucket: Option<Arc<LazyBucket>>,
    /// The server that a messaging link names, if it is not the host's own.
    server: Option<Connection>,
    /// Whether that server had to be an internal one.
    internal: bool,
}

impl Bound {
    /// Whether policy wants its server looked for anew.
    fn is_stale(&self, force: &InForce) -> bool {
        self.server.is_some() && self.internal != force.internal_only().is_some()
    }
}

/// An actor that takes work.
struct Running {
    /// Under which it stands in the status.
    number: u64,
    current: watch::Sender<Current>,
    loaded: Loaded,
    bound: Vec<Bound>,
    inlets: BTreeMap<(Contract, LinkName), Inlet>,
    linked: watch::Sender<bool>,
    calls: Inlet,
    /// Whether its messages go to slots.
    owned: bool,
    /// Whether it is beyond policy.
    system: bool,
}

/// The tasks that bring work in through one link.
struct Inlet {
    spec: Option<LinkAssignment>,
    instance: Option<Instance>,
    /// How each of the tasks stands.
    status: Vec<InletStatus>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inlet {
    fn new(link: Option<(&LinkAssignment, &Instance)>) -> Self {
        let (spec, instance) = link.map(|(spec, instance)| (spec.clone(), instance.clone())).unzip();
        Self { spec, instance, status: Vec::new(), stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    fn serves(&self, spec: &LinkAssignment, instance: &Instance) -> bool {
        self.spec.as_ref() == Some(spec) && self.instance.as_ref().is_some_and(|own| own.is_same(instance))
    }

    /// Tells the tasks to end; the tracker is done when they have.
    fn stop(self) -> TaskTracker {
        self.status.iter().for_each(InletStatus::closing);
        self.stop.cancel();
        self.tasks.close();
        self.tasks
    }
}

impl Keeper {
    /// Works until nobody gives orders any more, then lets the actor finish.
    pub(crate) async fn run(mut self) {
        let (mut running, mut slots) = (None, Slots::default());
        loop {
            let Numbered { number, order } = self.orders.borrow_and_update().clone();
            running = match &order {
                Some(order) => self.obey(running, order).await,
                None => self.end(running),
            };
            let owned = order.filter(|order| slots::are_owned(&order.spec));
            let prepared = owned.zip(running.as_ref()).map(|(order, running)| slots::Prepared { order, bound: running.bound.clone() });
            slots.prepare(&self, prepared).await;
            self.status.send_modify(|status| status.obeyed = number);
            // The loop never waits for a keeper, so this wait ends.
            let _ = self.around.events.send(Event::Changed).await;
            if self.follow_slots(&mut slots).await.is_err() {
                break;
            }
        }
        self.end(running);
        slots.finish(&self).await;
        self.endings.close();
        self.endings.wait().await;
    }

    /// Starts and stops slots until there is another order; fails when there will be none.
    async fn follow_slots(&mut self, slots: &mut Slots) -> Result<(), watch::error::RecvError> {
        loop {
            let Given { number, slots: given } = self.given.borrow_and_update().clone();
            slots.obey(self, &given).await;
            if self.status.send_if_modified(|status| std::mem::replace(&mut status.slots_obeyed, number) != number) {
                let _ = self.around.events.send(Event::Changed).await;
            }
            tokio::select! {
                // An actor that is no longer assigned gets its last order and then no slots any more: the order comes first,
                // or it would never be seen to be done.
                biased;
                ordered = self.orders.changed() => return ordered,
                given = self.given.changed() => given?,
            }
        }
    }

    async fn obey(&self, running: Option<Running>, order: &Order) -> Option<Running> {
        let owned = slots::are_owned(&order.spec);
        let system = is_system(&order.spec);
        let force = self.around.shield.in_force();
        let is_stale = |running: &Running| running.bound.iter().any(|bound| bound.is_stale(&force));
        let is_other = |running: &Running| running.owned != owned || running.system != system || is_stale(running);
        let other = running.as_ref().is_some_and(is_other);
        let running = if other { self.end(running) } else { running };
        let bound = match self.bind(running.as_ref(), order, &force).await {
            Ok(bound) => bound,
            Err(why) => return self.fail(running, why).await,
        };
        let mut running = match running {
            Some(mut running) => {
                // What brings work in through a link that is gone ends before the link does.
                self.close_inlets(&mut running, &bound);
                if let Err(why) = self.change(&mut running, order, &bound) {
                    return self.fail(Some(running), why).await;
                }
                running
            }
            None => match self.make(order, &bound) {
                Ok(actor) => self.begin(actor, order),
                Err(why) => return self.fail(None, why).await,
            },
        };
        self.open_inlets(&mut running, &bound);
        running.linked.send_replace(bound.iter().any(|bound| bound.link.spec.contract == Contract::Messaging));
        running.bound = bound;
        Some(running)
    }

    /// The links of the order with their backends; those that did not change keep theirs.
    async fn bind(&self, running: Option<&Running>, order: &Order, force: &InForce) -> Result<Vec<Bound>, String> {
        let mut bound = Vec::with_capacity(order.spec.links.len());
        for spec in &order.spec.links {
            let Some(instance) = order.providers.get(&spec.provider) else {
                return Err(format!("provider {} does not run here", spec.provider));
            };
            let known =
                running.and_then(|running| running.bound.iter().find(|bound| bound.link.spec == *spec && bound.instance.is_same(instance)));
            bound.push(match known {
                Some(known) => known.clone(),
                None => bind(spec, instance, force).await?,
            });
        }
        Ok(bound)
    }

    fn make(&self, order: &Order, bound: &[Bound]) -> Result<Actor, String> {
        let links = self.links(order, bound)?;
        Actor::new(&self.around.runtime, order.loaded.clone(), self.settings(&order.spec), links).map_err(|error| error.to_string())
    }

    /// The links of the actor here: all of them, or those with which it can only read.
    fn links(&self, order: &Order, bound: &[Bound]) -> Result<Vec<BoundLink>, String> {
        if slots::are_owned(&order.spec) { slots::reading(self, &order.spec, bound) } else { Ok(links(bound)) }
    }

    /// An actor that was just made begins to take calls; its links' inlets come next.
    fn begin(&self, actor: Actor, order: &Order) -> Running {
        let number = self.show(&actor);
        let (current, _) = watch::channel(Current { actor, instances: wide(instances(&order.spec)) });
        let (linked, is_linked) = watch::channel(false);
        let mut calls = Inlet::new(None);
        let owned = slots::are_owned(&order.spec);
        if !owned {
            self.take_calls(&mut calls, is_linked, self.target(&current));
        }
        Running {
            number,
            current,
            loaded: order.loaded.clone(),
            bound: Vec::new(),
            inlets: BTreeMap::new(),
            linked,
            calls,
            owned,
            system: is_system(&order.spec),
        }
    }

    fn take_calls(&self, inlet: &mut Inlet, linked: watch::Receiver<bool>, target: Target) {
        let desk = Desk {
            lattice: self.around.lattice.clone(),
            host: self.around.host.clone(),
            linked,
            status: self.inlet_status(inlet, "calls".to_owned()),
            stop: inlet.stop.clone(),
        };
        inlet.tasks.spawn(calls::run(desk, target));
    }

    /// Gives the running actor the order's settings, links and code.
    fn change(&self, running: &mut Running, order: &Order, bound: &[Bound]) -> Result<(), String> {
        let instances = wide(instances(&order.spec));
        if running.loaded.digest() == order.loaded.digest() {
            let actor = running.current.borrow().actor.clone();
            actor.reconfigure(self.settings(&order.spec), self.links(order, bound)?).map_err(|error| reason::of(&error))?;
            running.current.send_replace(Current { actor, instances });
            return Ok(());
        }
        let actor = self.make(order, bound)?;
        let number = std::mem::replace(&mut running.number, self.show(&actor));
        let former = running.current.send_replace(Current { actor, instances }).actor;
        running.loaded = order.loaded.clone();
        self.supervision.forget();
        self.retire(number, former, Vec::new());
        Ok(())
    }

    /// Enters an actor into the status; returns its number there.
    fn show(&self, actor: &Actor) -> u64 {
        let (mut number, events) = (0, self.around.events.clone());
        // A full queue only delays that to the next heartbeat.
        actor.on_first(move || drop(events.try_send(Event::Changed)));
        self.status.send_modify(|status| {
            number = status.actors.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
            status.actors.insert(number, actor.clone());
        });
        number
    }

    fn close_inlets(&self, running: &mut Running, bound: &[Bound]) {
        let keeps = |inlet: &Inlet| bound.iter().any(|bound| inlet.serves(&bound.link.spec, &bound.instance));
        let gone: BTreeSet<_> = running.inlets.iter().filter(|(_, inlet)| !keeps(inlet)).map(|(key, _)| key.clone()).collect();
        for inlet in gone.iter().filter_map(|key| running.inlets.remove(key)) {
            let (ended, grace) = (inlet.stop(), self.around.grace);
            // Only so that the host does not end before.
            self.endings.spawn(async move { tokio::time::timeout(grace, ended.wait()).await });
        }
    }

    fn open_inlets(&self, running: &mut Running, bound: &[Bound]) {
        for bound in bound {
            let spec = &bound.link.spec;
            let key = (spec.contract, spec.name.clone());
            if running.inlets.contains_key(&key) {
                continue;
            }
            let mut inlet = Inlet::new(Some((spec, &bound.instance)));
            self.open(&mut inlet, bound, running.owned, &running.current);
            running.inlets.insert(key, inlet);
        }
    }

    fn open(&self, inlet: &mut Inlet, bound: &Bound, owned: bool, current: &watch::Sender<Current>) {
        let link = &bound.link;
        if let Some(bucket) = &bound.bucket {
            let status = self.inlet_status(inlet, link_name(&link.spec, None));
            inlet.tasks.spawn(watch_bucket(bucket.clone(), status, inlet.stop.clone()));
        }
        if let Some(server) = &bound.server {
            let status = self.inlet_status(inlet, link_name(&link.spec, None));
            inlet.tasks.spawn(watch_server(server.clone(), status, inlet.stop.clone()));
        }
        match (&link.spec.settings.kind, &link.backend, &bound.instance) {
            (KindSettings::Messaging(settings), Backend::Messaging(backend), _) if !owned => {
                for pattern in &settings.subscriptions {
                    self.subscribe(inlet, &link.spec, settings, pattern, backend, self.target(current));
                }
            }
            (KindSettings::HttpServer(settings), _, Instance::HttpServer(server)) => {
                let port = Port {
                    server: server.clone(),
                    address: (settings.address, settings.port).into(),
                    link: link.spec.name.clone(),
                    status: self.inlet_status(inlet, link_name(&link.spec, None)),
                    stop: inlet.stop.clone(),
                    grace: self.around.grace,
                };
                inlet.tasks.spawn(http::run(port, self.target(current)));
            }
            _ => {}
        }
    }

    fn subscribe(
        &self,
        inlet: &mut Inlet,
        link: &LinkAssignment,
        settings: &MessagingSettings,
        pattern: &SubjectPattern,
        backend: &Arc<dyn Messaging>,
        target: Target,
    ) {
        let subscription = subscription(self.around.lattice.name(), &self.id, link, settings.delivery, pattern);
        let status = self.inlet_status(inlet, link_name(link, Some(pattern)));
        let source = Source::new(backend.clone(), subscription, settings.clone(), status, inlet.stop.clone());
        match settings.delivery {
            Delivery::Core => inlet.tasks.spawn(delivery::core::run(source, target, true)),
            Delivery::Broadcast => inlet.tasks.spawn(delivery::core::run(source, target, false)),
            Delivery::Jetstream => {
                let (letters, lattice) = (self.around.dead_letters.clone(), self.around.lattice.clone());
                inlet.tasks.spawn(async move {
                    let Some((source, target)) = delivery::owned::take_over(&lattice, source, target).await else { return };
                    delivery::durable::run(source, target, letters).await;
                })
            }
        };
    }

    /// The order cannot be carried out: nothing runs until another comes.
    async fn fail(&self, running: Option<Running>, why: String) -> Option<Running> {
        self.end(running);
        let _ = self.around.events.send(Event::RunFailed { actor: self.id.clone(), why }).await;
        None
    }

    /// Lets everything finish in the background.
    fn end(&self, running: Option<Running>) -> Option<Running> {
        let running = running?;
        let inlets = running.inlets.into_values().chain([running.calls]).map(Inlet::stop).collect();
        let actor = running.current.borrow().actor.clone();
        self.retire(running.number, actor, inlets);
        None
    }

    /// Lets `inlets` and then `actor` finish, no longer than the grace, and keeps its counts.
    fn retire(&self, number: u64, actor: Actor, inlets: Vec<TaskTracker>) {
        let (status, grace) = (self.status.clone(), self.around.grace);
        self.endings.spawn(async move {
            let end = tokio::time::Instant::now() + grace;
            for inlet in inlets {
                if tokio::time::timeout_at(end, inlet.wait()).await.is_err() {
                    break;
                }
            }
            actor.close(end.saturating_duration_since(tokio::time::Instant::now())).await;
            forget(&status, number, &actor);
        });
    }

    /// Takes an actor that has ended out of the status; its counts stay.
    fn forget(&self, number: u64, actor: &Actor) {
        forget(&self.status, number, actor);
    }

    fn settings(&self, spec: &ComponentAssignment) -> ActorSettings {
        ActorSettings {
            id: self.id.clone(),
            policy: spec.policy,
            limits: spec.limits,
            instances: instances(spec),
            config: spec.config.clone(),
            env: BTreeMap::new(),
        }
    }

    fn target(&self, current: &watch::Sender<Current>) -> Target {
        Target {
            id: self.id.clone(),
            current: current.subscribe(),
            metrics: self.metrics.clone(),
            supervision: self.supervision.clone(),
            events: self.around.events.clone(),
            slot: None,
            consumer: None,
        }
    }

    fn inlet_status(&self, inlet: &mut Inlet, link: String) -> InletStatus {
        let status = InletStatus::opening(&self.status, &self.around.events, link);
        inlet.status.push(status.clone());
        status
    }
}

fn forget(status: &watch::Sender<Status>, number: u64, actor: &Actor) {
    let stats = actor.stats();
    status.send_modify(|status| {
        status.actors.remove(&number);
        status.past.add(&stats);
    });
}

fn links(bound: &[Bound]) -> Vec<BoundLink> {
    bound.iter().map(|bound| bound.link.clone()).collect()
}

/// How many instances the actor may have here. A system actor has one: what it knows is in its memory, and a second instance
/// would hear only half of what is told.
fn instances(spec: &ComponentAssignment) -> u32 {
    if is_system(spec) { spec.instances.min(1) } else { spec.instances }
}

fn wide(instances: u32) -> usize {
    usize::try_from(instances).unwrap_or(usize::MAX)
}

/// Gives a link what is at its other end.
async fn bind(spec: &LinkAssignment, instance: &Instance, force: &InForce) -> Result<Bound, String> {
    let (mut bucket, mut server) = (None, None);
    let backend = match (&spec.settings.kind, instance) {
        (KindSettings::KeyValue(settings), Instance::KeyValue(store)) => {
            Backend::KeyValue(bucket.insert(Arc::new(LazyBucket::new(store.clone(), &settings.bucket))).clone())
        }
        (KindSettings::Messaging(settings), Instance::Messaging(pool)) => {
            let backend = pool.backend(settings.cluster_uri.as_deref(), force).await;
            let backend =
                backend.map_err(|problem| Problem { message: format!("link {}: {}", spec.name, problem.message), ..problem }.line())?;
            server = settings.cluster_uri.as_ref().map(|_| backend.connection().clone());
            Backend::Messaging(backend)
        }
        (KindSettings::HttpServer(_), Instance::HttpServer(_)) => Backend::HttpServer,
        (KindSettings::HttpClient(_), Instance::HttpClient(client)) => Backend::HttpClient(client.outlet()),
        (KindSettings::Store(_), Instance::Store(store)) => Backend::Store(store.clone()),
        _ => return Err(format!("provider {} does not serve {}", spec.provider, spec.contract)),
    };
    let internal = server.is_some() && force.internal_only().is_some();
    Ok(Bound { link: BoundLink { spec: spec.clone(), backend }, instance: instance.clone(), bucket, server, internal })
}

/// Shows while the server that a link names is away.
async fn watch_server(server: Connection, status: InletStatus, stop: CancellationToken) {
    let mut state = server.state();
    let watching = async {
        loop {
            let back = state.wait_for(|state| *state == ConnectionState::Connected);
            if tokio::time::timeout(SERVER_PATIENCE, back).await.is_err() {
                status.fails(Problem::nats_refused(server.url()).message);
            }
            // Both waits end with an error only when the connection is closed for good, which is this task's end, too.
            if state.wait_for(|state| *state == ConnectionState::Connected).await.is_err() {
                return;
            }
            status.works();
            if state.wait_for(|state| *state != ConnectionState::Connected).await.is_err() {
                return;
            }
        }
    };
    if stop.run_until_cancelled(watching).await.is_some() {
        stop.cancelled().await;
    }
    status.closed();
}

/// Shows whether a bucket can be opened until it once was.
async fn watch_bucket(bucket: Arc<LazyBucket>, status: InletStatus, stop: CancellationToken) {
    let mut backoff = Backoff::new(REOPEN.0, REOPEN.1);
    let opened = async {
        while let Err(error) = bucket.open().await {
            status.fails(reason::of(&error));
            backoff.pause().await;
        }
        status.works();
    };
    if stop.run_until_cancelled(opened).await.is_some() {
        stop.cancelled().await;
    }
    status.closed();
}

fn subscription(
    lattice: &LatticeName,
    actor: &ActorId,
    link: &LinkAssignment,
    delivery: Delivery,
    pattern: &SubjectPattern,
) -> Subscription {
    let subject = pattern.to_string();
    match delivery {
        Delivery::Core => Subscription::Core { subject, queue: subject::queue_group(lattice, actor, &link.name) },
        Delivery::Broadcast => Subscription::Broadcast { subject },
        Delivery::Jetstream => {
            let consumer = subject::durable(lattice, actor, &link.name, &link.provider, pattern);
            Subscription::Durable { stream: subject::EDGE_STREAM.to_owned(), consumer }
        }
    }
}

/// How a link, or one of its subscriptions, is named in reports.
fn link_name(link: &LinkAssignment, pattern: Option<&SubjectPattern>) -> String {
    match pattern {
        Some(pattern) => format!("{} {} {pattern}", link.contract, link.name),
        None => format!("{} {}", link.contract, link.name),
    }
}
