//! What runs a replica of a system actor: one message after the other, each step told to the state machine before the next.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use lattice_core::fault::Faults;
use lattice_core::id::{HostName, Revision};
use lattice_core::plan::KeyChange;
use lattice_core::scheduler::{FRESH_FOR_MS, Scheduler, Step};
use lattice_core::subject::{self, Heard, Verb};
use lattice_core::system::SystemActor;
use lattice_core::wire;
use lattice_core::id::ActorId;

use super::{After, Host, bucket_stream};
use crate::clock::Millis;
use crate::env::{Call, Env, Event, HostEvent, Reply};
use crate::scene;
use crate::store::{Put, Refusal};

/// Steps for one message; what is left waits for the next.
const MAX_STEPS: usize = 64;
/// Messages that wait for an actor; more are dropped, as the server does with a slow consumer.
const MAX_QUEUE: usize = 512;
/// Attempts to store a batch of which nothing is heard.
const ATTEMPTS: u32 = 4;

/// One replica.
#[derive(Debug)]
pub(super) struct Replica {
    /// Which start of it: after a trap there is another.
    start: u32,
    system: SystemActor,
    machine: Scheduler,
    began: Millis,
    heard: Millis,
    queue: VecDeque<(Rc<str>, Rc<[u8]>)>,
    /// Steps that are left for the message in hand.
    steps: usize,
    waiting: Option<Waiting>,
}

/// What an answer is awaited for.
#[derive(Debug)]
enum Waiting {
    Look,
    ReadPlan,
    ReadDesired(Listing),
    Commit,
}

/// A bucket as it was read: entries by key, and the last sequence.
#[derive(Debug, Default)]
struct Listing(BTreeMap<String, (Rc<[u8]>, u64)>, u64);

impl Replica {
    /// A replica that knows nothing yet.
    pub(super) fn new(system: SystemActor, node: &HostName, start: u32, began: Millis, _faults: Faults) -> Self {
        let machine = Scheduler::new(node.to_string(), 0);
        Self { start, system, machine, began, heard: 0, queue: VecDeque::new(), steps: 0, waiting: None }
    }
}

impl Host {
    pub(super) fn handle_for_actor(&mut self, actor: &ActorId, subject: Rc<str>, body: Rc<[u8]>, env: &mut Env) {
        let Some(replica) = self.replica(actor) else { return };
        if replica.queue.len() < MAX_QUEUE {
            replica.queue.push_back((subject, body));
        }
        self.pump(actor, env);
    }

    /// A system actor traps: the next instance knows nothing.
    pub fn trap(&mut self, actor: &ActorId, env: &mut Env) {
        let (now, name) = (self.clock.now_ms(env.now), self.name.clone());
        let faults = env.faults();
        let Some(replica) = self.replica(actor) else { return };
        *replica = Replica::new(replica.system, &name, replica.start + 1, now, faults);
        env.note(format_args!("h{} {actor} traps", self.ix));
    }

    pub(super) fn wake_replica(&mut self, actor: &ActorId, start: u32, env: &mut Env) {
        if self.replica(actor).is_some_and(|replica| replica.start == start) {
            self.pump(actor, env);
        }
    }

    fn replica(&mut self, actor: &ActorId) -> Option<&mut Replica> {
        self.process.as_mut()?.replicas.get_mut(actor)
    }

    /// Works until an answer is awaited or nothing is left.
    fn pump(&mut self, actor: &ActorId, env: &mut Env) {
        loop {
            let local = self.clock.now_ms(env.now);
            let Some(replica) = self.replica(actor) else { return };
            if replica.waiting.is_some() {
                return;
            }
            let now = local.saturating_sub(replica.began);
            if replica.steps > 0 {
                replica.steps -= 1;
                match replica.machine.poll_step(now) {
                    Some(step) => self.carry_out(actor, step, env),
                    None => replica.steps = 0,
                }
                continue;
            }
            let Some((subject, body)) = replica.queue.pop_front() else { return };
            replica.steps = MAX_STEPS;
            let gap = now.saturating_sub(std::mem::replace(&mut replica.heard, now));
            if gap > FRESH_FOR_MS {
                replica.machine.handle_reconnected();
            }
            match Heard::of_subject(&subject) {
                Some((_, Heard::Heartbeat)) => replica.machine.handle_heartbeat(&subject, &body, now),
                Some((_, Heard::DesiredChanged)) => replica.machine.handle_desired_changed(),
                Some((_, Heard::VerdictChanged | Heard::Question(_))) | None => {}
            }
        }
    }

