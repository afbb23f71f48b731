//! One host: the real agent, ownership and lease, in a shell that does with a model what `lattice-host` does with NATS and
//! wasmtime.
//!
//! * `calls`: requests and what their answers are for
//! * `policy`: what is in force
//! * `slot`: what runs a slot of an actor with owners
//! * `replica`: what runs a replica of a system actor

mod calls;
mod policy;
mod replica;
mod slot;

use std::collections::BTreeMap;
use std::rc::Rc;

use lattice_core::agent::plan_gate::Origin;
use lattice_core::agent::{Action, Agent, LoadedCode, Obstacle};
use lattice_core::fault::Fault;
use lattice_core::heartbeat::Heartbeats;
use lattice_core::id::{ActorId, Generation, HostId, HostName, Incarnation, Region};
use lattice_core::lease::{self, Lease};
use lattice_core::link::{Delivery, KindSettings};
use lattice_core::ownership::{self, Owner, SlotId};
use lattice_core::subject::{self, Heard, SubjectPattern, Verb};
use lattice_core::system::SystemActor;
use lattice_core::timing::{LEASE_TTL, OFFLINE_START_AFTER, RESYNC_INTERVAL, TimingProfile};
use lattice_core::wire;
use lattice_core::wire::assignment::{Assignment, ComponentAssignment};
use lattice_core::wire::event::{Event as Happened, EventKind};
use lattice_core::wire::report::{ComponentReport, HostReport, HostState, Profile};
use lattice_core::wire::request::ReportQuery;
use lattice_core::wire::verdict;

use crate::clock::{Clock, Millis};
use crate::env::{Call, Env, Event, HostEvent, HostIx, Inbox, Reply, Request, WorldEvent, incarnation};
use crate::invariants::Rule;
use crate::scene;
use crate::store::Put;
use calls::{After, Pending};
use policy::Policies;
use replica::Replica;
use slot::SlotWork;

/// Pause before the plan is read again after it could not be.
const REREAD: Millis = 400;
/// Room of a host: far more than what is asked for, so that everything always finds a place.
const PROFILE: Profile = Profile { cpu_capacity: 8000, memory_mb: 16_384, cpu_used: 0, memory_used_mb: 0 };

/// A machine that may run a host.
#[derive(Debug)]
pub struct Host {
    /// Its place in the world.
    pub ix: HostIx,
    /// Identity.
    pub id: HostId,
    /// Name.
    pub name: HostName,
    /// Region.
    pub region: Region,
    /// Its clocks.
    pub clock: Clock,
    /// Starts so far.
    pub boot: u32,
    /// Whether the process is stopped by a signal.
    pub paused: bool,
    /// The process, if it runs.
    pub process: Option<Process>,
    /// What waits for the process to go on.
    frozen: Vec<HostEvent>,
    /// The assignment on its disk.
    disk: Option<Assignment>,
    /// The policies on its disk.
    policies: Option<policy::Disk>,
}

/// What lives as long as the process.
#[derive(Debug)]
pub struct Process {
    incarnation: Incarnation,
    agent: Agent,
    owner: Owner,
    lease: Lease,
    /// Whether the lease was held when it was looked at last.
    leased: bool,
    /// It was held once and lost since.
    lapsed: bool,
    timing: TimingProfile,
    heartbeats: Heartbeats,
    beats: u64,
    calls: BTreeMap<u64, Pending>,
    next_call: u64,
    running: BTreeMap<ActorId, ComponentAssignment>,
    replicas: BTreeMap<ActorId, Replica>,
    slots: BTreeMap<SlotId, SlotWork>,
    reading: bool,
    read_again: bool,
    resync: u32,
    wake: Option<Millis>,
    followed: Generation,
    slot_starts: u32,
    policies: Policies,
}

