//! Slots: which host owns which part of an actor whose class has owners.
//!
//! Where instances go is decided by number, as for any actor; here the numbers become slots.
//!
//! **Invariants.** A slot has at most one owner. A host keeps its slots with their terms; a slot that is given anew has the
//! number of that plan as its term, so that terms never fall. A fenced slot moves within one plan: its store refuses the
//! host that had it. A strict slot is given to another host only when its host has said that it does not run it any more, or
//! when the lease of that host has ended. A slot that its host says it has lost is given anew, with a new term.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use crate::desired::ComponentSpec;
use crate::id::{ActorId, HostId};
use crate::needs::Class;
use crate::wire::assignment::{Ownership, SlotAssignment};

/// What becomes of the instances of an actor on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// So many stay.
    Here(u32),
    /// They leave a host that goes on.
    Leaving,
    /// Their host is gone.
    Lost,
    /// Policies of their host, which goes on, have stopped them.
    Refused,
    /// They are not wanted there any more.
    Dropped,
}

/// The slots of one actor while a plan is made.
#[derive(Debug)]
pub(super) struct Slots {
    class: Class,
    count: u32,
    /// Every host has all slots, of its own: daemons, and autonomous actors that are not divided.
    own: bool,
    /// The slots that hosts have by the plan before.
    had: BTreeMap<u32, Had>,
    /// As `had` where every host has its own.
    own_before: BTreeMap<HostId, BTreeMap<u32, SlotAssignment>>,
    /// Hosts that have instances without owners: the actor was of another class.
    unowned: BTreeSet<HostId>,
    /// Who has which slot by this plan.
    dealt: BTreeMap<HostId, BTreeMap<u32, SlotAssignment>>,
    /// Slots that wait for a host to say that it does not run them.
    waiting: bool,
}

/// A slot that a host has by the plan before.
#[derive(Debug)]
struct Had {
    host: HostId,
    given: SlotAssignment,
    now: Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Now {
    /// It is not run and not kept.
    Free,
    /// Its host is gone; it stays there if nobody else takes it.
    Lost,
    /// It runs where it has to leave, and stays there if nobody else takes it.
    Leaving,
    /// It runs, and its host has to say that it does not before anybody else gets it.
    Releasing,
    /// It stays.
    Kept,
}

/// How dealing changed what was placed.
#[derive(Debug, Default)]
pub(super) struct Dealt {
    /// New slots on each host.
    pub(super) arrived: BTreeMap<HostId, u32>,
    /// Slots of hosts that are gone, and who took them.
    pub(super) moved: BTreeMap<(HostId, HostId), u32>,
}

impl Slots {
    /// The slots of an actor by the plan before; none if its class has no owners.
    pub(super) fn new(id: &ActorId, spec: &ComponentSpec, world: &World<'_>) -> Option<Self> {
        let (class, count) = (spec.needs.class, spec.needs.slot_count());
        if class == Class::Shared {
            return None;
        }
        let own = !spec.needs.is_divided();
        let (mut had, mut own_before, mut unowned) = (BTreeMap::<u32, Had>::new(), BTreeMap::new(), BTreeSet::new());
        for host in world.before.get(id).into_iter().flat_map(BTreeMap::keys) {
            let component = world.parent.assignments.get(*host).and_then(|assignment| assignment.components.get(id));
            let Some(ownership) = component.and_then(|component| component.ownership.as_ref()) else {
                unowned.insert((*host).clone());
                continue;
            };
            if own {
                own_before.insert((*host).clone(), ownership.slots.clone());
                continue;
            }
            for (slot, given) in ownership.slots.iter().filter(|(slot, _)| **slot < count || class == Class::Strict) {
                // What a strict actor was told to stop is given anew when it is of another class now.
                let given = if given.release && class != Class::Strict { anew(world) } else { *given };
                // A plan that was committed in waves may name two hosts for a while: the newer one is meant.
                if had.get(slot).is_none_or(|known| known.given.term < given.term) {
                    had.insert(*slot, Had { host: (*host).clone(), given, now: Now::Free });
                }
            }
        }
        Some(Self { class, count, own, had, own_before, unowned, dealt: BTreeMap::new(), waiting: false })
    }

    /// Whether the actor is divided among hosts, and does not run whole on each of them.
    pub(super) fn are_divided(&self) -> bool {
        !self.own
    }

