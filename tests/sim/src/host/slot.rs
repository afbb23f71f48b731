//! What runs one slot: takes its messages one after the other, collects their effects and stores them behind the fence.

use std::rc::Rc;

use lattice_core::fault::Fault;
use lattice_core::fence::{self, Answer, Condition, Effects, Next, Part, Publication};
use lattice_core::needs::Class;
use lattice_core::ownership::SlotId;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::ownership::Applied;

use super::{After, Host, epoch_subject};
use crate::clock::Millis;
use crate::env::{Call, Env, Event, HostEvent, Reply, Request};
use crate::invariants::Rule;
use crate::scene;
use crate::store::{Put, Refusal};

/// After this long without a message it is asked for again: the request may have got lost.
const PULL_AGAIN: Millis = 2_000;
/// Pause after a read that did not work.
const READ_AGAIN: Millis = 300;
/// Turns that one start of a slot may take.
const TURNS: u32 = 1 << 16;

/// A slot that runs here.
#[derive(Debug)]
pub(super) struct SlotWork {
    epoch: u64,
    strict: bool,
    consumer: String,
    /// Counts what was begun: an answer to something older is not for what is done now.
    turn: u32,
    applied: Option<Applied>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Reads how far the slot has worked.
    Beginning,
    /// Looks what the owner before has not acknowledged.
    Inheriting,
    /// Waits for a message.
    Waiting,
    /// Reads the list that a message adds to.
    Reading(Input),
    /// Stores effects; how often it was tried.
    Storing(Input, Vec<Put>, u32),
}

/// A message in hand.
#[derive(Debug, Clone, Copy)]
struct Input {
    sequence: u64,
    sensor: u32,
    number: u64,
}

impl Host {
    pub(super) fn start_slot(&mut self, slot: SlotId, epoch: u64, env: &mut Env) {
        let (ix, name) = (self.ix, self.connection_name());
        let Some((actor, class, slots)) = scene::OWNED.iter().find(|(name, ..)| *name == slot.actor.as_str()) else { return };
        let Some(consumer) = scene::consumers(actor, *slots).get(slot.slot as usize).cloned() else { return };
        let Some(process) = &mut self.process else { return };
        process.slot_starts += 1;
        let turn = process.slot_starts * TURNS;
        let work = SlotWork { epoch, strict: *class == Class::Strict, consumer, turn, applied: None, state: State::Beginning };
        process.slots.insert(slot.clone(), work);
        env.watch.handle_slot_started(ix, &name, &slot, epoch);
        self.begin(&slot, env);
    }

    pub(super) fn stop_slot(&mut self, slot: &SlotId, env: &mut Env) {
        env.watch.handle_slot_stopped(self.ix, slot);
        if let Some(process) = &mut self.process {
            process.slots.remove(slot);
        }
    }

    fn work(&mut self, slot: &SlotId) -> Option<&mut SlotWork> {
        self.process.as_mut()?.slots.get_mut(slot)
    }

    /// How far has whoever owned the slot before worked?
    fn begin(&mut self, slot: &SlotId, env: &mut Env) {
        let Some(work) = self.work(slot) else { return };
        work.turn += 1;
        work.state = State::Beginning;
        let (turn, subject) = (work.turn, applied_subject(slot, &work.consumer));
        let stream = scene::bucket_stream(slot.actor.as_str());
        self.call(After::Slot(slot.clone(), turn), Call::Get { stream, subject, leader: true }, 1, env);
    }

    fn pull(&mut self, slot: &SlotId, env: &mut Env) {
        let Some(work) = self.work(slot) else { return };
        work.turn += 1;
        work.state = State::Waiting;
        let (turn, consumer) = (work.turn, work.consumer.clone());
        env.send_up(self.ix, Request::Pull(consumer));
        env.at(env.now + PULL_AGAIN, Event::Host(self.ix, self.boot, HostEvent::Slot(slot.clone(), turn)));
    }

    /// After a reconnect the server does not know any more who waits.
    pub(super) fn pull_again(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let waiting = process.slots.iter().filter(|(_, work)| matches!(work.state, State::Waiting));
        let waiting: Vec<SlotId> = waiting.map(|(slot, _)| slot.clone()).collect();
        waiting.iter().for_each(|slot| self.pull(slot, env));
    }