impl Host {
    /// A machine on which nothing was ever started.
    pub fn new(ix: HostIx, region: Region, clock: Clock) -> Self {
        let (id, name) = (scene::host_id(ix), scene::host_name(ix));
        Self { ix, id, name, region, clock, boot: 0, paused: false, process: None, frozen: Vec::new(), disk: None, policies: None }
    }

    /// Name of its main connection.
    pub fn connection_name(&self) -> String {
        subject::connection_name(&self.id, &self.incarnation())
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// This start of the host.
    pub fn incarnation(&self) -> Incarnation {
        incarnation(self.boot)
    }

    /// Starts the process.
    pub fn start(&mut self, env: &mut Env) {
        self.boot += 1;
        let own = self.incarnation();
        env.note(format_args!("h{} start {own}", self.ix));
        let faults = env.faults();
        let now = self.clock.now(env.now);
        let (id, timing) = (self.id.clone(), TimingProfile::default());
        let (policies, force) = Policies::restore(self, env.fault != Some(Fault::StartsBeforePolicies), now);
        let enforced = policies.enforced(&force);
        self.process = Some(Process {
            agent: Agent::new(id.clone(), own.clone(), force, enforced).with_faults(faults),
            owner: Owner::new(id.clone(), own.clone()).with_faults(faults),
            lease: Lease::new(id, own.clone(), timing).with_faults(faults),
            leased: false,
            lapsed: false,
            timing,
            heartbeats: Heartbeats::default(),
            beats: 0,
            calls: BTreeMap::new(),
            next_call: 0,
            running: BTreeMap::new(),
            replicas: BTreeMap::new(),
            slots: BTreeMap::new(),
            reading: false,
            read_again: false,
            resync: 0,
            wake: None,
            followed: Generation(0),
            slot_starts: 0,
            policies,
            incarnation: own.clone(),
        });
        self.subscribe(env);
        env.at(env.now + 1, Event::World(WorldEvent::Connect(self.ix, self.boot)));
        env.at(env.now + 2, Event::Host(self.ix, self.boot, HostEvent::Wake));
        let offline = self.clock.when(now.saturating_add(OFFLINE_START_AFTER));
        env.at(offline, Event::Host(self.ix, self.boot, HostEvent::Follow));
    }

    /// The process is gone, however that came.
    pub fn stop(&mut self, env: &mut Env) {
        self.process = None;
        self.paused = false;
        self.frozen.clear();
        env.links[self.ix].host_sees = false;
        env.links[self.ix].subscriptions.clear();
        env.watch.handle_gone(self.ix);
    }

    /// The process is stopped by a signal.
    pub fn pause(&mut self, env: &mut Env) {
        self.paused = true;
        env.watch.handle_paused(self.ix);
    }

    /// The process goes on.
    pub fn resume(&mut self, env: &mut Env) {
        self.paused = false;
        // The thread that watches the lease is as quick as any other, and looks before anything else is done for a slot.
        self.watch_lease(env);
        self.settle(env);
        env.watch.handle_resumed(self.ix);
        for what in std::mem::take(&mut self.frozen) {
            env.at(env.now, Event::Host(self.ix, self.boot, what));
        }
    }

    /// Something arrives on a connection.
    pub fn handle_down(&mut self, conn: u32, what: &HostEvent, env: &mut Env) {
        let link = &env.links[self.ix];
        if link.conn == conn && link.host_sees {
            self.handle(self.boot, what.clone(), env);
        }
    }

    /// Something happens within a start of the host.
    pub fn handle(&mut self, boot: u32, what: HostEvent, env: &mut Env) {
        if boot != self.boot || self.process.is_none() {
            return;
        }
        if self.paused {
            self.frozen.push(what);
            return;
        }
        self.watch_lease(env);
        self.take(what, env);
        self.follow_plan(env);
        self.settle(env);
        self.check_policy(env);
    }

    fn take(&mut self, what: HostEvent, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        match what {
            HostEvent::Message(Inbox::Host, subject, body) => self.handle_told(&subject, &body, env),
            HostEvent::Message(Inbox::Actor(actor), subject, body) => self.handle_for_actor(&actor, subject, body, env),
            HostEvent::Reply(number, reply) => self.handle_reply(number, reply, env),
            HostEvent::Unheard(number, attempt) => self.handle_unheard(number, attempt, env),
            HostEvent::Deliver(consumer, sequence, body) => self.handle_delivery(&consumer, sequence, &body, env),
            HostEvent::Connected => {
                self.beat(env);
                self.note_connection(true, env);
                self.read_assignment(env);
                self.pull_again(env);
            }
            HostEvent::Disconnected => self.note_connection(false, env),
            HostEvent::Wake => {
                process.wake = None;
                process.agent.handle_timeout(now);
                process.owner.handle_timeout(now);
                if process.heartbeats.is_due(now) {
                    self.beat(env);
                }
            }
            HostEvent::Resync(number) => {
                if process.resync == number {
                    self.read_assignment(env);
                }
            }
            HostEvent::PolicyResync(number) => self.resync_policies(number, env),
            // Looked at after each event.
            HostEvent::Follow => {}
            HostEvent::Loaded(actor, digest, ok) => {
                let code = LoadedCode { shape: scene::shape(&actor), claim: None };
                let outcome = if ok { Ok(code) } else { Err((Obstacle::Failed("it could not be fetched".to_owned()), true)) };
                process.agent.handle_loaded(&actor, &digest, outcome, now);
            }
            HostEvent::Provider(id, ok) => {
                let outcome = if ok { Ok(()) } else { Err("it could not be reached".to_owned()) };
                process.agent.handle_provider(&id, outcome, now);
            }
            HostEvent::Actor(actor, start) => self.wake_replica(&actor, start, env),
            HostEvent::Slot(slot, turn) => self.wake_slot(&slot, turn, env),
            HostEvent::Drained => self.leave(env),
        }
    }

    /// A message for the host itself.
    fn handle_told(&mut self, subject: &str, body: &[u8], env: &mut Env) {
        if subject == subject::planned(&scene::lattice(), &self.id) {
            self.read_assignment(env);
        } else if matches!(Heard::of_subject(subject), Some((_, Heard::PolicyChanged))) {
            self.read_policies(env);
        } else if Verb::of_subject(subject) == Some(Verb::Report)
            && let Some(process) = &mut self.process
        {
            process.heartbeats.handle_asked(ReportQuery::delay(body), self.clock.now(env.now));
        }
    }

    /// Stops what needs the lease once its deadline has passed, and begins again when it is held.
    fn watch_lease(&mut self, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        let held = process.lease.is_held(now);
        if process.leased && !held {
            (process.leased, process.lapsed) = (false, true);
            env.note(format_args!("h{} lease lost", self.ix));
            process.owner.handle_lease_lost();
            self.own(env);
        }
    }

    /// Carries out what the state machines want until they want nothing more.
    fn settle(&mut self, env: &mut Env) {
        for _ in 0..1000 {
            let acted = self.act(env) | self.own(env) | self.keep_lease(env);
            if !acted {
                break;
            }
        }
        self.sleep(env);
    }

    fn act(&mut self, env: &mut Env) -> bool {
        let mut acted = false;
        while let Some(action) = self.process.as_mut().and_then(|process| process.agent.poll_action()) {
            acted = true;
            match action {
                Action::Persist(assignment) => self.disk = Some(*assignment),
                Action::StartProvider(id, _) => {
                    let (after, ok) = (env.dice.within(1, 20), !env.dice.chance(env.chances.start_fails));
                    env.at(env.now + after, Event::Host(self.ix, self.boot, HostEvent::Provider(id, ok)));
                }
                Action::StopProvider(_) => {}
                Action::Load(actor, digest) => {
                    let (after, ok) = (env.dice.within(1, 80), !env.dice.chance(env.chances.start_fails));
                    env.at(env.now + after, Event::Host(self.ix, self.boot, HostEvent::Loaded(actor, digest, ok)));
                }
                Action::Run(actor, settings) => self.run(actor, *settings, env),
                Action::Stop(actor) => self.halt(&actor, env),
                Action::Drain => {
                    let after = env.dice.within(1, 300);
                    env.at(env.now + after, Event::Host(self.ix, self.boot, HostEvent::Drained));
                }
                Action::Report => self.beat(env),
                Action::Record(kind, message, _) => env.note(format_args!("h{} {kind:?} {message}", self.ix)),
                Action::Audit(actor, what) => env.note(format_args!("h{} {actor} {what}", self.ix)),
            }
        }
        acted
    }

    fn run(&mut self, actor: ActorId, settings: ComponentAssignment, env: &mut Env) {
        let now = self.clock.now_ms(env.now);
        let Some(process) = &mut self.process else { return };
        let system = SystemActor::ALL.into_iter().find(|system| system.as_str() == actor.as_str());
        if let Some(system) = system {
            let start = || Replica::new(system, &self.name, 0, now, env);
            process.replicas.entry(actor.clone()).or_insert_with(start);
        }
        process.owner.handle_actor(&actor, true);
        process.running.insert(actor, settings);
        self.subscribe(env);
    }

    fn halt(&mut self, actor: &ActorId, env: &mut Env) {
        if let Some(process) = &mut self.process {
            process.running.remove(actor);
            process.replicas.remove(actor);
            process.owner.handle_actor(actor, false);
        }
        self.subscribe(env);
    }

    fn own(&mut self, env: &mut Env) -> bool {
        let mut acted = false;
        while let Some(action) = self.process.as_mut().and_then(|process| process.owner.poll_action()) {
            acted = true;
            match action {
                ownership::Action::Read(slot) => {
                    let (stream, subject) = (scene::bucket_stream(slot.actor.as_str()), epoch_subject(&slot));
                    self.call(After::SlotRead(slot), Call::Get { stream, subject, leader: true }, 1, env);
                }
                ownership::Action::Claim { slot, expected, record } => {
                    let (stream, subject) = (scene::bucket_stream(slot.actor.as_str()), epoch_subject(&slot));
                    let put = Put {
                        body: Some(Rc::from(wire::encode(&record))),
                        expected: Some((subject.clone(), expected)),
                        subject,
                        ..Put::default()
                    };
                    let call = Call::Store { stream, batch: vec![put], again: false };
                    self.call(After::SlotClaimed(slot, expected), call, 1, env);
                }
                ownership::Action::Start { slot, epoch } => self.start_slot(slot, epoch, env),
                ownership::Action::Stop(slot) => self.stop_slot(&slot, env),
                ownership::Action::Report => self.beat(env),
                ownership::Action::Record(kind, message, _) => env.note(format_args!("h{} {kind:?} {message}", self.ix)),
            }
        }
        acted
    }

    fn keep_lease(&mut self, env: &mut Env) -> bool {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return false };
        if !process.leased && process.lease.is_held(now) {
            process.leased = true;
            if process.lapsed {
                // Others may have been told in the meantime that this lease has ended.
                let (stream, key) = (bucket_stream(&subject::verdict_bucket(&scene::lattice())), verdict::host_key(&self.id));
                let subject = subject::bucket_key(&subject::verdict_bucket(&scene::lattice()), &key);
                self.call(After::OwnVerdict, Call::Get { stream, subject, leader: true }, 1, env);
            } else {
                let void = process.lease.is_void();
                process.owner.handle_lease_held(void);
            }
            return true;
        }
        let Some(action) = process.lease.poll(now) else { return false };
        let (stream, subject) = (subject::lease_stream(&scene::lattice()), subject::lease(&scene::lattice(), &self.region, &self.id));
        match action {
            lease::Action::Read => self.call(After::LeaseRead, Call::Get { stream, subject, leader: true }, 1, env),
            lease::Action::Renew { expected, record } => {
                let ttl = (env.fault != Some(Fault::RenewsWithoutTtl)).then_some(LEASE_TTL.as_millis() as Millis);
                let body = Some(Rc::from(wire::encode(&record)));
                let put = Put { body, expected: Some((subject.clone(), expected)), subject, ttl, ..Put::default() };
                self.call(After::LeaseRenewed, Call::Store { stream, batch: vec![put], again: false }, 1, env);
            }
        }
        true
    }

