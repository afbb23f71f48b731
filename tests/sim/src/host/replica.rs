//! What runs a replica of a system actor: one message after the other, each step told to the state machine before the next.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use lattice_core::failover::{self, Failover};
use lattice_core::id::{ActorId, HostId, HostName, Revision};
use lattice_core::plan::KeyChange;
use lattice_core::scheduler::{self, Scheduler};
use lattice_core::subject::{self, Heard, Verb};
use lattice_core::system::SystemActor;
use lattice_core::wire;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::request::ReportQuery;
use lattice_core::wire::verdict::{Evidence, Standing, Verdict};

use super::{After, Host, bucket_stream};
use crate::clock::Millis;
use crate::env::{Call, Env, Event, HostEvent, Reply};
use crate::invariants::Rule;
use crate::store::{Put, Refusal};
use crate::{policy, scene};

/// Steps for one message; what is left waits for the next.
const MAX_STEPS: usize = 64;
/// Messages that wait for an actor; more are dropped, as the server does with a slow consumer.
const MAX_QUEUE: usize = 512;
/// Attempts to store a batch of which nothing is heard.
const ATTEMPTS: u32 = 4;
/// Heartbeats of one host that are kept to check verdicts by.
const MAX_BEATS: usize = 64;
/// An observer that heard nothing at all for so long was cut off itself.
const OWN_GAP: Millis = 4_000;
/// Whoever was heard within this time is heard, by the clock of who judges: two heartbeats and a bit.
const SURELY_HEARD: Millis = 2_500;

/// One replica.
#[derive(Debug)]
pub(super) struct Replica {
    /// Which start of it: after a trap there is another.
    start: u32,
    system: SystemActor,
    machine: Machine,
    began: Millis,
    heard: Millis,
    queue: VecDeque<(Rc<str>, Rc<[u8]>)>,
    /// Steps that are left for the message in hand.
    steps: usize,
    waiting: Option<Waiting>,
    ear: Ear,
}

/// A heartbeat, and when it was taken from the queue.
type Beat = (Rc<[u8]>, Millis);

/// What came to a replica's ears lately, to check its verdicts by.
#[derive(Debug, Default)]
struct Ear {
    /// The last heartbeats on each subject.
    beats: BTreeMap<Rc<str>, VecDeque<Beat>>,
    /// When it was told last that a connection has ended, by its name.
    cuts: BTreeMap<String, Millis>,
    /// When anything was heard last, and when something was after nothing had been for long.
    last: Millis,
    back: Millis,
}

impl Ear {
    fn hear(&mut self, subject: &Rc<str>, body: &Rc<[u8]>, now: Millis) {
        if now.saturating_sub(std::mem::replace(&mut self.last, now)) > OWN_GAP {
            self.back = now;
        }
        if &**subject == subject::DISCONNECTS {
            let told: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            let name = told.pointer("/client/name").and_then(serde_json::Value::as_str).unwrap_or_default();
            self.cuts.insert(name.to_owned(), now);
        } else if subject.contains(".hb.") {
            let beats = self.beats.entry(subject.clone()).or_default();
            if beats.len() == MAX_BEATS {
                beats.pop_front();
            }
            beats.push_back((body.clone(), now));
        }
    }

    /// When anything new was heard last of the start of a host that a verdict is about.
    fn heard(&self, verdict: &Verdict) -> Option<Millis> {
        let beats = self.beats.get(subject::heartbeat(&scene::lattice(), &verdict.region, &verdict.host).as_str())?;
        let reports = beats.iter().filter_map(|(body, at)| Some((wire::decode::<HostReport>(body).ok()?, *at)));
        let own = reports.filter(|(report, _)| report.incarnation == verdict.incarnation);
        // Of those that are the same the first counts: the others are repetitions.
        own.map(|(report, at)| (report.seq, std::cmp::Reverse(at))).max().map(|(_, at)| at.0)
    }

    fn cut(&self, verdict: &Verdict) -> Option<Millis> {
        self.cuts.get(&subject::connection_name(&verdict.host, &verdict.incarnation)).copied()
    }
}

#[derive(Debug)]
enum Machine {
    Scheduler(Box<Scheduler>),
    Failover(Box<Failover>),
}

