//! Placing what is missing, and making room for what matters more.

use super::holding::Holding;
use super::world::{Admission, World};
use super::{Choice, Displaced, MAX_REJECTIONS};
use crate::id::{ActorId, HostId};
use crate::needs::{Spread, Strategy};
use crate::placement::{Ask, Candidates, Index, Node, Reject, Table};
use crate::wire::schedule::Need;

/// How many steps the placing or thinning of one actor takes at most, about; of very many instances several go at a time.
pub(super) const STEPS: u32 = 1024;

/// Places what the actor at `at` lacks; those after it matter less and may have to make room.
pub(super) fn fill(world: &mut World<'_>, holdings: &mut [Holding<'_>], at: usize) {
    let Some((current, rest)) = holdings.get_mut(at..).and_then(<[_]>::split_first_mut) else { return };
    let admission = current.admission(world);
    for (host, wanted) in current.missing_on.clone() {
        fill_host(world, current, rest, &admission, &host, wanted);
    }
    let grain = current.missing.div_ceil(STEPS).max(1);
    while current.missing > 0 {
        let held = holder(&world.table, current);
        let alone = current.is_alone_on_a_host();
        let search = Candidates {
            ask: &admission.ask,
            admits: |index, node: &Node| match held.get(index) {
                Some(1..) if alone => Err(Reject::AntiAffinity(current.id.clone())),
                Some(_) | None => world.admits(&admission, &node.id),
            },
            held: |index| held.get(index).copied().unwrap_or(0),
            first: world.turn,
        };
        let found = world.table.best(&search);
        let best = found.or_else(|| make_room(world, current, rest, &admission).filter(|_| !alone).map(|index| (index, false)));
        let Some((index, fallback)) = best else { break };
        let Some(node) = world.table.get(index) else { break };
        let instances = node.fits(&current.need).min(grain).min(current.missing);
        if instances == 0 {
            break;
        }
        let (host, reason) = (node.id.clone(), reason(&admission.ask, node, fallback));
        if admission.ask.strategy == Strategy::RoundRobin {
            world.turn = if index + 1 < world.table.nodes().len() { index + 1 } else { 0 };
        }
        take(world, current, &admission, &host, instances, reason);
        current.missing -= instances;
    }
    if current.missing > 0 {
        for index in 0..world.table.nodes().len() {
            if current.rejected.len() >= MAX_REJECTIONS {
                break;
            }
            explain_rejection(world, current, &admission, index);
        }
    }
}

/// Instances that each host holds of the actor.
fn holder(table: &Table, current: &Holding<'_>) -> Vec<u32> {
    let mut held = vec![0; table.nodes().len()];
    for (host, instances) in &current.placed {
        if let Some(slot) = table.index_of(host).and_then(|index| held.get_mut(index)) {
            *slot = *instances;
        }
    }
    held
}