    /// Wakes up when the first of the state machines wants to.
    fn sleep(&mut self, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        // A deadline that has passed was seen to already.
        let lease = process.lease.deadline().filter(|deadline| process.leased && *deadline > now);
        let beat = Some(process.heartbeats.poll_timeout());
        let times = [process.agent.poll_timeout(), process.owner.poll_timeout(), process.lease.poll_timeout(), lease, beat];
        let Some(first) = times.into_iter().flatten().min() else { return };
        let when = self.clock.when(first).max(env.now + 1);
        if process.wake.is_none_or(|wake| when < wake || wake <= env.now) {
            process.wake = Some(when);
            env.at(when, Event::Host(self.ix, self.boot, HostEvent::Wake));
        }
    }

    fn read_assignment(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        if process.reading {
            process.read_again = true;
            return;
        }
        process.reading = true;
        let bucket = subject::plan_bucket(&scene::lattice());
        let subject = subject::bucket_key(&bucket, &subject::assignment_key(&self.id));
        self.call(After::Assignment, Call::Get { stream: bucket_stream(&bucket), subject, leader: true }, 1, env);
    }

    fn handle_assignment_read(&mut self, reply: Reply, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        let again = std::mem::take(&mut process.read_again);
        (process.reading, process.resync) = (false, process.resync + 1);
        let number = process.resync;
        let pause = match reply {
            Reply::Found(found) => {
                process.policies.gate.handle_plan(found.and_then(|(body, _)| wire::decode(&body).ok()));
                if again { 1 } else { RESYNC_INTERVAL.as_millis() as Millis }
            }
            _ => REREAD,
        };
        env.at(env.now + pause, Event::Host(self.ix, self.boot, HostEvent::Resync(number)));
    }