/// What an answer is awaited for.
#[derive(Debug)]
enum Waiting {
    Look,
    Verdicts,
    Policies,
    Plan,
    PlanThenDesired,
    Desired(Option<Listing>),
    PlanKeys,
    Verdict(String),
    Commit,
    Lease(HostId),
    Revoked(HostId),
}

/// A bucket as it was read: entries by key, and the last sequence.
#[derive(Debug, Default)]
struct Listing(BTreeMap<String, (Rc<[u8]>, u64)>, u64);

impl Machine {
    fn new(system: SystemActor, node: &HostName, env: &Env) -> Self {
        match system {
            SystemActor::Scheduler => Self::Scheduler(Box::new(Scheduler::new(node.to_string(), 0))),
            SystemActor::Failover => Self::Failover(Box::new(Failover::new(node.to_string(), 0).with_faults(env.faults()))),
        }
    }

    fn handle_failure(&mut self, now: Millis) {
        match self {
            Self::Scheduler(scheduler) => scheduler.handle_failure(now),
            Self::Failover(failover) => failover.handle_failure(now),
        }
    }

    fn handle_conflict(&mut self, now: Millis) {
        match self {
            Self::Scheduler(scheduler) => scheduler.handle_conflict(now),
            Self::Failover(failover) => failover.handle_conflict(now),
        }
    }
}

impl Replica {
    /// A replica that knows nothing yet.
    pub(super) fn new(system: SystemActor, node: &HostName, start: u32, began: Millis, env: &Env) -> Self {
        let (machine, queue) = (Machine::new(system, node, env), VecDeque::new());
        Self { start, system, machine, began, heard: 0, queue, steps: 0, waiting: None, ear: Ear::default() }
    }

