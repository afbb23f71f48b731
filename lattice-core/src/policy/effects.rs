//! What the policies in force do to actors: to those that run, and to those that shall.
//!
//! An actor cannot work without a contract if it imports an interface of it, as it cannot without the link (the imports of a
//! component are no options), or if no way to call it is left. It is stopped then, so that messages wait where they are kept
//! instead of failing one after the other. Calls under way are denied when they reach the denied point.
//!
//! System actors are beyond policy: without them nobody could change it. What makes one is its links to the control plane,
//! which no operator can give; where issuers are named, its claim must allow `lattice:store`, too.

use std::collections::{BTreeMap, BTreeSet};

use super::force::{Denied, InForce};
use super::rules::Point;
use crate::admission::ComponentShape;
use crate::contract::Contract;
use crate::id::ActorId;
use crate::link::KindSettings;
use crate::wire::assignment::ComponentAssignment;

/// What the policies in force leave an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It runs.
    Runs {
        /// Points at which it is denied.
        denied: BTreeSet<Point>,
        /// Memory of its instances on this host in MiB.
        memory_mb: u32,
    },
    /// It cannot work and is stopped.
    Stops {
        /// Where.
        point: Point,
        /// Why.
        why: Denied,
    },
}

/// What the policies do to `actor`; `shape` is what its component imports and exports, if that is known already.
pub fn effect(force: &InForce, actor: &ComponentAssignment, shape: Option<&ComponentShape>) -> Effect {
    if is_system(actor) {
        return Effect::Runs { denied: BTreeSet::new(), memory_mb: actor.limits.memory_mb };
    }
    let contracts: BTreeSet<Contract> = actor.links.iter().map(|link| link.contract).collect();
    let points = used(&contracts, shape);
    match first_stop(force, &points, shape.is_some()) {
        Some((point, why)) => Effect::Stops { point, why: why.clone() },
        None => {
            let denied = points.into_iter().filter(|point| force.check(*point).is_err()).collect();
            Effect::Runs { denied, memory_mb: force.memory_mb(actor.limits.memory_mb) }
        }
    }
}

/// Whether an actor that does not run yet may be started.
///
/// # Errors
/// Where it is denied, if it is at one point, and why.
pub fn may_start(force: &InForce, actor: &ComponentAssignment, shape: Option<&ComponentShape>) -> Result<(), (Option<Point>, Denied)> {
    if is_system(actor) {
        return Ok(());
    }
    force.may_start().map_err(|why| (None, why.clone()))?;
    match effect(force, actor, shape) {
        Effect::Runs { .. } => Ok(()),
        Effect::Stops { point, why } => Err((Some(point), why)),
    }
}

/// Whether a host on which `force` is in force would run an actor that is linked to `contracts`: what the plan asks before
/// it places one. Where only the host can tell, because it depends on what the component imports, the answer is yes.
///
/// # Errors
/// Where it is denied, if it is at one point, and why.
pub fn admits(force: &InForce, contracts: &BTreeSet<Contract>) -> Result<(), (Option<Point>, Denied)> {
    force.may_start().map_err(|why| (None, why.clone()))?;
    keeps(force, contracts).map_err(|(point, why)| (Some(point), why.clone()))
}

/// The same for an actor that runs there already: whether it goes on.
///
/// # Errors
/// Where it is denied, and why.
pub fn keeps<'a>(force: &'a InForce, contracts: &BTreeSet<Contract>) -> Result<(), (Point, &'a Denied)> {
    first_stop(force, &used(contracts, None), false).map_or(Ok(()), Err)
}

/// What a change of policy does to an actor, as an event tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is stopped.
    Stopped {
        /// Where it is denied.
        point: Point,
        /// Why.
        why: Denied,
    },
    /// It may run again.
    Resumed,
    /// It runs on; these points are denied from now on.
    Denied(BTreeSet<Point>),
    /// It runs on; these points are allowed again.
    Allowed(BTreeSet<Point>),
    /// It runs on with another cap on its memory, from the next instance and the next growth on.
    Memory {
        /// MiB before.
        from: u32,
        /// MiB now.
        to: u32,
    },
}

/// What is different for each actor between two states of policy, in the order of their names.
pub fn changes(before: &BTreeMap<ActorId, Effect>, after: &BTreeMap<ActorId, Effect>) -> Vec<(ActorId, Change)> {
    let mut changes = Vec::new();
    for (id, now) in after {
        match (before.get(id), now) {
            (Some(Effect::Stops { .. }), Effect::Stops { .. }) => {}
            (_, Effect::Stops { point, why }) => changes.push((id.clone(), Change::Stopped { point: *point, why: why.clone() })),
            (Some(Effect::Stops { .. }), Effect::Runs { .. }) => changes.push((id.clone(), Change::Resumed)),
            (None, Effect::Runs { .. }) => {}
            (Some(Effect::Runs { denied: old, memory_mb: from }), Effect::Runs { denied: new, memory_mb: to }) => {
                let less: BTreeSet<Point> = new.difference(old).copied().collect();
                let more: BTreeSet<Point> = old.difference(new).copied().collect();
                let memory = (from != to).then_some(Change::Memory { from: *from, to: *to });
                let less = (!less.is_empty()).then_some(Change::Denied(less));
                let more = (!more.is_empty()).then_some(Change::Allowed(more));
                changes.extend([less, more, memory].into_iter().flatten().map(|change| (id.clone(), change)));
            }
        }
    }
    changes
}

/// Whether the actor belongs to lattice itself.
pub fn is_system(actor: &ComponentAssignment) -> bool {
    actor.links.iter().any(|link| is_system_link(&link.settings.kind))
}

/// Whether only an actor of lattice itself has such a link.
pub fn is_system_link(kind: &KindSettings) -> bool {
    match kind {
        KindSettings::Store(_) => true,
        KindSettings::Messaging(settings) => settings.system,
        KindSettings::KeyValue(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) => false,
    }
}

/// The points that an actor uses: those of its links, and if its shape is known only those that it imports or exports.
fn used(contracts: &BTreeSet<Contract>, shape: Option<&ComponentShape>) -> BTreeSet<Point> {
    let linked = contracts.iter().flat_map(|contract| Point::of_contract(*contract));
    let named = |shape: &ComponentShape, point: Point| {
        let names = if point.is_entrance() { &shape.exports } else { &shape.imports };
        names.iter().any(|name| Point::of_interface(name) == Some(point))
    };
    linked.filter(|point| shape.is_none_or(|shape| named(shape, *point))).collect()
}

/// The first denied point without which the actor cannot work. `exact`: `points` are what it imports and exports; otherwise
/// they are what it might, and a contract counts as denied only if all of it is.
fn first_stop<'a>(force: &'a InForce, points: &BTreeSet<Point>, exact: bool) -> Option<(Point, &'a Denied)> {
    let denied = |point: Point| force.check(point).err().map(|why| (point, why));
    let wholly =
        |point: Point| exact || points.iter().filter(|other| other.contract() == point.contract()).all(|point| denied(*point).is_some());
    let import = points.iter().filter(|point| !point.is_entrance() && wholly(**point)).find_map(|point| denied(*point));
    let mut entrances = points.iter().filter(|point| point.is_entrance()).peekable();
    let any = entrances.peek().is_some();
    let shut: Vec<Option<(Point, &Denied)>> = entrances.map(|point| denied(*point)).collect();
    import.or_else(|| if any && shut.iter().all(Option::is_some) { shut.into_iter().flatten().next() } else { None })
}
