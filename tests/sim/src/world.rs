//! The world: hosts, server, operator and sensors, what breaks, and whether it comes to rest.

mod breaks;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use lattice_core::desired::Desired;
use lattice_core::fault::Fault;
use lattice_core::id::{ActorId, HostId, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::ownership::SlotId;
use lattice_core::plan::{self, PlanState};
use lattice_core::subject;
use lattice_core::system::SystemActor;
use lattice_core::wire::verdict::{Standing, Verdicts};

use self::breaks::unkind_chances;
use crate::clock::{Clock, Millis, RATES};
use crate::dice::Dice;
use crate::env::{Chances, Env, Event, WorldEvent};
use crate::host::Host;
use crate::invariants::{Breach, Rule, Seen};
use crate::operator::{self, Done};
use crate::policy::{Desk, Laggards};
use crate::scene;
use crate::server::Server;
use crate::store::{Put, Stream};

/// Within this time after the last fault everything that is wanted must run: a message about a change that got lost is made
/// up for by the look at the store every minute, twice if that made a new plan; the rest is for hosts that hold back.
pub const SETTLE_WITHIN: Millis = 150_000;
/// After this time the operator looks at what is in quarantine, if something is missing still.
const MEND_AFTER: Millis = 60_000;
/// Between two looks whether everything is as it should be.
const LOOK_EVERY: Millis = 500;
/// How long things break.
const SHORTEST: Millis = 15_000;
const LONGEST: Millis = 45_000;
/// Worlds, per mille, in which things break and stay broken for longer: leases end only after half a minute.
const PATIENT: u64 = 200;
/// When `up` makes the first plan.
const FIRST_PLAN_AT: Millis = 500;
/// Events after which a run is taken for one that never ends.
const MAX_EVENTS: u64 = 2_000_000;

/// What a run is like besides its seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A seeded bug.
    pub fault: Option<Fault>,
    /// Whether anything breaks at all.
    pub breaks: bool,
    /// Whether things surely stay broken for long enough that leases end.
    pub patient: bool,
    /// Whether the whole trace is kept.
    pub whole_trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fault: None, breaks: true, patient: false, whole_trace: false }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The rule that did not hold, if any.
    pub breach: Option<Breach>,
    /// Hash of the trace.
    pub hash: u64,
    /// The trace, or its end.
    pub trace: String,
    /// What the run was about.
    pub seen: Seen,
    /// How long after the last fault everything was as it should be.
    pub settled_after: Millis,
}

#[derive(Debug)]
struct Sensor {
    slot: SlotId,
    number: u32,
    /// The reading that is stored next.
    next: u64,
}

#[derive(Debug)]
struct World {
    env: Env,
    hosts: Vec<Host>,
    server: Server,
    sensors: Vec<Sensor>,
    policies: Desk,
    laggards: Laggards,
    usual: Chances,
    breaks: bool,
    /// How long something stays broken that does so for long.
    long: (Millis, Millis),
    calm_at: Millis,
    calm: bool,
    settled_after: Option<Millis>,
}