    pub(super) fn handle_delivery(&mut self, consumer: &str, sequence: u64, body: &[u8], env: &mut Env) {
        let Some(process) = &self.process else { return };
        let found = process.slots.iter().find(|(_, work)| work.consumer == consumer);
        let Some((slot, work)) = found.map(|(slot, work)| (slot.clone(), work)) else {
            env.send_up(self.ix, Request::GiveBack(consumer.to_owned(), sequence));
            return;
        };
        // What comes while another message is in hand comes again.
        if !matches!(work.state, State::Waiting) {
            return;
        }
        let Ok([sensor, number]) = serde_json::from_slice::<[u64; 2]>(body) else { return };
        let input = Input { sequence, sensor: sensor as u32, number };
        if fence::is_applied(work.applied, sequence) {
            env.send_up(self.ix, Request::Acknowledge(consumer.to_owned(), sequence));
            return self.pull(&slot, env);
        }
        // A read that is a condition of the write may be answered by any replica.
        let leader = !is_increment(input.sensor) || env.dice.chance(500);
        let Some(work) = self.work(&slot) else { return };
        work.turn += 1;
        work.state = State::Reading(input);
        let turn = work.turn;
        let subject = subject::bucket_key(slot.actor.as_str(), &scene::list_key(slot.slot, input.sensor));
        let stream = scene::bucket_stream(slot.actor.as_str());
        self.call(After::Slot(slot, turn), Call::Get { stream, subject, leader }, 1, env);
    }

    pub(super) fn handle_slot_reply(&mut self, slot: &SlotId, turn: u32, reply: Reply, env: &mut Env) {
        let ix = self.ix;
        let Some(work) = self.work(slot).filter(|work| work.turn == turn) else { return };
        match (&work.state, reply) {
            (State::Beginning, Reply::Found(found)) => {
                work.applied = found.and_then(|(body, _)| wire::decode(&body).ok());
                work.turn += 1;
                work.state = State::Inheriting;
                let (turn, consumer) = (work.turn, work.consumer.clone());
                self.call(After::Slot(slot.clone(), turn), Call::Pending(consumer), 1, env);
            }
            (State::Inheriting, Reply::Out(out)) => {
                let consumer = work.consumer.clone();
                for sequence in out {
                    env.send_up(ix, Request::GiveBack(consumer.clone(), sequence));
                }
                self.pull(slot, env);
            }
            (State::Beginning | State::Inheriting, _) => self.wait(slot, READ_AGAIN, env),
            (State::Reading(input), Reply::Found(found)) => {
                let input = *input;
                self.handle_input(slot, input, found, env);
            }
            (State::Reading(input), _) => {
                let (sequence, consumer) = (input.sequence, work.consumer.clone());
                env.send_up(ix, Request::GiveBack(consumer, sequence));
                self.pull(slot, env);
            }
            (State::Storing(..), reply) => self.handle_stored(slot, &reply, env),
            (State::Waiting, _) => {}
        }
    }

    /// Goes on with what the state says after a while.
    fn wait(&mut self, slot: &SlotId, after: Millis, env: &mut Env) {
        let Some(work) = self.work(slot) else { return };
        work.turn += 1;
        let turn = work.turn;
        env.at(env.now + after, Event::Host(self.ix, self.boot, HostEvent::Slot(slot.clone(), turn)));
    }

    pub(super) fn wake_slot(&mut self, slot: &SlotId, turn: u32, env: &mut Env) {
        let Some(work) = self.work(slot).filter(|work| work.turn == turn) else { return };
        match &work.state {
            State::Waiting => self.pull(slot, env),
            State::Beginning | State::Inheriting => self.begin(slot, env),
            State::Storing(..) => self.store(slot, env),
            State::Reading(_) => {}
        }
    }

    /// What the actor does: adds the reading to its sensor's list and publishes a result.
    fn handle_input(&mut self, slot: &SlotId, input: Input, found: Option<(Rc<[u8]>, u64)>, env: &mut Env) {
        let ix = self.ix;
        let Some(work) = self.work(slot) else { return };
        if work.strict {
            env.watch.handle_act(ix, slot);
        }
        let revision = found.as_ref().map_or(0, |(_, sequence)| *sequence);
        let mut list: Vec<u64> = found.and_then(|(body, _)| serde_json::from_slice(&body).ok()).unwrap_or_default();
        list.push(input.number);
        let mut effects = Effects::default();
        let value = serde_json::to_vec(&list).unwrap();
        effects.write(&scene::list_key(slot.slot, input.sensor), Some(value), is_increment(input.sensor).then_some(revision)).unwrap();
        let body = serde_json::to_vec(&[u64::from(input.sensor), input.number]).unwrap();
        let subject = scene::output_subject(slot.actor.as_str(), slot.slot);
        effects.publish(Publication { subject, headers: Vec::new(), body }).unwrap();
        work.state = State::Storing(input, batch(slot, work, input, effects, env.fault), 0);
        if env.fault == Some(Fault::AckBeforeCommit) {
            let consumer = work.consumer.clone();
            env.send_up(ix, Request::Acknowledge(consumer, input.sequence));
        }
        self.store(slot, env);
    }