    fn carry_out(&mut self, actor: &ActorId, step: Step, env: &mut Env) {
        let lattice = scene::lattice();
        let (plan, desired) = (bucket_stream(&subject::plan_bucket(&lattice)), bucket_stream(&subject::desired_bucket(&lattice)));
        match step {
            Step::AskHosts => self.publish(&subject::request_all(&lattice, Verb::Report), Vec::new(), env),
            Step::Probe(probe) => self.publish(&subject::probe(&lattice), wire::encode(&probe), env),
            Step::Look => self.ask(actor, Waiting::Look, Call::Info(vec![desired, plan]), env),
            Step::Read => self.ask(actor, Waiting::ReadPlan, Call::List(plan), env),
            Step::Commit(keys) => {
                let batch = self.batch(actor, &subject::plan_bucket(&lattice), keys);
                self.ask(actor, Waiting::Commit, Call::Store { stream: plan, batch, again: false }, env);
            }
            Step::Record(_) => {}
        }
    }

    /// The keys of a commit as messages, each with an id of its own.
    fn batch(&self, actor: &ActorId, bucket: &str, keys: Vec<KeyChange>) -> Vec<Put> {
        let number = self.process.as_ref().map_or(0, |process| process.next_call);
        let id = format!("{}.{actor}.{}.{number}", self.ix, self.boot);
        let put = |(number, change): (usize, KeyChange)| {
            let subject = subject::bucket_key(bucket, &change.key);
            let expected = change.expected.map(|revision| (subject.clone(), revision.0));
            Put { subject, body: Some(Rc::from(change.value)), expected, id: Some(format!("{id}.{number}")), ttl: None }
        };
        keys.into_iter().enumerate().map(put).collect()
    }

    fn ask(&mut self, actor: &ActorId, what: Waiting, call: Call, env: &mut Env) {
        let Some(replica) = self.replica(actor) else { return };
        replica.waiting = Some(what);
        let start = replica.start;
        let attempts = if matches!(call, Call::Store { .. }) { ATTEMPTS } else { 1 };
        self.call(After::Replica(actor.clone(), start), call, attempts, env);
    }

    pub(super) fn handle_replica_reply(&mut self, actor: &ActorId, start: u32, reply: Reply, env: &mut Env) {
        let (local, wall_ms) = (self.clock.now_ms(env.now), self.clock.wall_ms(env.now));
        let lattice = scene::lattice();
        let Some(replica) = self.replica(actor).filter(|replica| replica.start == start) else { return };
        let now = local.saturating_sub(replica.began);
        let machine = &mut replica.machine;
        match (replica.waiting.take(), reply) {
            (Some(Waiting::Look), Reply::Last(last)) => machine.handle_revisions(Revision(last[0]), Revision(last[1])),
            (Some(Waiting::ReadPlan), Reply::Listed(entries, last)) => {
                let listing = Listing::new(&subject::plan_bucket(&lattice), entries, last);
                let call = Call::List(bucket_stream(&subject::desired_bucket(&lattice)));
                return self.ask(actor, Waiting::ReadDesired(listing), call, env);
            }
            (Some(Waiting::ReadDesired(plan)), Reply::Listed(entries, last)) => {
                let desired = Listing::new(&subject::desired_bucket(&lattice), entries, last);
                let planned = plan.0.iter().map(|(key, (value, revision))| (key.as_str(), &**value, Revision(*revision)));
                let wanted = desired.0.iter().map(|(key, (value, _))| (key.as_str(), &**value));
                machine.handle_stored(planned, Revision(plan.1), wanted, Revision(desired.1), now).expect("what is stored makes sense");
            }
            (Some(Waiting::Commit), Reply::Stored(sequence)) => machine.handle_committed(Revision(sequence), wall_ms),
            (Some(Waiting::Commit), Reply::Refused(Refusal::WrongSequence | Refusal::Busy)) => machine.handle_conflict(now),
            (Some(_), _) => machine.handle_failure(now),
            (None, _) => {}
        }
        // The next step is another turn of the actor's thread.
        env.at(env.now, Event::Host(self.ix, self.boot, HostEvent::Actor(actor.clone(), start)));
    }
}

impl Listing {
    fn new(bucket: &str, entries: Vec<(Rc<str>, Rc<[u8]>, u64)>, last: u64) -> Self {
        let prefix = subject::bucket_key(bucket, "");
        let entry = |(subject, body, sequence): (Rc<str>, Rc<[u8]>, u64)| Some((subject.strip_prefix(&prefix)?.to_owned(), (body, sequence)));
        Self(entries.into_iter().filter_map(entry).collect(), last)
    }
}