    /// Takes the next message in hand.
    fn hear(&mut self, subject: &Rc<str>, body: &Rc<[u8]>, now: Millis, wall_ms: u64) {
        self.steps = MAX_STEPS;
        self.ear.hear(subject, body, now);
        let gap = now.saturating_sub(std::mem::replace(&mut self.heard, now));
        match &mut self.machine {
            Machine::Scheduler(machine) => {
                if gap > machine.fresh_for_ms() {
                    machine.handle_reconnected();
                }
                match Heard::of_subject(subject) {
                    Some((_, Heard::Heartbeat)) => machine.handle_heartbeat(subject, body, now),
                    Some((_, Heard::DesiredChanged)) => machine.handle_desired_changed(),
                    Some((_, Heard::VerdictChanged)) => machine.handle_verdict_changed(),
                    Some((_, Heard::PolicyChanged)) => machine.handle_policy_changed(),
                    Some((_, Heard::Question(_))) | None => {}
                }
            }
            Machine::Failover(machine) => machine.handle_message(subject, body, now, wall_ms),
        }
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
        let Some(replica) = self.replica(actor) else { return };
        *replica = Replica::new(replica.system, &name, replica.start + 1, now, env);
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
            let (local, wall_ms) = (self.clock.now_ms(env.now), self.clock.wall_ms(env.now));
            let Some(replica) = self.replica(actor) else { return };
            let now = local.saturating_sub(replica.began);
            if replica.waiting.is_some() {
                return;
            }
            if replica.steps > 0 {
                replica.steps -= 1;
                self.step(actor, now, env);
                continue;
            }
            let Some((subject, body)) = replica.queue.pop_front() else { return };
            replica.hear(&subject, &body, now, wall_ms);
        }
    }

    /// One step of a replica, if there is one.
    fn step(&mut self, actor: &ActorId, now: Millis, env: &mut Env) {
        let Some(replica) = self.replica(actor) else { return };
        match &mut replica.machine {
            Machine::Scheduler(machine) => match machine.poll_step(now) {
                Some(step) => self.schedule(actor, step, env),
                None => replica.steps = 0,
            },
            Machine::Failover(machine) => match machine.poll_step(now) {
                Some(step) => self.fail_over(actor, step, env),
                None => replica.steps = 0,
            },
        }
    }

    /// A step of the scheduler.
    fn schedule(&mut self, actor: &ActorId, step: scheduler::Step, env: &mut Env) {
        use scheduler::Step;
        let lattice = scene::lattice();
        let [desired, plan, verdicts] = streams();
        match step {
            Step::AskHosts => self.publish(&subject::request_all(&lattice, Verb::Report), Vec::new(), env),
            Step::Probe(probe) => self.publish(&subject::probe(&lattice), wire::encode(&probe), env),
            Step::Look => self.ask(actor, Waiting::Look, Call::Info(vec![desired, plan, verdicts, policy::stream()]), env),
            Step::ReadVerdicts => self.ask(actor, Waiting::Verdicts, Call::List(verdicts), env),
            Step::ReadPolicies => self.ask(actor, Waiting::Policies, Call::List(policy::stream()), env),
            Step::Read => self.ask(actor, Waiting::PlanThenDesired, Call::List(plan), env),
            Step::Commit(keys) => self.commit(actor, &subject::plan_bucket(&lattice), keys, env),
            Step::Record(_) => {}
        }
    }

    /// A step of the failover actor.
    fn fail_over(&mut self, actor: &ActorId, step: failover::Step, env: &mut Env) {
        use failover::Step;
        let lattice = scene::lattice();
        let [desired, plan, verdicts] = streams();
        let (plan_bucket, verdict_bucket) = (subject::plan_bucket(&lattice), subject::verdict_bucket(&lattice));
        let lease = |key: &str| format!("{}.{key}", subject::lease_prefix(&lattice));
        match step {
            Step::AskHosts => self.publish(&subject::request_all(&lattice, Verb::Report), Vec::new(), env),
            Step::Ask(host) => self.publish(&subject::request(&lattice, &host, Verb::Report), Vec::new(), env),
            Step::Wake { host, after_ms } => {
                self.publish(&subject::request(&lattice, &host, Verb::Report), wire::encode(&ReportQuery { after_ms }), env);
            }
            Step::Look => self.ask(actor, Waiting::Look, Call::Info(vec![desired, plan, verdicts]), env),
            Step::ReadDesired => self.ask(actor, Waiting::Desired(None), Call::List(desired), env),
            Step::ReadPlan => self.ask(actor, Waiting::Plan, Call::List(plan), env),
            Step::ReadPlanKeys(keys) => {
                let subjects = keys.iter().map(|key| subject::bucket_key(&plan_bucket, key)).collect();
                self.ask(actor, Waiting::PlanKeys, Call::GetMany(plan, subjects), env);
            }
            Step::ReadVerdicts => self.ask(actor, Waiting::Verdicts, Call::List(verdicts), env),
            Step::ReadVerdict(key) => {
                let call = Call::Get { stream: verdicts, subject: subject::bucket_key(&verdict_bucket, &key), leader: true };
                self.ask(actor, Waiting::Verdict(key), call, env);
            }
            Step::Commit(key) => {
                self.check_verdict(actor, &key, env);
                self.commit(actor, &verdict_bucket, vec![key], env);
            }
            Step::ReadLease { host, key } => {
                let call = Call::Get { stream: subject::lease_stream(&lattice), subject: lease(&key), leader: true };
                self.ask(actor, Waiting::Lease(host), call, env);
            }
            Step::RevokeLease { host, key, expected, value } => {
                let subject = lease(&key);
                let id = Some(self.fresh_id(actor));
                let put = Put { body: Some(Rc::from(value)), expected: Some((subject.clone(), expected.0)), subject, id, ttl: None };
                let call = Call::Store { stream: subject::lease_stream(&lattice), batch: vec![put], again: false };
                self.ask(actor, Waiting::Revoked(host), call, env);
            }
            Step::Publish(event) => {
                env.note(format_args!("h{} says {:?} {}", self.ix, event.kind, event.message));
                let subject = subject::event(&lattice, &event.region, &event.host, event.kind.token());
                self.publish(&subject, wire::encode(&*event), env);
            }
            Step::Record { .. } => {}
        }
    }

    /// Whoever this replica hears must not be taken for gone by it.
    fn check_verdict(&mut self, actor: &ActorId, change: &KeyChange, env: &mut Env) {
        let local = self.clock.now_ms(env.now);
        let ix = self.ix;
        let Some(replica) = self.replica(actor) else { return };
        let Ok(verdict) = wire::decode::<Verdict>(&change.value) else { return };
        let known = env.watch.standing(&verdict.host).filter(|known| known.incarnation == verdict.incarnation);
        let doubts = matches!(verdict.standing, Standing::Dead | Standing::Suspect);
        // What loses its race is no verdict.
        let is_overtaken = env.watch.is_overtaken(&verdict.host, change.expected);
        if !doubts || is_overtaken || known.is_some_and(|known| known.standing == Standing::Dead) {
            return;
        }
        let now = local.saturating_sub(replica.began);
        let back_for = now.saturating_sub(replica.ear.back);
        if verdict.evidence == Evidence::Silent && back_for < SURELY_HEARD {
            let what = format!("h{ix} hears again for {back_for} ms and makes {} {:?}", verdict.name, verdict.standing);
            env.watch.fail(Rule::FalseVerdict, what);
        }
        let Some(heard) = replica.ear.heard(&verdict) else { return };
        let wrong = match verdict.evidence {
            Evidence::Silent => now.saturating_sub(heard) < SURELY_HEARD,
            Evidence::ProcessGone | Evidence::LinkDown => replica.ear.cut(&verdict).is_none_or(|cut| heard > cut),
            Evidence::Heard | Evidence::Left | Evidence::Errors | Evidence::Operator => false,
        };
        if wrong {
            let ago = now.saturating_sub(heard);
            let what =
                format!("h{ix} heard {} {ago} ms ago and takes it for gone: {:?} {}", verdict.name, verdict.evidence, verdict.reason);
            env.watch.fail(Rule::FalseVerdict, what);
        }
    }

    /// An id that no other write has.
    fn fresh_id(&self, actor: &ActorId) -> String {
        let number = self.process.as_ref().map_or(0, |process| process.next_call);
        format!("{}.{actor}.{}.{number}", self.ix, self.boot)
    }

    fn commit(&mut self, actor: &ActorId, bucket: &str, keys: Vec<KeyChange>, env: &mut Env) {
        let id = self.fresh_id(actor);
        let put = |(number, change): (usize, KeyChange)| {
            let subject = subject::bucket_key(bucket, &change.key);
            let expected = change.expected.map(|revision| (subject.clone(), revision.0));
            Put { subject, body: Some(Rc::from(change.value)), expected, id: Some(format!("{id}.{number}")), ttl: None }
        };
        let batch = keys.into_iter().enumerate().map(put).collect();
        self.ask(actor, Waiting::Commit, Call::Store { stream: bucket_stream(bucket), batch, again: false }, env);
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
        let Some(replica) = self.replica(actor).filter(|replica| replica.start == start) else { return };
        let now = local.saturating_sub(replica.began);
        match (replica.waiting.take(), reply) {
            (Some(Waiting::PlanThenDesired), Reply::Listed(entries, last)) => {
                let listing = Listing::new(&subject::plan_bucket(&scene::lattice()), entries, last);
                let [desired, ..] = streams();
                return self.ask(actor, Waiting::Desired(Some(listing)), Call::List(desired), env);
            }
            (Some(Waiting::Commit), Reply::Refused(Refusal::WrongSequence | Refusal::Busy)) => replica.machine.handle_conflict(now),
            (Some(waiting), reply) => {
                let understood = match &mut replica.machine {
                    Machine::Scheduler(machine) => scheduled(machine, waiting, reply, now, wall_ms),
                    Machine::Failover(machine) => failed_over(machine, waiting, reply, now),
                };
                if !understood {
                    replica.machine.handle_failure(now);
                }
            }
            (None, _) => {}
        }
        // The next step is another turn of the actor's thread.
        env.at(env.now, Event::Host(self.ix, self.boot, HostEvent::Actor(actor.clone(), start)));
    }
}