/// Runs the world of a seed until it has come to rest or a rule is broken.
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed, options);
    let mut events = 0_u64;
    while world.settled_after.is_none() && world.env.watch.breach().is_none() {
        let Some(event) = world.env.advance() else { break };
        events += 1;
        if events > MAX_EVENTS {
            world.env.watch.fail(Rule::Settled, format!("it goes on after {MAX_EVENTS} events"));
        }
        let stepped = panic::catch_unwind(AssertUnwindSafe(|| world.step(event)));
        if let Err(reason) = stepped {
            let text = reason.downcast_ref::<String>().cloned().or_else(|| reason.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            world.env.watch.fail(Rule::Panics, text.unwrap_or_default());
        }
    }
    let env = &world.env;
    Outcome {
        breach: env.watch.breach().cloned(),
        hash: env.trace.hash(),
        trace: env.trace.text(),
        seen: env.watch.seen,
        settled_after: world.settled_after.unwrap_or_default(),
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut dice = Dice::new(seed);
        let count = dice.within(3, 5) as usize;
        let patient = dice.chance(PATIENT) || options.patient;
        let long = if patient { (20_000, 60_000) } else { (3_000, 20_000) };
        let calm_at = dice.within(SHORTEST, LONGEST) + if patient { LONGEST } else { 0 };
        let unkind = options.breaks && dice.chance(600);
        let usual = if unkind { unkind_chances(&mut dice) } else { Chances::default() };
        let clocks = (0..count).map(|_| Clock::new(dice.within(RATES.0, RATES.1)));
        let hosts = clocks.enumerate().map(|(ix, clock)| Host::new(ix, scene::region(ix as u64 % 2), clock)).collect();
        let slots = scene::OWNED.iter().flat_map(|(name, _, slots)| (0..*slots).map(|slot| SlotId { actor: scene::actor(name), slot }));
        let sensor = |slot: SlotId| (0..scene::SENSORS_PER_SLOT).map(move |number| Sensor { slot: slot.clone(), number, next: 1 });
        let mut world = Self {
            env: Env::new(dice, count, options.fault, options.whole_trace),
            hosts,
            server: Server::furnished(),
            sensors: slots.flat_map(sensor).collect(),
            policies: Desk::new(seed),
            laggards: Laggards::default(),
            usual,
            breaks: options.breaks,
            long,
            calm_at,
            calm: false,
            settled_after: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let env = &mut self.env;
        operator::edit(&mut self.server, env, |desired| {
            SystemActor::ALL.into_iter().for_each(|system| scene::start_system(desired, system));
            scene::OWNED.iter().for_each(|(name, class, slots)| scene::start_owned(desired, name, *class, *slots));
        });
        for host in 0..self.hosts.len() {
            let after = env.dice.below(200);
            env.later(after, WorldEvent::Start(host));
        }
        for sensor in 0..self.sensors.len() {
            let after = env.dice.below(2_000);
            env.later(after, WorldEvent::Sensor(sensor));
        }
        env.later(FIRST_PLAN_AT, WorldEvent::FirstPlan);
        env.later(FIRST_PLAN_AT + 1_000, WorldEvent::Operator);
        env.later(FIRST_PLAN_AT + 3_000, WorldEvent::Break);
        let after = self.policies.pause();
        env.later(after, WorldEvent::Policy);
        env.later(self.calm_at, WorldEvent::Calm);
        env.chances = Chances::default();
    }

    fn step(&mut self, event: Event) {
        let env = &mut self.env;
        env.watch.handle_time(env.now);
        match event {
            Event::Request(host, conn, request) => self.server.handle(host, conn, request, env),
            Event::Down(host, conn, what) => self.hosts[host].handle_down(conn, &what, env),
            Event::Host(host, boot, what) => self.hosts[host].handle(boot, what, env),
            Event::World(what) => self.happen(what),
        }
        if let Some(host) = self.env.watch.take_revoked() {
            self.spite(&host);
        }
        self.laggards.check(&self.hosts, &self.policies, self.server.up, &mut self.env);
    }

    fn put_policy(&mut self) {
        if !self.calm {
            self.policies.act(&mut self.server, self.hosts.len(), &mut self.env);
            let after = self.policies.pause();
            self.env.later(after, WorldEvent::Policy);
        }
    }

    /// The worst moment for a host to come back is when its lease has just been ended.
    fn spite(&mut self, host: &HostId) {
        let Some(ix) = self.hosts.iter().position(|known| known.id == *host).filter(|_| !self.calm) else { return };
        if self.env.dice.chance(700) {
            let after = self.env.dice.within(0, 60);
            self.env.later(after, WorldEvent::Heal(ix));
            self.env.later(after, WorldEvent::Resume(ix, self.hosts[ix].boot));
        }
    }

    fn happen(&mut self, what: WorldEvent) {
        let env = &mut self.env;
        match what {
            WorldEvent::Operator => self.operate(),
            WorldEvent::Policy => self.put_policy(),
            WorldEvent::Break => self.break_something(),
            WorldEvent::Start(host) => {
                if !self.hosts[host].is_up() {
                    self.hosts[host].start(env);
                }
            }
            WorldEvent::Resume(host, boot) => self.resume(host, boot),
            WorldEvent::Heal(host) => self.heal(host),
            WorldEvent::ServerUp => self.server_up(),
            WorldEvent::ServerNotices(host, conn, reason) => self.server_notices(host, conn, reason),
            WorldEvent::HostNotices(host, conn) => self.host_notices(host, conn),
            WorldEvent::Connect(host, boot) => self.connect(host, boot),
            WorldEvent::Announce(name, reason) => self.server.announce(&name, reason, env),
            WorldEvent::Calmer => env.chances = if self.calm { Chances::default() } else { self.usual },
            WorldEvent::Redeliver(consumer) => self.server.deliver(&consumer, env),
            WorldEvent::Sensor(sensor) => self.measure(sensor),
            WorldEvent::FirstPlan => self.first_plan(),
            WorldEvent::Calm => self.make_calm(),
            WorldEvent::Look => self.look(),
        }
    }

    fn operate(&mut self) {
        if self.calm {
            return;
        }
        let env = &mut self.env;
        if let Done::Stopped(host) = operator::act(&mut self.server, &self.hosts, env) {
            let after = env.dice.within(4_000, 30_000);
            env.later(after, WorldEvent::Start(host));
        }
        let after = env.dice.within(500, 8_000);
        env.later(after, WorldEvent::Operator);
    }

    /// `up` plans once by itself: there is no scheduler yet.
    fn first_plan(&mut self) {
        let env = &mut self.env;
        let desired = operator::read(&self.server, env);
        let up: Vec<_> = self.hosts.iter().filter(|host| host.is_up()).map(|host| host.report(env.now)).collect();
        let stream = subject::bucket_stream(&subject::desired_bucket(&scene::lattice()));
        let revision = Revision(self.server.streams.get(&stream).map_or(0, Stream::last_sequence));
        let plan = plan::plan(&desired, revision, &Inventory::new(up, []), &Verdicts::default(), &PlanState::default());
        let bucket = subject::plan_bucket(&scene::lattice());
        let put = |change: plan::KeyChange| {
            let subject = subject::bucket_key(&bucket, &change.key);
            let expected = change.expected.map(|revision| (subject.clone(), revision.0));
            Put { subject, body: Some(Rc::from(change.value)), expected, ..Put::default() }
        };
        let batch: Vec<Put> = plan.batch(Revision(0)).into_iter().map(put).collect();
        self.server.store(None, &subject::bucket_stream(&bucket), &batch, None, env).expect("it is the first plan");
        env.chances = self.usual;
    }

    /// A sensor publishes; whether it hears that the reading is stored or not, it is stored once.
    fn measure(&mut self, index: usize) {
        let env = &mut self.env;
        let sensor = &mut self.sensors[index];
        let after = if self.server.up {
            let body = serde_json::to_vec(&[u64::from(sensor.number), sensor.next]).unwrap();
            let put = Put {
                subject: scene::input_subject(sensor.slot.actor.as_str(), sensor.slot.slot),
                body: Some(Rc::from(body)),
                id: Some(format!("sensor.{}.{}.{}", sensor.slot, sensor.number, sensor.next)),
                ..Put::default()
            };
            self.server.store(None, subject::EDGE_STREAM, std::slice::from_ref(&put), None, env).expect("nothing forbids it");
            env.watch.handle_accepted(&sensor.slot, sensor.number, sensor.next);
            if env.dice.chance(50) {
                // The answer gets lost, the reading comes again with the same id.
                50
            } else {
                sensor.next += 1;
                env.dice.within(500, 4_000)
            }
        } else {
            500
        };
        let actor = &sensor.slot;
        let consumer = scene::OWNED.iter().find(|(name, ..)| *name == actor.actor.as_str());
        let consumer = consumer.and_then(|(name, _, slots)| scene::consumers(name, *slots).into_iter().nth(actor.slot as usize));
        self.server.deliver(&consumer.unwrap_or_default(), env);
        if !self.calm {
            env.later(after, WorldEvent::Sensor(index));
        }
    }

    /// Everything that is broken is repaired, and the operator takes back what keeps hosts from working.
    fn make_calm(&mut self) {
        self.env.note(format_args!("calm"));
        self.calm = true;
        self.env.chances = Chances::default();
        self.server_up();
        operator::make_up(&mut self.server, &self.hosts, &mut self.env);
        self.policies.make_up(&mut self.server, self.hosts.len(), &mut self.env);
        for host in 0..self.hosts.len() {
            self.heal(host);
            self.resume(host, self.hosts[host].boot);
            if !self.hosts[host].is_up() {
                let after = self.env.dice.within(10, 2_000);
                self.env.later(after, WorldEvent::Start(host));
            }
        }
        self.env.later(LOOK_EVERY, WorldEvent::Look);
    }

    fn look(&mut self) {
        let after = self.env.now.saturating_sub(self.calm_at);
        // One that was told to stop before has done so.
        self.hosts.iter_mut().filter(|host| !host.is_up()).for_each(|host| host.start(&mut self.env));
        match self.unsettled() {
            None => {
                self.env.note(format_args!("settled after {after} ms"));
                self.settled_after = Some(after);
            }
            Some(what) if after > SETTLE_WITHIN => self.env.watch.fail(Rule::Settled, format!("after {SETTLE_WITHIN} ms: {what}")),
            Some(_) => {
                if (MEND_AFTER..MEND_AFTER + LOOK_EVERY).contains(&after) {
                    operator::mend(&mut self.server, &mut self.env);
                }
                self.env.later(LOOK_EVERY, WorldEvent::Look);
            }
        }
    }

    /// Whether a host takes work: one that returned too often has to wait for long.
    fn takes_work(&self, host: &Host) -> bool {
        self.env.watch.standing(&host.id).is_none_or(|verdict| verdict.standing == Standing::Healthy)
    }

    /// What is not as it should be.
    fn unsettled(&self) -> Option<String> {
        let desired = operator::read(&self.server, &self.env);
        let daemon = |actor: &ActorId| desired.components.get(actor).is_some_and(|spec| spec.needs.daemon);
        if let Some(host) = self.hosts.iter().find(|host| host.policy_version() < self.policies.version()) {
            return Some(format!("h{} enforces policy v{}, newest is v{}", host.ix, host.policy_version(), self.policies.version()));
        }
        let mut running: BTreeMap<ActorId, u32> = BTreeMap::new();
        for host in &self.hosts {
            for (actor, instances) in host.running().into_iter().filter(|(actor, _)| !daemon(actor) || self.takes_work(host)) {
                *running.entry(actor).or_default() += instances;
            }
        }
        let places = |actor: &ActorId| self.hosts.iter().filter(|host| self.takes_work(host) && host.allows(&desired, actor)).count();
        let mut wanted = wanted(&desired, places);
        // Where policies leave it no host that takes work, it may wait.
        let stuck = |actor: &ActorId| places(actor) == 0;
        wanted.retain(|actor, _| !stuck(actor));
        running.retain(|actor, _| !stuck(actor));
        if running != wanted {
            return Some(format!("{running:?} run, {wanted:?} are wanted"));
        }
        if let Some(what) = self.env.watch.unfinished() {
            return Some(what);
        }
        let busy = self
            .server
            .consumers
            .iter()
            .find(|(_, consumer)| self.server.streams.get(&consumer.stream).is_some_and(|stream| !consumer.is_done(stream)));
        busy.map(|(name, _)| format!("consumer {name} is not done"))
    }
}

/// Instances of each actor that should run; `hosts`: how many hosts take work and may run it.
fn wanted(desired: &Desired, hosts: impl Fn(&ActorId) -> usize) -> BTreeMap<ActorId, u32> {
    let all = desired.components.iter().map(|(id, spec)| {
        let times = if spec.needs.daemon { u32::try_from(hosts(id)).unwrap_or(u32::MAX) } else { 1 };
        (id.clone(), spec.max * times)
    });
    all.filter(|(_, instances)| *instances > 0).collect()
}