    fn store(&mut self, slot: &SlotId, env: &mut Env) {
        let fault = env.fault;
        let Some(work) = self.work(slot) else { return };
        work.turn += 1;
        let turn = work.turn;
        let State::Storing(_, batch, attempt) = &mut work.state else { return };
        *attempt += 1;
        let mut batch = batch.clone();
        if fault == Some(Fault::RetriesUnderNewIds) {
            batch.iter_mut().for_each(|put| put.id = put.id.as_ref().map(|id| format!("{id}:{attempt}")));
        }
        let stream = scene::bucket_stream(slot.actor.as_str());
        self.call(After::Slot(slot.clone(), turn), Call::Store { stream, batch, again: false }, 1, env);
    }

    fn handle_stored(&mut self, slot: &SlotId, reply: &Reply, env: &mut Env) {
        let answer = match reply {
            Reply::Stored(_) => Answer::Stored,
            Reply::Refused(Refusal::Duplicate) => Answer::Duplicate,
            Reply::Refused(Refusal::WrongSequence) => Answer::WrongSequence,
            Reply::Refused(Refusal::Busy) => Answer::Busy,
            Reply::Unheard => Answer::Unknown,
            _ => Answer::Unavailable,
        };
        let ix = self.ix;
        let Some(work) = self.work(slot) else { return };
        let State::Storing(input, _, attempt) = &work.state else { return };
        let (input, attempt, consumer, epoch) = (*input, *attempt, work.consumer.clone(), work.epoch);
        match fence::next(answer, attempt) {
            Next::Acknowledge => {
                work.applied = Some(Applied { sequence: input.sequence });
                env.send_up(ix, Request::Acknowledge(consumer, input.sequence));
                self.pull(slot, env);
            }
            Next::Repeat => {
                let after = env.dice.within(20, 200);
                self.wait(slot, after, env);
            }
            Next::Stop => {
                // Given up here, whoever goes on with it: that may be this host again, under a new epoch.
                work.turn += 1;
                work.state = State::Waiting;
                let Some(process) = &mut self.process else { return };
                process.owner.handle_fenced(slot, epoch);
                env.watch.seen.fenced += 1;
                if process.owner.epoch(slot) == Some(epoch) {
                    env.watch.fail(Rule::DeafOwner, format!("h{ix} goes on with {slot} under epoch {epoch}"));
                }
            }
            Next::GiveBack => {
                env.send_up(ix, Request::GiveBack(consumer, input.sequence));
                self.begin(slot, env);
            }
        }
    }
}

/// Half of the sensors have their list made from what was read, on condition that it still is so; the lists of the others
/// are written whatever they hold, so that the fence alone protects them.
fn is_increment(sensor: u32) -> bool {
    sensor.is_multiple_of(2)
}

/// The parts of a commit as messages of the bucket's stream; the first says what was applied.
fn batch(slot: &SlotId, work: &SlotWork, input: Input, effects: Effects, fault: Option<Fault>) -> Vec<Put> {
    let (lattice, bucket) = (scene::lattice(), scene::bucket(slot.actor.as_str()));
    let fence = (fault != Some(Fault::NoFenceHeader)).then(|| (epoch_subject(slot), work.epoch));
    let applied = Put {
        subject: applied_subject(slot, &work.consumer),
        body: Some(Rc::from(wire::encode(&Applied { sequence: input.sequence }))),
        expected: fence.clone(),
        ..Put::default()
    };
    let parts = effects.into_parts().into_iter().map(|part| match part {
        Part::Key { key, value, condition } => {
            let subject = subject::bucket_key(bucket.as_str(), &key);
            let expected = match condition {
                Condition::Epoch => fence.clone(),
                Condition::Revision(revision) => Some((subject.clone(), revision)),
            };
            Put { subject, body: value.map(Rc::from), expected, ..Put::default() }
        }
        Part::Publish(publication) => {
            let subject = subject::outbox(&lattice, &bucket, &publication.subject).unwrap();
            Put { subject, body: Some(Rc::from(publication.body)), expected: fence.clone(), ..Put::default() }
        }
    });
    let first = (fault != Some(Fault::AppliedIsForgotten)).then_some(applied);
    let named = |(number, put)| Put { id: Some(fence::message_id(slot, &work.consumer, input.sequence, number)), ..put };
    first.into_iter().chain(parts).enumerate().map(named).collect()
}

fn applied_subject(slot: &SlotId, consumer: &str) -> String {
    subject::applied(&scene::lattice(), &scene::bucket(slot.actor.as_str()), &slot.actor, slot.slot, consumer)
}