    /// Slots on each host by the plan before. Of instances that had no owner as many as there are slots left stay where
    /// they are.
    pub(super) fn shares<'a>(&self, instances: &BTreeMap<&'a HostId, u32>) -> BTreeMap<&'a HostId, u32> {
        if self.own {
            return instances.clone();
        }
        let mut owned: BTreeMap<&HostId, u32> = BTreeMap::new();
        for had in self.had.values() {
            *owned.entry(&had.host).or_default() += 1;
        }
        let mut left = self.count.saturating_sub(u32::try_from(self.had.len()).unwrap_or(u32::MAX));
        let share = |(host, instances): (&&'a HostId, &u32)| {
            let adopted = if self.unowned.contains(*host) { (*instances).min(left) } else { 0 };
            left -= adopted;
            (*host, owned.get(*host).copied().unwrap_or(0).saturating_add(adopted))
        };
        instances.iter().map(share).collect()
    }

    /// Notes what becomes of the slots of a host; how many it keeps.
    pub(super) fn settle(&mut self, actor: &ActorId, host: &HostId, stay: Stay, world: &World<'_>) -> u32 {
        let stays = match stay {
            Stay::Here(stays) => stays,
            Stay::Leaving | Stay::Lost | Stay::Refused | Stay::Dropped => 0,
        };
        let (mut kept, mut known) = (0, false);
        for (slot, had) in self.had.iter_mut().filter(|(_, had)| had.host == *host) {
            known = true;
            if matches!(stay, Stay::Here(_)) && *slot < self.count && world.has_lost(actor, host, *slot, had.given.term) {
                // It is nobody's until it is given anew.
                had.now = Now::Free;
                continue;
            }
            had.now = match self.class {
                Class::Strict if *slot >= self.count => strict(actor, *slot, had, Stay::Dropped, false, world),
                Class::Strict => strict(actor, *slot, had, stay, kept < stays, world),
                Class::Shared | Class::Fenced | Class::Autonomous => match stay {
                    Stay::Here(_) if kept < stays => Now::Kept,
                    Stay::Here(_) | Stay::Dropped => Now::Free,
                    Stay::Leaving | Stay::Refused => Now::Leaving,
                    Stay::Lost => Now::Lost,
                },
            };
            kept += u32::from(had.now == Now::Kept);
        }
        if known { kept } else { stays }
    }

    /// Makes slots of the instances that were `placed`, which are those that a host has afterwards. Strict slots that still
    /// run elsewhere are only told to stop; what was placed for them is kept free for the plan that follows. None if that
    /// changes nothing of what was placed.
    pub(super) fn deal(&mut self, placed: &mut BTreeMap<HostId, u32>, world: &World<'_>, actor: &ActorId) -> Option<Dealt> {
        let anew = anew(world);
        if self.own {
            for host in placed.keys() {
                let before = self.own_before.get(host);
                let given =
                    |slot: u32| (slot, before.and_then(|slots| slots.get(&slot)).filter(|given| !given.release).copied().unwrap_or(anew));
                self.dealt.insert(host.clone(), (0..self.count).map(given).collect());
            }
            return None;
        }
        let mut wanted = placed.clone();
        for (slot, had) in &mut self.had {
            if had.now != Now::Kept {
                continue;
            }
            match wanted.get_mut(&had.host).filter(|left| **left > 0) {
                Some(left) => {
                    *left -= 1;
                    self.dealt.entry(had.host.clone()).or_default().insert(*slot, had.given);
                }
                // It had to make room.
                None => had.now = Now::Free,
            }
        }
        let mut free = self.free(actor, world).into_iter();
        let mut dealt = Dealt::default();
        let mut promised = 0_u32;
        for (host, wanted) in wanted {
            for _ in 0..wanted {
                let Some(slot) = free.next() else {
                    promised = promised.saturating_add(1);
                    continue;
                };
                self.dealt.entry(host.clone()).or_default().insert(slot, anew);
                *dealt.arrived.entry(host.clone()).or_default() += 1;
                if let Some(had) = self.had.get(&slot).filter(|had| had.now == Now::Lost) {
                    *dealt.moved.entry((had.host.clone(), host.clone())).or_default() += 1;
                }
            }
        }
        self.leave(free);
        self.release(promised);
        let lengths = self.dealt.iter().map(|(host, slots)| (host.clone(), u32::try_from(slots.len()).unwrap_or(u32::MAX)));
        *placed = lengths.collect();
        Some(dealt)
    }

    /// Slots that may be given to anybody: first those that nobody runs.
    fn free(&mut self, actor: &ActorId, world: &World<'_>) -> Vec<u32> {
        let now = |slot: u32| self.had.get(&slot).map_or(Now::Free, |had| had.now);
        let (runs, free): (Vec<u32>, Vec<u32>) =
            (0..self.count).filter(|slot| now(*slot) < Now::Releasing).partition(|slot| self.runs_elsewhere(actor, *slot, world));
        let mut free: Vec<(Now, u32)> = free.into_iter().map(|slot| (now(slot), slot)).collect();
        free.sort_unstable();
        self.waiting |= !runs.is_empty();
        free.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Whether a host says that it runs a strict slot which, by the plan, it does not have.
    fn runs_elsewhere(&self, actor: &ActorId, slot: u32, world: &World<'_>) -> bool {
        let running = if self.class == Class::Strict { world.running_slots(actor) } else { &[] };
        running.iter().any(|(other, host)| *other == slot && !world.standings.lease_ended(host))
    }

    /// What nobody took stays with the host that has it; but a strict slot whose lease has ended would not be run there
    /// without a new term.
    fn leave(&mut self, left: impl Iterator<Item = u32>) {
        for slot in left {
            let stays = |had: &&Had| had.now == Now::Leaving || (had.now == Now::Lost && self.class != Class::Strict);
            if let Some(had) = self.had.get(&slot).filter(stays) {
                self.dealt.entry(had.host.clone()).or_default().insert(slot, had.given);
            }
        }
    }

    /// Tells as many strict slots to stop as have a place elsewhere. What was told so once is never taken back: the host may
    /// have stopped already.
    fn release(&mut self, places: u32) {
        let mut releasing: Vec<(bool, u32)> =
            self.had.iter().filter(|(_, had)| had.now == Now::Releasing).map(|(slot, had)| (!had.given.release, *slot)).collect();
        releasing.sort_unstable();
        let mut places = places;
        for (_, slot) in releasing {
            let Some(had) = self.had.get(&slot) else { continue };
            // Of fewer slots than before the last ones have no other place to go to, and still have to be stopped.
            let ends = slot >= self.count;
            let release = had.given.release || ends || places > 0;
            places = places.saturating_sub(u32::from(!ends));
            self.waiting |= release;
            self.dealt.entry(had.host.clone()).or_default().insert(slot, SlotAssignment { release, ..had.given });
        }
    }

    /// Whether a slot waits for a host to say that it does not run it.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// What a host owns.
    pub(super) fn ownership(&self, host: &HostId) -> Option<Ownership> {
        // Where every host has its own, what stays although it was not placed keeps what it had.
        let slots = self.dealt.get(host).or_else(|| self.own_before.get(host))?;
        Some(Ownership { class: self.class, of: self.count, slots: slots.clone() })
    }

    /// Whether the slots of a host that is gone wait for its lease to end.
    pub(super) fn held(&self, host: &HostId) -> u32 {
        let held = self.had.values().filter(|had| had.host == *host && had.now >= Now::Releasing).count();
        if self.class == Class::Strict { u32::try_from(held).unwrap_or(u32::MAX) } else { 0 }
    }
}

/// A slot as this plan gives it.
fn anew(world: &World<'_>) -> SlotAssignment {
    SlotAssignment { term: world.parent.generation().next(), release: false }
}

/// What becomes of a strict slot.
fn strict(actor: &ActorId, slot: u32, had: &Had, stay: Stay, may_stay: bool, world: &World<'_>) -> Now {
    if world.standings.lease_ended(&had.host) {
        return Now::Lost;
    }
    if had.given.release {
        let released = world.has_released(actor, &had.host, slot);
        return match stay {
            Stay::Lost if released => Now::Lost,
            Stay::Here(_) | Stay::Leaving | Stay::Refused | Stay::Dropped if released => Now::Free,
            Stay::Here(_) | Stay::Leaving | Stay::Lost | Stay::Refused | Stay::Dropped => Now::Releasing,
        };
    }
    match stay {
        Stay::Here(_) if may_stay => Now::Kept,
        // A host that is heard can be told; of another one it is not known what it still runs.
        Stay::Lost if !world.can_be_told(&had.host) => Now::Kept,
        Stay::Here(_) | Stay::Leaving | Stay::Lost | Stay::Refused | Stay::Dropped => Now::Releasing,
    }
}