    /// Follows the plan if there is one that need not wait any more.
    fn follow_plan(&mut self, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        let Some((Some(assignment), origin)) = process.policies.gate.poll(now) else { return };
        if process.agent.is_draining() {
            return;
        }
        let (generation, timing, components) = (assignment.generation, assignment.timing, assignment.components.clone());
        match process.agent.handle_assignment(assignment, origin == Origin::Disk) {
            Ok(()) => {
                process.timing = timing;
                process.lease.set_timing(timing);
                process.owner.handle_assignment(&components);
                if generation > process.followed {
                    env.note(format_args!("h{} follows {generation} from {origin:?}", self.ix));
                    if process.policies.are_awaited(now) {
                        env.watch.fail(Rule::StartedEarly, format!("h{} follows {generation} before it has read the policies", self.ix));
                    }
                }
                process.followed = generation;
                env.watch.handle_followed(&self.id, generation);
            }
            Err(refusal) => env.note(format_args!("h{} refuses: {refusal}", self.ix)),
        }
    }

    /// Subscribes to what the host and its system actors hear.
    fn subscribe(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let lattice = scene::lattice();
        let told = [subject::planned(&lattice, &self.id), subject::policy_changes(&lattice)];
        let own = subject::requests_for(&lattice, &self.id).into_iter().chain(told);
        let mut all: Vec<(SubjectPattern, Inbox)> = own.map(|text| (SubjectPattern::new(text).unwrap(), Inbox::Host)).collect();
        for actor in process.replicas.keys() {
            for link in process.running.get(actor).into_iter().flat_map(|settings| &settings.links) {
                let KindSettings::Messaging(messaging) = &link.settings.kind else { continue };
                if messaging.delivery == Delivery::Broadcast {
                    all.extend(messaging.subscriptions.iter().map(|pattern| (pattern.clone(), Inbox::Actor(actor.clone()))));
                }
            }
        }
        env.links[self.ix].subscriptions = all;
    }