/// Tells the scheduler an answer; whether it is one to what was asked.
fn scheduled(machine: &mut Scheduler, waiting: Waiting, reply: Reply, now: Millis, wall_ms: u64) -> bool {
    let lattice = scene::lattice();
    match (waiting, reply) {
        (Waiting::Look, Reply::Last(last)) => {
            machine.handle_revisions(Revision(last[0]), Revision(last[1]), Revision(last[2]), Revision(last[3]));
        }
        (Waiting::Policies, Reply::Listed(entries, last)) => {
            let listing = Listing::new(&subject::policy_bucket(&lattice), entries, last);
            let read = machine.handle_policies(listing.entries().map(|(key, value, _)| (key, value)), Revision(last));
            read.expect("what is stored makes sense");
        }
        (Waiting::Verdicts, Reply::Listed(entries, last)) => {
            let listing = Listing::new(&subject::verdict_bucket(&lattice), entries, last);
            machine
                .handle_verdicts(listing.entries().map(|(key, value, _)| (key, value)), Revision(last))
                .expect("what is stored makes sense");
        }
        (Waiting::Desired(Some(plan)), Reply::Listed(entries, last)) => {
            let desired = Listing::new(&subject::desired_bucket(&lattice), entries, last);
            let wanted = desired.entries().map(|(key, value, _)| (key, value));
            let read = machine.handle_stored(plan.entries(), Revision(plan.1), wanted, Revision(last), now);
            read.expect("what is stored makes sense");
        }
        (Waiting::Commit, Reply::Stored(sequence)) => machine.handle_committed(Revision(sequence), wall_ms),
        _ => return false,
    }
    true
}

