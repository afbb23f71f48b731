//! The slots of one actor that run on this host: each has an instance, links and inlets of its own.
//!
//! **Invariants.** A slot takes messages only while the event loop says that it runs here. Whatever it is replaced by (other
//! code, another start) begins after it has ended, so that it works on one message at a time. A slot whose gate is closed is
//! cut off, any other one may finish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lattice_core::id::BucketName;
use lattice_core::needs::Class;
use tokio::time::Instant;

use super::{
    Actor, ActorSettings, Backend, Bound, BoundLink, ComponentAssignment, Contract, Current, Event, Inlet, Keeper, KindSettings, News,
    Order, SlotId, Start, links, watch,
};
use crate::delivery::Target;
use crate::ownership::backends::Fence;
use crate::ownership::claims;
use crate::ownership::slot::Slot;

/// How long a slot that was cut off may take to end.
const END_OF_CUT: Duration = Duration::from_secs(2);

/// Whether the slots of an actor have owners whose effects are fenced.
pub(super) fn are_owned(spec: &ComponentAssignment) -> bool {
    spec.ownership.as_ref().is_some_and(|ownership| ownership.class.is_fenced())
}

/// What slots are made from.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) order: Arc<Order>,
    pub(super) bound: Vec<Bound>,
}

impl Prepared {
    /// Whether a slot of `other` may go on as it is.
    fn is_same(&self, other: &Self) -> bool {
        let bare = |spec: &ComponentAssignment| ComponentAssignment { ownership: None, instances: 1, ..spec.clone() };
        let meaning = |spec: &ComponentAssignment| spec.ownership.as_ref().map(|ownership| (ownership.class, ownership.of));
        let (a, b) = (&self.order, &other.order);
        let same_instances = self.bound.len() == other.bound.len()
            && self.bound.iter().zip(&other.bound).all(|(a, b)| a.instance.is_same(&b.instance) && a.internal == b.internal);
        same_instances && meaning(&a.spec) == meaning(&b.spec) && bare(&a.spec) == bare(&b.spec)
    }
}

/// The links with which the actor only reads: for requests that are no messages.
pub(super) fn reading(keeper: &Keeper, spec: &ComponentAssignment, bound: &[Bound]) -> Result<Vec<BoundLink>, String> {
    let fence = fence(keeper, spec, &home(spec)?);
    Ok(bound.iter().map(|bound| fence.around(&bound.link)).collect())
}

/// The bucket of the one key-value link.
fn home(spec: &ComponentAssignment) -> Result<BucketName, String> {
    if spec.links.iter().filter(|link| link.contract == Contract::KeyValue).count() > 1 {
        return Err("an actor with owners has one key-value link, not several: what it stores is stored as one".to_owned());
    }
    claims::bucket(spec).ok_or_else(|| "an actor with owners needs a key-value link, whose bucket holds what they store".to_owned())
}

fn fence(keeper: &Keeper, spec: &ComponentAssignment, home: &BucketName) -> Fence {
    let lattice = &keeper.around.lattice;
    let class = spec.ownership.as_ref().map_or(Class::Fenced, |ownership| ownership.class);
    Fence { lattice: lattice.name().clone(), class, bucket: lattice.fenced_bucket(home), slot: None }
}

/// All slots that run here.
#[derive(Default)]
pub(super) struct Slots {
    prepared: Option<Prepared>,
    running: BTreeMap<u32, Running>,
}

struct Running {
    start: Start,
    prepared: Prepared,
    /// Under which it stands in the status.
    number: u64,
    actor: Actor,
    inlets: Vec<Inlet>,
    /// Kept so that the inlets have somebody to call.
    _current: watch::Sender<Current>,
}

impl Slots {
    /// What slots are made from, from now on; the next [`Slots::obey`] brings them to it.
    pub(super) async fn prepare(&mut self, keeper: &Keeper, prepared: Option<Prepared>) {
        self.prepared = prepared;
        if self.prepared.is_some() {
            let _ = keeper.around.events.send(Event::Owner(News::Ready { actor: keeper.id.clone(), ready: true })).await;
        }
    }

