//! Who owns which slot, as one host sees it: the pure part of claiming, keeping and losing.
//!
//! A state machine without I/O, driven like [`crate::agent`]: assignments and outcomes come in, [`Action`]s come out.
//!
//! **Invariants.** A slot runs here only between [`Action::Start`] and [`Action::Stop`], and with a fence only after a claim
//! was stored: what was read decides no more than whether a claim is tried. A claim is made for the plan (term) that gave
//! the slot to this host and never over one for a newer plan. A slot that was lost stays lost until a newer plan gives it
//! again. A `strict` slot runs only while the host holds its lease.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::fault::Faults;
use crate::id::{ActorId, Generation, HostId, Incarnation};
use crate::needs::Class;
use crate::wire::assignment::{ComponentAssignment, SlotAssignment};
use crate::wire::event::EventKind;
use crate::wire::ownership::EpochRecord;
use crate::wire::report::SlotReport;

/// First pause after a claim of which nothing was heard; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// One slot of one actor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId {
    /// The actor.
    pub actor: ActorId,
    /// Its number.
    pub slot: u32,
}

impl std::fmt::Display for SlotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.actor, self.slot)
    }
}

/// Something the host shall do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the slot's epoch record and its sequence from the stream's leader: [`Owner::handle_read`] or
    /// [`Owner::handle_failed`].
    Read(SlotId),
    /// Write the record if the last sequence on its subject is `expected` (0: there is none):
    /// [`Owner::handle_claimed`], [`Owner::handle_refused`] or [`Owner::handle_failed`].
    Claim {
        /// The slot.
        slot: SlotId,
        /// What must be there.
        expected: u64,
        /// The claim.
        record: EpochRecord,
    },
    /// The slot is ours: take its messages, with this epoch as the fence (0: its class has none).
    Start {
        /// The slot.
        slot: SlotId,
        /// The fence.
        epoch: u64,
    },
    /// Stop the slot at once; nothing that it still does counts.
    Stop(SlotId),
    /// Send a heartbeat now.
    Report,
    /// Record a state change.
    Record(EventKind, String, BTreeMap<String, String>),
}

#[derive(Debug)]
struct Slot {
    class: Class,
    given: SlotAssignment,
    state: State,
    attempts: u32,
    /// The host's lease has ended since the slot was given.
    lapsed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Something must come first: the actor, the lease.
    Idle,
    Reading,
    Claiming {
        expected: u64,
    },
    Paused {
        until: Duration,
    },
    Owned {
        epoch: u64,
    },
    Lost,
}

/// All slots of one host.
#[derive(Debug)]
pub struct Owner {
    host: HostId,
    incarnation: Incarnation,
    faults: Faults,
    slots: BTreeMap<SlotId, Slot>,
    ready: BTreeSet<ActorId>,
    leased: bool,
    /// The lease has lapsed, and no assignment has come since it was held again: the next one may be from before.
    lapsed: bool,
    /// The lease was ended on the host's behalf when it was held again last.
    void: bool,
    actions: VecDeque<Action>,
}

impl Owner {
    /// A host that owns nothing.
    pub fn new(host: HostId, incarnation: Incarnation) -> Self {
        let (slots, ready, actions) = (BTreeMap::new(), BTreeSet::new(), VecDeque::new());
        let (leased, lapsed, void) = (false, false, false);
        Self { host, incarnation, faults: Faults::default(), slots, ready, leased, lapsed, void, actions }
    }