    /// Sends a heartbeat.
    fn beat(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        process.beats += 1;
        process.heartbeats.handle_sent(process.timing.heartbeat(), self.clock.now(env.now));
        let report = self.report(env.now);
        let subject = subject::heartbeat(&report.lattice, &report.region, &report.id);
        self.publish(&subject, wire::encode(&report), env);
    }

    fn publish(&self, subject: &str, body: Vec<u8>, env: &mut Env) {
        env.send_up(self.ix, Request::Publish(Rc::from(subject), Rc::from(body)));
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("region".to_owned(), self.region.to_string())])
    }

    /// What the host says of itself.
    pub fn report(&self, at: Millis) -> HostReport {
        let process = self.process.as_ref().expect("a host that reports runs");
        let component = |(id, state, digest, instances): (&ActorId, &_, &_, u32)| {
            let mut report = ComponentReport::new(lattice_core::id::Digest::clone(digest), Clone::clone(state), instances);
            report.slots = process.owner.owned(id).collect();
            report.lost = process.owner.lost(id).collect();
            report.held = process.agent.is_forbidden(id);
            (id.clone(), report)
        };
        HostReport {
            id: self.id.clone(),
            name: self.name.clone(),
            lattice: scene::lattice(),
            region: self.region.clone(),
            labels: self.labels(),
            incarnation: process.incarnation.clone(),
            seq: process.beats,
            version: "sim".to_owned(),
            state: if process.agent.is_draining() { HostState::Draining } else { HostState::Ready },
            uptime_seconds: 0,
            profile: PROFILE,
            applied_generation: process.agent.applied(),
            error_count: 0,
            lease_rev: if process.lease.is_held(self.clock.now(at)) { process.lease.sequence() } else { 0 },
            rtt_us: BTreeMap::new(),
            components: process.agent.components().map(component).collect(),
            providers: BTreeMap::new(),
            policy: Some(process.agent.enforced().clone()),
        }
    }

    /// Says `bye` and exits.
    fn leave(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let bye = Happened {
            kind: EventKind::Bye,
            host: self.id.clone(),
            host_name: self.name.clone(),
            region: self.region.clone(),
            incarnation: process.incarnation.clone(),
            at_ms: self.clock.wall_ms(env.now),
            message: format!("host {} leaves", self.name),
            details: BTreeMap::new(),
        };
        let subject = subject::event(&scene::lattice(), &self.region, &self.id, EventKind::Bye.token());
        self.publish(&subject, wire::encode(&bye), env);
        env.note(format_args!("h{} bye", self.ix));
        env.later(5, WorldEvent::ServerNotices(self.ix, env.links[self.ix].conn, "Client Closed"));
        self.stop(env);
    }

    /// Actors that run, with their instances; slots that run, for those with owners.
    pub fn running(&self) -> BTreeMap<ActorId, u32> {
        let Some(process) = &self.process else { return BTreeMap::new() };
        let instances = |(actor, settings): (&ActorId, &ComponentAssignment)| match &settings.ownership {
            Some(_) => (actor.clone(), u32::try_from(process.owner.owned(actor).count()).unwrap_or(u32::MAX)),
            None => (actor.clone(), settings.instances),
        };
        process.running.iter().map(instances).filter(|(_, instances)| *instances > 0).collect()
    }
}

fn bucket_stream(bucket: &str) -> String {
    subject::bucket_stream(bucket)
}

fn epoch_subject(slot: &SlotId) -> String {
    subject::epoch(&scene::lattice(), &scene::bucket(slot.actor.as_str()), &slot.actor, slot.slot)
}