    /// Ends what shall not run, or not so, and begins what shall.
    pub(super) async fn obey(&mut self, keeper: &Keeper, given: &BTreeMap<u32, Start>) {
        let prepared = self.prepared.as_ref();
        let goes_on = |slot: &u32, running: &Running| {
            given.get(slot).is_some_and(|start| Arc::ptr_eq(&start.gate, &running.start.gate))
                && prepared.is_some_and(|prepared| prepared.is_same(&running.prepared))
        };
        let ending: Vec<u32> = self.running.iter().filter(|(slot, running)| !goes_on(slot, running)).map(|(slot, _)| *slot).collect();
        let ending: Vec<Running> = ending.iter().filter_map(|slot| self.running.remove(slot)).collect();
        join_all(ending.into_iter().map(|running| end(keeper, running))).await;
        let Some(prepared) = self.prepared.clone() else { return };
        for (slot, start) in given {
            if self.running.contains_key(slot) || !start.gate.is_open() {
                continue;
            }
            match begin(keeper, &prepared, *slot, start) {
                Ok(running) => drop(self.running.insert(*slot, running)),
                Err(why) => {
                    let _ = keeper.around.events.send(Event::RunFailed { actor: keeper.id.clone(), why }).await;
                    return;
                }
            }
        }
    }

    /// Lets everything finish.
    pub(super) async fn finish(&mut self, keeper: &Keeper) {
        join_all(std::mem::take(&mut self.running).into_values().map(|running| end(keeper, running))).await;
    }
}

fn begin(keeper: &Keeper, prepared: &Prepared, number: u32, start: &Start) -> Result<Running, String> {
    let (spec, around) = (&prepared.order.spec, &keeper.around);
    let id = SlotId { actor: keeper.id.clone(), slot: number };
    let fence = fence(keeper, spec, &home(spec)?);
    let slot = Slot::new(id, start.epoch, fence.bucket.clone(), start.gate.clone(), around.events.clone());
    let fence = Fence { slot: Some(slot.clone()), ..fence };
    let fenced: Vec<BoundLink> = links(&prepared.bound).iter().map(|link| fence.around(link)).collect();
    let settings = ActorSettings { instances: 1, ..keeper.settings(spec) };
    let actor = Actor::under(&around.runtime, prepared.order.loaded.clone(), settings, fenced, start.gate.closed());
    let actor = actor.map_err(|error| error.to_string())?;
    let shown = keeper.show(&actor);
    let current = watch::channel(Current { actor: actor.clone(), instances: 1 }).0;
    let target = Target { slot: Some(slot), ..keeper.target(&current) };
    let inlets = open(keeper, prepared, number, &target);
    Ok(Running { start: start.clone(), prepared: prepared.clone(), number: shown, actor, inlets, _current: current })
}

/// One inlet for calls, and one for each messaging link with the subscriptions of this slot.
fn open(keeper: &Keeper, prepared: &Prepared, slot: u32, target: &Target) -> Vec<Inlet> {
    let is_messaging = |bound: &&Bound| bound.link.spec.contract == Contract::Messaging;
    let of = prepared.order.spec.ownership.as_ref().map_or(1, |ownership| ownership.of);
    let mut calls = Inlet::new(None);
    let linked = watch::channel(prepared.bound.iter().any(|bound| is_messaging(&bound))).1;
    keeper.take_calls(&mut calls, linked, target.clone());
    let mut inlets = vec![calls];
    for bound in prepared.bound.iter().filter(is_messaging) {
        let (KindSettings::Messaging(settings), Backend::Messaging(bus)) = (&bound.link.spec.settings.kind, &bound.link.backend) else {
            continue;
        };
        let mut inlet = Inlet::new(Some((&bound.link.spec, &bound.instance)));
        let own = settings.subscriptions.iter().enumerate().filter(|(position, _)| of <= 1 || u32::try_from(*position) == Ok(slot));
        for (_, pattern) in own {
            keeper.subscribe(&mut inlet, &bound.link.spec, settings, pattern, bus, target.clone());
        }
        inlets.push(inlet);
    }
    inlets
}

/// Waits until a slot has ended: cut off, or finished within the grace.
async fn end(keeper: &Keeper, running: Running) {
    let Running { start, number, actor, inlets, .. } = running;
    let grace = if start.gate.is_open() { keeper.around.grace } else { END_OF_CUT };
    let until = Instant::now() + grace;
    let ending: Vec<_> = inlets.into_iter().map(Inlet::stop).collect();
    for inlet in ending {
        if tokio::time::timeout_at(until, inlet.wait()).await.is_err() {
            break;
        }
    }
    actor.close(until.saturating_duration_since(Instant::now())).await;
    keeper.forget(number, &actor);
}