/// The same for the failover actor.
fn failed_over(machine: &mut Failover, waiting: Waiting, reply: Reply, now: Millis) -> bool {
    let lattice = scene::lattice();
    match (waiting, reply) {
        (Waiting::Look, Reply::Last(last)) => machine.handle_revisions(Revision(last[0]), Revision(last[1]), Revision(last[2])),
        (Waiting::Verdicts, Reply::Listed(entries, last)) => {
            let listing = Listing::new(&subject::verdict_bucket(&lattice), entries, last);
            machine.handle_verdicts(listing.entries(), Revision(last), now);
        }
        (Waiting::Plan, Reply::Listed(entries, last)) => {
            machine.handle_plan(Listing::new(&subject::plan_bucket(&lattice), entries, last).entries(), Revision(last), now);
        }
        (Waiting::PlanKeys, Reply::Listed(entries, last)) => {
            machine.handle_plan_keys(Listing::new(&subject::plan_bucket(&lattice), entries, last).entries(), now);
        }
        (Waiting::Desired(None), Reply::Listed(entries, last)) => {
            let listing = Listing::new(&subject::desired_bucket(&lattice), entries, last);
            machine.handle_desired(listing.entries().map(|(key, value, _)| (key, value)), Revision(last));
        }
        (Waiting::Verdict(key), Reply::Found(found)) => {
            machine.handle_verdict(&key, found.as_ref().map(|(value, sequence)| (&**value, Revision(*sequence))), now);
        }
        (Waiting::Commit, Reply::Stored(sequence)) => machine.handle_committed(Revision(sequence), now),
        (Waiting::Lease(host), Reply::Found(found)) => {
            machine.handle_lease(&host, found.as_ref().map(|(value, sequence)| (&**value, Revision(*sequence))), now);
        }
        (Waiting::Revoked(host), Reply::Stored(_)) => machine.handle_revoked(&host, now),
        (Waiting::Revoked(host), Reply::Refused(_)) => machine.handle_renewed(&host),
        _ => return false,
    }
    true
}

impl Listing {
    fn new(bucket: &str, entries: Vec<(Rc<str>, Rc<[u8]>, u64)>, last: u64) -> Self {
        let prefix = subject::bucket_key(bucket, "");
        let entry =
            |(subject, body, sequence): (Rc<str>, Rc<[u8]>, u64)| Some((subject.strip_prefix(&prefix)?.to_owned(), (body, sequence)));
        Self(entries.into_iter().filter_map(entry).collect(), last)
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &[u8], Revision)> {
        self.0.iter().map(|(key, (value, sequence))| (key.as_str(), &**value, Revision(*sequence)))
    }
}

/// Streams of desired state, plan and verdicts.
fn streams() -> [String; 3] {
    let lattice = scene::lattice();
    [subject::desired_bucket(&lattice), subject::plan_bucket(&lattice), subject::verdict_bucket(&lattice)]
        .map(|bucket| bucket_stream(&bucket))
}