    /// With a seeded bug.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Owner::handle_timeout`] wants to be called, if at all.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let until = |slot: &Slot| match slot.state {
            State::Paused { until } => Some(until),
            State::Idle | State::Reading | State::Claiming { .. } | State::Owned { .. } | State::Lost => None,
        };
        self.slots.values().filter_map(until).min()
    }

    /// Slots of `actor` that run here, for the host's report.
    pub fn owned<'a>(&'a self, actor: &'a ActorId) -> impl Iterator<Item = (u32, SlotReport)> + 'a {
        self.slots.iter().filter(move |(id, _)| id.actor == *actor).filter_map(|(id, slot)| match slot.state {
            State::Owned { epoch } => Some((id.slot, SlotReport { term: slot.given.term, epoch })),
            State::Idle | State::Reading | State::Claiming { .. } | State::Paused { .. } | State::Lost => None,
        })
    }

    /// Slots of `actor` that were lost and will not run here for the plan that gave them, with that plan.
    pub fn lost<'a>(&'a self, actor: &'a ActorId) -> impl Iterator<Item = (u32, Generation)> + 'a {
        let lost = |slot: &Slot| slot.state == State::Lost && !slot.given.release;
        let of_actor = self.slots.iter().filter(move |(id, slot)| id.actor == *actor && lost(slot));
        of_actor.map(|(id, slot)| (id.slot, slot.given.term))
    }

    /// The fence of a slot, if it runs here.
    pub fn epoch(&self, id: &SlotId) -> Option<u64> {
        match self.slots.get(id)?.state {
            State::Owned { epoch } => Some(epoch),
            State::Idle | State::Reading | State::Claiming { .. } | State::Paused { .. } | State::Lost => None,
        }
    }

    /// The actors that the assignment in force gives to this host.
    pub fn handle_assignment(&mut self, components: &BTreeMap<ActorId, ComponentAssignment>) {
        let given = components.iter().flat_map(|(actor, component)| {
            let slots = component.ownership.iter().flat_map(|own| own.slots.iter().map(|(slot, given)| (*slot, own.class, *given)));
            slots.map(|(slot, class, given)| (SlotId { actor: actor.clone(), slot }, (class, given)))
        });
        let given: BTreeMap<SlotId, (Class, SlotAssignment)> = given.collect();
        let gone: Vec<SlotId> = self.slots.keys().filter(|id| !given.contains_key(*id)).cloned().collect();
        for id in gone {
            self.stop(&id, "it is no longer assigned here");
            self.slots.remove(&id);
        }
        for (id, (class, given)) in given {
            let known = self.slots.contains_key(&id);
            let fresh = || Slot { class, given, state: State::Idle, attempts: 0, lapsed: self.lapsed };
            let slot = self.slots.entry(id.clone()).or_insert_with(fresh);
            let other = slot.given.term != given.term || slot.class != class;
            (slot.class, slot.given) = (class, given);
            slot.lapsed &= !other;
            if other || given.release {
                let why = if given.release { "it moves to another host" } else { "it is given anew" };
                self.stop(&id, why);
                self.set(&id, if given.release { State::Lost } else { State::Idle });
            }
            if class == Class::Strict && !known && self.lapsed && self.leased && self.void {
                self.lose(&id, "it was given before the host's lease was ended on its behalf, for all that is known");
            }
            self.settle(&id);
        }
        self.lapsed &= !self.leased;
    }

    /// Whether an actor could take messages: its code is there and its links are bound.
    pub fn handle_actor(&mut self, actor: &ActorId, ready: bool) {
        let changed = if ready { self.ready.insert(actor.clone()) } else { self.ready.remove(actor) };
        if !changed {
            return;
        }
        let ids: Vec<SlotId> = self.slots.keys().filter(|id| id.actor == *actor).cloned().collect();
        for id in ids {
            if !ready && self.slots.get(&id).is_some_and(|slot| slot.state != State::Lost) {
                self.stop(&id, "the actor does not run");
                self.set(&id, State::Idle);
            }
            self.settle(&id);
        }
    }

    /// The host holds its lease. `void`: it was ended on the host's behalf before, so that what this start had belongs to
    /// others.
    pub fn handle_lease_held(&mut self, void: bool) {
        (self.leased, self.void) = (true, void);
        self.lapsed &= void;
        for id in self.strict() {
            if void && self.slots.get(&id).is_some_and(|slot| slot.lapsed && slot.state == State::Idle) {
                self.lose(&id, "the host's lease was ended on its behalf");
            }
            self.settle(&id);
        }
    }

    /// The host's lease has ended: what needs it stops at once.
    pub fn handle_lease_lost(&mut self) {
        (self.leased, self.lapsed) = (false, true);
        for id in self.strict() {
            self.stop(&id, "the host's lease has ended");
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.state != State::Lost) {
                (slot.state, slot.lapsed) = (State::Idle, true);
            }
        }
    }

    /// A read of the slot's epoch record.
    pub fn handle_read(&mut self, id: &SlotId, found: Option<(&EpochRecord, u64)>) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state == State::Reading) else { return };
        let term = slot.given.term;
        let Some((record, sequence)) = found else { return self.claim(id, 0, term) };
        let mine = record.owner == self.host;
        if self.faults.owned_by_read() && mine {
            return self.start(id, sequence);
        }
        let lost = if record.term > term && !self.faults.old_term_claims() {
            Some(format!("{} owns it by generation {}, this host had it by {term}", record.owner, record.term))
        } else if record.term == term && !mine {
            Some(format!("{} owns it by the same generation {term}", record.owner))
        } else if mine && record.incarnation > self.incarnation {
            Some("a later start of this host owns it".to_owned())
        } else {
            None
        };
        match lost {
            Some(why) => self.lose(id, &why),
            None => self.claim(id, sequence, term),
        }
    }

    /// The claim over `expected` is stored; its sequence is the epoch.
    pub fn handle_claimed(&mut self, id: &SlotId, expected: u64, epoch: u64) {
        if self.slots.get(id).is_some_and(|slot| slot.state == State::Claiming { expected }) {
            self.start(id, epoch);
        }
    }

    /// The claim over `expected` was refused: something else is there.
    pub fn handle_refused(&mut self, id: &SlotId, expected: u64) {
        if self.slots.get(id).is_some_and(|slot| slot.state == State::Claiming { expected }) {
            if self.faults.conflict_is_success() {
                return self.start(id, expected);
            }
            self.read(id);
        }
    }

    /// A read or claim did not work, or it is not known whether it did.
    pub fn handle_failed(&mut self, id: &SlotId, now: Duration) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if matches!(slot.state, State::Reading | State::Claiming { .. }) {
            let factor = 1_u32.checked_shl(slot.attempts).unwrap_or(u32::MAX);
            let until = now.saturating_add(FIRST_PAUSE.saturating_mul(factor).min(MAX_PAUSE));
            slot.attempts = slot.attempts.saturating_add(1);
            slot.state = State::Paused { until };
        }
    }

    /// The store refused effects of the slot under `epoch`: somebody else may own it.
    pub fn handle_fenced(&mut self, id: &SlotId, epoch: u64) {
        let owned = self.slots.get(id).is_some_and(|slot| slot.state == State::Owned { epoch });
        if owned && !self.faults.deaf_to_fence() {
            self.stop(id, "its writes are refused");
            self.read(id);
        }
    }

    /// Time has come to `now`: whatever waits for another attempt gets it.
    pub fn handle_timeout(&mut self, now: Duration) {
        let due = |slot: &Slot| matches!(slot.state, State::Paused { until } if until <= now);
        let ids: Vec<SlotId> = self.slots.iter().filter(|(_, slot)| due(slot)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.read(&id);
        }
    }

    /// Begins what the slot may begin now.
    fn settle(&mut self, id: &SlotId) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state == State::Idle && !slot.given.release) else { return };
        if !self.ready.contains(&id.actor) || (slot.class == Class::Strict && !self.leased) {
            return;
        }
        if slot.class.is_fenced() { self.read(id) } else { self.start(id, 0) }
    }

    fn strict(&self) -> Vec<SlotId> {
        self.slots.iter().filter(|(_, slot)| slot.class == Class::Strict).map(|(id, _)| id.clone()).collect()
    }

    fn set(&mut self, id: &SlotId, state: State) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.state = state;
        }
    }

    fn read(&mut self, id: &SlotId) {
        self.set(id, State::Reading);
        self.actions.push_back(Action::Read(id.clone()));
    }

    fn claim(&mut self, id: &SlotId, expected: u64, term: Generation) {
        self.set(id, State::Claiming { expected });
        let record = EpochRecord { owner: self.host.clone(), incarnation: self.incarnation.clone(), term };
        self.actions.push_back(Action::Claim { slot: id.clone(), expected, record });
    }

    fn start(&mut self, id: &SlotId, epoch: u64) {
        if let Some(slot) = self.slots.get_mut(id) {
            (slot.state, slot.attempts) = (State::Owned { epoch }, 0);
        }
        self.actions.push_back(Action::Start { slot: id.clone(), epoch });
        self.record(EventKind::SlotOwned, id, format!("slot {id} runs here, epoch {epoch}"));
    }

    fn lose(&mut self, id: &SlotId, why: &str) {
        self.set(id, State::Lost);
        self.record(EventKind::SlotLost, id, format!("slot {id} is not this host's: {why}"));
    }

    /// Stops the slot if it runs.
    fn stop(&mut self, id: &SlotId, why: &str) {
        if self.epoch(id).is_some() {
            self.actions.push_back(Action::Stop(id.clone()));
            self.record(EventKind::SlotLost, id, format!("slot {id} stops here: {why}"));
        }
    }

    fn record(&mut self, kind: EventKind, id: &SlotId, message: String) {
        let details = BTreeMap::from([("actor".to_owned(), id.actor.to_string()), ("slot".to_owned(), id.slot.to_string())]);
        self.actions.extend([Action::Record(kind, message, details), Action::Report]);
    }
}

#[cfg(test)]
mod tests;