/// Instances on a host that was named, or that a daemon runs on.
fn fill_host(
    world: &mut World<'_>,
    current: &mut Holding<'_>,
    rest: &mut [Holding<'_>],
    admission: &Admission<'_>,
    host: &HostId,
    wanted: u32,
) {
    let rules = &current.spec.needs;
    let reason = if rules.daemon { "runs on every host that fits" } else { "named by the operator" };
    let Some(index) = world.table.index_of(host) else {
        // It does not answer; what it is given waits for it.
        let closed = world.standings.closed(host).map_or(Ok(()), |why| Err(Reject::Closed(why)));
        match closed.and_then(|()| world.admits(admission, host)) {
            Ok(()) => {
                take(world, current, admission, host, wanted, format!("{reason}, it does not answer"));
                current.missing_on.remove(host);
            }
            Err(why) => current.reject(&world.inventory.name_of(host), why),
        }
        return;
    };
    let Some(node) = world.table.get(index) else { return };
    let name = node.name.to_string();
    if let Err(why) = admission.ask.suits(node).and_then(|()| world.admits(admission, host)) {
        current.reject(&name, why);
        return;
    }
    let mut left = wanted;
    while left > 0 {
        let room = world.table.get(index).map_or(0, |node| node.fits(&current.need)).min(left);
        if room > 0 {
            take(world, current, admission, host, room, reason.to_owned());
            left -= room;
        } else if !displace(world, current, rest, index, left) {
            explain_rejection(world, current, admission, index);
            break;
        }
    }
    if left == 0 {
        current.missing_on.remove(host);
    } else {
        current.missing_on.insert(host.clone(), left);
    }
}

fn take(world: &mut World<'_>, current: &mut Holding<'_>, admission: &Admission<'_>, host: &HostId, instances: u32, reason: String) {
    world.enter(admission, host);
    if let Some(index) = world.table.index_of(host) {
        world.table.reserve(index, &current.need, instances);
    }
    let share = current.placed.entry(host.clone()).or_default();
    *share = share.saturating_add(instances);
    match current.choices.iter_mut().find(|choice| choice.host == *host) {
        Some(choice) => choice.instances = choice.instances.saturating_add(instances),
        None => current.choices.push(Choice { host: host.clone(), instances, reason }),
    }
}

/// The host on which the least has to make room for one instance; the room is there afterwards.
fn make_room(world: &mut World<'_>, current: &Holding<'_>, rest: &mut [Holding<'_>], admission: &Admission<'_>) -> Option<Index> {
    let able = |index: &Index| {
        let Some(node) = world.table.get(*index) else { return false };
        let spread_label = match &current.spec.needs.spread {
            Some(Spread::Label(label)) => node.labels.contains_key(label),
            Some(Spread::Host) | None => true,
        };
        spread_label && admission.ask.suits(node).is_ok() && world.admits(admission, &node.id).is_ok()
    };
    if rest.last().is_none_or(|least| least.spec.needs.priority >= current.spec.needs.priority) {
        return None;
    }
    let region = current.spec.needs.region.as_ref();
    let costs = (0..world.table.nodes().len()).filter(able).filter_map(|index| {
        let node = world.table.get(index)?;
        let victims = victims(world, node, current, rest, 1)?;
        let highest = victims.iter().filter_map(|(at, _)| rest.get(*at)).map(|holding| holding.spec.needs.priority).max()?;
        let instances = victims.iter().fold(0_u32, |sum, (_, instances)| sum.saturating_add(*instances));
        let elsewhere = region.is_some_and(|region| *region != node.region);
        Some((elsewhere, highest, instances, node.score(), index))
    });
    let (.., index) = costs.min()?;
    displace(world, current, rest, index, 1).then_some(index)
}

/// Takes from actors of lower priority what `wanted` instances need on a host, or as many of them as can be.
fn displace(world: &mut World<'_>, current: &Holding<'_>, rest: &mut [Holding<'_>], index: Index, wanted: u32) -> bool {
    let Some(node) = world.table.get(index) else { return false };
    let host = node.id.clone();
    let Some(victims) = victims(world, node, current, rest, wanted).or_else(|| victims(world, node, current, rest, 1)) else {
        return false;
    };
    for (at, instances) in victims {
        let Some(victim) = rest.get_mut(at) else { continue };
        world.table.release(index, &victim.need, instances);
        let left = victim.placed.get(&host).copied().unwrap_or(0).saturating_sub(instances);
        if left == 0 {
            victim.placed.remove(&host);
            world.leave(victim.id, &host);
        } else {
            victim.placed.insert(host.clone(), left);
        }
        victim.displaced.push(Displaced { actor: victim.id.clone(), by: current.id.clone(), host: host.clone(), instances });
        if victim.spec.hosts.is_empty() && !victim.spec.needs.daemon {
            victim.missing = victim.missing.saturating_add(instances);
        } else {
            let lacking = victim.missing_on.entry(host.clone()).or_default();
            *lacking = lacking.saturating_add(instances);
        }
    }
    true
}

/// Who of those that matter less has to go from a host so that `wanted` instances fit.
fn victims(world: &World<'_>, node: &Node, current: &Holding<'_>, rest: &[Holding<'_>], wanted: u32) -> Option<Vec<(usize, u32)>> {
    let first = world.order.get(current.id)?.saturating_add(1);
    let tenant = |actor: &ActorId| {
        let at = world.order.get(actor)?.checked_sub(first)?;
        let holding = rest.get(at)?;
        let instances = holding.placed.get(&node.id).copied().filter(|_| holding.gives_way())?;
        Some((at, Tenant { priority: holding.spec.needs.priority, need: holding.need, instances }))
    };
    let tenants = world.actors_on(&node.id).filter_map(tenant).collect();
    make_way(node, &current.need, current.spec.needs.priority, wanted, tenants)
}

/// Instances that could make room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenant {
    pub(super) priority: u8,
    pub(super) need: Need,
    pub(super) instances: u32,
}

/// Which tenants have to go from a host so that `wanted` instances of `need` fit: lowest priority first, in the given order
/// among equals, no more than needed. None if that does not help.
pub(super) fn make_way<K: Copy + Ord>(
    node: &Node,
    need: &Need,
    priority: u8,
    wanted: u32,
    mut tenants: Vec<(K, Tenant)>,
) -> Option<Vec<(K, u32)>> {
    let lacks = |free: u32, each: u32| u64::from(each).saturating_mul(u64::from(wanted)).saturating_sub(u64::from(free));
    let mut cpu = lacks(node.cpu_free(), need.cpu);
    let mut memory = lacks(node.memory_free_mb(), need.memory_mb);
    // A host that is used beyond what it has gives room only after that is made up for.
    cpu = if cpu > 0 { cpu.saturating_add(u64::from(node.cpu_used.saturating_sub(node.cpu_capacity))) } else { 0 };
    memory = if memory > 0 { memory.saturating_add(u64::from(node.memory_used_mb.saturating_sub(node.memory_mb))) } else { 0 };
    tenants.retain(|(_, tenant)| tenant.priority < priority);
    tenants.sort_by_key(|(key, tenant)| (tenant.priority, *key));
    let mut victims = Vec::new();
    for (key, tenant) in tenants {
        if cpu == 0 && memory == 0 {
            break;
        }
        let (each_cpu, each_memory) = (u64::from(tenant.need.cpu), u64::from(tenant.need.memory_mb));
        let for_cpu = cpu.div_ceil(each_cpu.max(1)).min(if each_cpu == 0 { 0 } else { u64::MAX });
        let for_memory = memory.div_ceil(each_memory.max(1)).min(if each_memory == 0 { 0 } else { u64::MAX });
        let taken = u32::try_from(for_cpu.max(for_memory)).unwrap_or(u32::MAX).min(tenant.instances);
        if taken > 0 {
            cpu = cpu.saturating_sub(each_cpu.saturating_mul(u64::from(taken)));
            memory = memory.saturating_sub(each_memory.saturating_mul(u64::from(taken)));
            victims.push((key, taken));
        }
    }
    (cpu == 0 && memory == 0 && !victims.is_empty()).then_some(victims)
}

fn explain_rejection(world: &World<'_>, current: &mut Holding<'_>, admission: &Admission<'_>, index: Index) {
    let Some(node) = world.table.get(index) else { return };
    let search =
        Candidates { ask: &admission.ask, admits: |_, node: &Node| world.admits(admission, &node.id), held: |_: Index| 0, first: 0 };
    let why: Result<(), Reject> = world.table.takes(index, node, &search);
    if let Err(why) = why {
        current.reject(node.name.as_str(), why);
    }
}

/// Why a host was chosen.
fn reason(ask: &Ask<'_>, node: &Node, fallback: bool) -> String {
    let rules = ask.rules;
    let score = f64::from(node.score()) / 100.0;
    let by = match (&rules.spread, ask.strategy) {
        (Some(spread), _) => format!("fewest instances by {spread}"),
        (None, Strategy::Balanced) => "emptiest that fits".to_owned(),
        (None, Strategy::Pack) => "fullest that fits".to_owned(),
        (None, Strategy::RoundRobin) => "next in turn".to_owned(),
    };
    let elsewhere = match &rules.region {
        Some(region) if fallback || node.region != *region => format!(", no host of {region} can take it"),
        Some(region) => format!(", in {region}"),
        None => String::new(),
    };
    format!("{by}, score {score:.2}{elsewhere}")
}
