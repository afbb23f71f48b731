mod leases;
mod poison;

use std::collections::BTreeMap;

use super::*;
use crate::desired::{ComponentSpec, Desired, Stamp};
use crate::id::{ActorId, ConfigName, Digest, Generation, Incarnation};
use crate::inventory::Inventory;
use crate::inventory::tests::{host_id, report};
use crate::needs::Class;
use crate::plan::{self, Head, PlanState};
use crate::subject::{self, DISCONNECTS};
use crate::system::SystemActor;
use crate::wire::assignment::{Assignment, ComponentAssignment, InstancePolicy, Limits, Ownership, SlotAssignment};
use crate::wire::event::EventKind;
use crate::wire::ownership::LeaseRecord;
use crate::wire::report::{ComponentReport, ComponentState, Profile};
use crate::wire::verdict::{Evidence, Standing};

type Keys = BTreeMap<String, (Vec<u8>, Revision)>;

/// What is stored, as the server would have it, what was published, and the messages that every replica hears.
#[derive(Default)]
struct Bus {
    desired: Desired,
    desired_rev: u64,
    plan: PlanState,
    plan_rev: u64,
    verdicts: Keys,
    verdict_rev: u64,
    leases: Keys,
    lease_rev: u64,
    events: Vec<Event>,
    records: Vec<Record>,
    asked: Vec<HostId>,
    signals: Vec<(String, Vec<u8>)>,
    down: bool,
    conflicts: usize,
    reads: usize,
    woken: Vec<(HostId, u64)>,
}

fn write(keys: &mut Keys, last: &mut u64, key: &str, value: Vec<u8>, expected: Revision) -> Option<Revision> {
    let at = keys.get(key).map_or(Revision(0), |(_, revision)| *revision);
    (at == expected).then(|| {
        *last += 1;
        keys.insert(key.to_owned(), (value, Revision(*last)));
        Revision(*last)
    })
}

fn entry(keys: &Keys, key: &str) -> Option<(Vec<u8>, Revision)> {
    keys.get(key).cloned()
}

fn borrowed(entry: &Option<(Vec<u8>, Revision)>) -> Option<(&[u8], Revision)> {
    entry.as_ref().map(|(value, revision)| (value.as_slice(), *revision))
}

impl Bus {
    /// Carries out one step of a replica; whether there was one.
    fn step(&mut self, replica: &mut Failover, now: Millis) -> bool {
        let Some(step) = replica.poll_step(now) else { return false };
        let stores = !matches!(step, Step::AskHosts | Step::Ask(_) | Step::Wake { .. } | Step::Publish(_) | Step::Record { .. });
        if self.down && stores {
            replica.handle_failure(now);
            return true;
        }
        match step {
            Step::AskHosts => {}
            Step::Ask(host) => self.asked.push(host),
            Step::Wake { host, after_ms } => self.woken.push((host, after_ms)),
            Step::Look => replica.handle_revisions(Revision(self.desired_rev), Revision(self.plan_rev), Revision(self.verdict_rev)),
            Step::ReadDesired => {
                let keys = Desired::default().diff(&self.desired, &Stamp { by: "test".into(), at_ms: 0 });
                let entries: Vec<(String, Vec<u8>)> = keys.into_iter().map(|change| (change.key, change.value.unwrap())).collect();
                replica.handle_desired(entries.iter().map(|(key, value)| (key.as_str(), value.as_slice())), Revision(self.desired_rev));
            }
            Step::ReadPlan => {
                self.reads += 1;
                let entries = self.plan_entries();
                let entries = entries.iter().map(|(key, value)| (key.as_str(), value.as_slice(), Revision(self.plan_rev)));
                replica.handle_plan(entries, Revision(self.plan_rev), now);
            }
            Step::ReadPlanKeys(keys) => {
                let entries = self.plan_entries();
                let entries = entries.iter().filter(|(key, _)| keys.contains(key));
                replica.handle_plan_keys(entries.map(|(key, value)| (key.as_str(), value.as_slice(), Revision(self.plan_rev))), now);
            }
            Step::ReadVerdicts => {
                let entries = self.verdicts.iter().map(|(key, (value, revision))| (key.as_str(), value.as_slice(), *revision));
                replica.handle_verdicts(entries, Revision(self.verdict_rev), now);
            }
            Step::ReadVerdict(key) => replica.handle_verdict(&key, borrowed(&entry(&self.verdicts, &key)), now),
            Step::Commit(change) => {
                let signal = (format!("lat.default.changed.verdict.{}", change.key), change.value.clone());
                match write(&mut self.verdicts, &mut self.verdict_rev, &change.key, change.value, change.expected.unwrap()) {
                    Some(revision) => {
                        self.signals.push(signal);
                        replica.handle_committed(revision, now);
                    }
                    None => {
                        self.conflicts += 1;
                        replica.handle_conflict(now);
                    }
                }
            }
            Step::ReadLease { host, key } => replica.handle_lease(&host, borrowed(&entry(&self.leases, &key)), now),
            Step::RevokeLease { host, key, expected, value } => match write(&mut self.leases, &mut self.lease_rev, &key, value, expected) {
                Some(_) => replica.handle_revoked(&host, now),
                None => replica.handle_renewed(&host),
            },
            Step::Publish(event) => self.events.push(*event),
            Step::Record { key, failover } => {
                assert!(key.ends_with(failover.host.as_str()));
                self.records.push(*failover);
            }
        }
        true
    }

    fn plan_entries(&self) -> Vec<(String, Vec<u8>)> {
        let shares = self.plan.assignments.values().map(|share| (subject::assignment_key(&share.host), wire::encode(share)));
        let head = self.plan.head.iter().map(|head| (subject::PLAN_HEAD_KEY.to_owned(), wire::encode(head)));
        shares.chain(head).collect()
    }

    /// All replicas do what they have to, one step each in turn, and hear of what the others did.
    fn run(&mut self, replicas: &mut [Failover], now: Millis) {
        for _ in 0..1_000 {
            let mut moved = false;
            for replica in replicas.iter_mut() {
                moved |= self.step(replica, now);
            }
            // One by one: a plan is heard of host by host.
            if !self.signals.is_empty() {
                let (subject, payload) = self.signals.remove(0);
                replicas.iter_mut().for_each(|replica| replica.handle_message(&subject, &payload, now, now));
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// The next plan: `actor` on these hosts with so many instances, or slots of its class.
    fn place(&mut self, name: &str, class: Class, on: &[(u8, u32)]) {
        self.plan_rev += 1;
        let generation = self.plan.generation().next();
        let parent = self.plan.generation();
        let head = Head { generation, parent, desired_rev: Revision(0), verdict_rev: Revision(0), digest: Digest::of(b"") };
        (self.plan.head, self.plan.head_revision) = (Some(head), Revision(self.plan_rev));
        for n in 0..8 {
            let instances = on.iter().find(|(host, _)| *host == n).map(|(_, instances)| *instances);
            let share = self.plan.assignments.entry(host_id(n)).or_insert_with(|| Assignment::empty(host_id(n)));
            let before = share.components.remove(&actor(name));
            if let Some(instances) = instances {
                share.components.insert(actor(name), component(class, instances, generation));
            }
            if share.components.get(&actor(name)) != before.as_ref() {
                share.generation = generation;
                self.signals.push((subject::planned(&lattice(), &host_id(n)), Vec::new()));
            }
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Desired)) {
        edit(&mut self.desired);
        self.desired_rev += 1;
        self.signals.push(("lat.default.changed.desired.x".into(), Vec::new()));
    }

    fn verdict(&self, n: u8) -> Option<Verdict> {
        self.verdicts.get(&host_key(&host_id(n))).map(|(value, _)| wire::decode(value).unwrap())
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|event| event.kind).collect()
    }
}

fn lattice() -> LatticeName {
    LatticeName::new("default").unwrap()
}

fn actor(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

fn component(class: Class, instances: u32, term: Generation) -> ComponentAssignment {
    let slots = (0..instances).map(|slot| (slot, SlotAssignment { term, release: false })).collect();
    ComponentAssignment {
        image: "file://a.wasm".into(),
        digest: Digest::of(b"a"),
        instances,
        policy: InstancePolicy::default(),
        limits: Limits::default(),
        config: BTreeMap::new(),
        links: Vec::new(),
        ownership: (class != Class::Shared).then_some(Ownership { class, of: instances, slots }),
    }
}

/// Hosts that send heartbeats to all replicas.
struct World {
    bus: Bus,
    replicas: Vec<Failover>,
    hosts: BTreeMap<u8, HostReport>,
    now: Millis,
}

impl World {
    /// `n` hosts, and so many replicas, which have heard them for long enough.
    fn new(n: u8, replicas: usize) -> Self {
        Self::with(Bus::default(), n, replicas)
    }

    fn with(bus: Bus, n: u8, replicas: usize) -> Self {
        // None of them has a host among those: time passes by itself.
        let replicas = (0..replicas).map(|replica| Failover::new(format!("observer{replica}"), 0)).collect();
        let profile = Profile { cpu_capacity: 1_000, memory_mb: 1_000, cpu_used: 0, memory_used_mb: 0 };
        let hosts = (0..n).map(|n| (n, HostReport { seq: 0, profile, ..report(n, &format!("NEDGE0{}", n + 1)) })).collect();
        let mut world = Self { bus, replicas, hosts, now: 0 };
        world.pass(10_000);
        world
    }

    fn hear(&mut self, subject: &str, payload: &[u8]) {
        let now = self.now;
        self.replicas.iter_mut().for_each(|replica| replica.handle_message(subject, payload, now, 1_000_000 + now));
    }

    fn beat(&mut self, n: u8) {
        let host = self.hosts.get_mut(&n).unwrap();
        host.seq += 1;
        let (subject, payload) = (subject::heartbeat(&host.lattice, &host.region, &host.id), wire::encode(host));
        self.hear(&subject, &payload);
        self.bus.run(&mut self.replicas, self.now);
    }

    /// Time passes; every host that is left sends a heartbeat each second.
    fn pass(&mut self, ms: Millis) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 50;
            if self.now.is_multiple_of(1_000) {
                let hosts: Vec<u8> = self.hosts.keys().copied().collect();
                hosts.into_iter().for_each(|n| self.beat(n));
            }
            self.bus.run(&mut self.replicas, self.now);
        }
    }

    fn kill(&mut self, n: u8) -> HostReport {
        let host = self.hosts.remove(&n).unwrap();
        let name = subject::connection_name(&host.id, &host.incarnation);
        let payload = format!(r#"{{"type":"x","client":{{"acc":"LAT","name":"{name}"}},"reason":"Client Closed"}}"#);
        self.hear(DISCONNECTS, payload.as_bytes());
        self.bus.run(&mut self.replicas, self.now);
        host
    }

    fn take(&mut self) -> Vec<EventKind> {
        let kinds = self.bus.kinds();
        self.bus.events.clear();
        kinds
    }
}

fn add(name: &'static str, class: Class) -> impl FnOnce(&mut Desired) {
    move |desired| {
        let mut spec = ComponentSpec::new("file://a.wasm", Digest::of(b"a"));
        spec.needs.class = class;
        desired.start_component(actor(name), spec, Some(1), true).unwrap();
    }
}

fn set(values: &'static [(&'static str, &'static str)]) -> impl FnOnce(&mut Desired) {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |desired| desired.put_config(ConfigName::new("failover").unwrap(), values).unwrap()
}

#[test]
fn of_two_replicas_one_stores_the_verdict_says_so_and_keeps_the_record() {
    let mut world = World::new(3, 2);
    assert!(world.bus.verdicts.is_empty(), "hosts that are well need no verdict");
    world.kill(1);
    world.pass(200);
    let verdict = world.bus.verdict(1).unwrap();
    assert_eq!((verdict.standing, verdict.evidence), (Standing::Dead, Evidence::ProcessGone));
    assert_eq!(world.bus.verdict_rev, 1, "one verdict");
    assert_eq!(world.bus.conflicts, 1, "the other one tried as well, read, and had nothing to add");
    assert_eq!(world.take(), [EventKind::Dead]);
    assert_eq!(world.bus.records.len(), 1);
    assert_eq!(world.bus.records[0].steps.decided_ms, Some(100));
    assert!(world.replicas.iter().all(|replica| replica.status(world.now).total == 1));
}

#[test]
fn a_silent_host_is_said_to_be_suspect_first_and_comes_back_by_steps() {
    let mut world = World::new(3, 2);
    let host = world.hosts.remove(&1).unwrap();
    world.pass(6_000);
    assert_eq!(world.take(), [EventKind::Suspect, EventKind::Dead]);
    assert_eq!(world.bus.verdict(1).unwrap().reason, "heartbeat timeout: 3000ms");
    assert_eq!(world.bus.records[0].steps.silent_ms, 3_000);
    world.hosts.insert(1, host);
    world.pass(20_000);
    assert_eq!(world.take(), [EventKind::Returned, EventKind::Healthy]);
    assert!(world.bus.asked.iter().all(|asked| *asked == host_id(1)));
}

#[test]
fn the_course_of_a_failover_is_measured() {
    let mut world = World::new(3, 2);
    world.bus.edit(add("a", Class::Shared));
    world.bus.place("a", Class::Shared, &[(1, 2)]);
    world.pass(2_000);
    assert_eq!(world.replicas[0].status(world.now).measured_downtime_ms, None);
    world.kill(1);
    world.pass(150);
    world.bus.place("a", Class::Shared, &[(0, 1), (2, 1)]);
    world.pass(50);
    assert_eq!(world.take(), [EventKind::Dead, EventKind::Moved, EventKind::Moved]);
    let running = ComponentReport::new(Digest::of(b"a"), ComponentState::Running, 1);
    for (n, handled) in [(0, 0), (2, 7)] {
        world.now += 30;
        let host = world.hosts.get_mut(&n).unwrap();
        host.applied_generation = Generation(2);
        host.components.insert(actor("a"), ComponentReport { handled, ..running.clone() });
        world.beat(n);
    }
    let record = world.bus.records.last().unwrap().clone();
    assert_eq!(record.generation, Some(Generation(2)));
    let steps = record.steps;
    assert_eq!((steps.decided_ms, steps.planned_ms, steps.applied_ms, steps.first_result_ms), (Some(100), Some(200), Some(260), Some(260)));
    let plans: Vec<_> =
        record.plans.iter().map(|plan| (plan.failed_node.as_str(), plan.target_node.as_str(), plan.actor_ids.len())).collect();
    assert_eq!(plans, [("NEDGE02", "NEDGE01", 1), ("NEDGE02", "NEDGE03", 1)]);
    assert!(record.plans.iter().all(|plan| plan.estimated_downtime_ms == 4_000), "what the settings make of it");
    for replica in &world.replicas {
        let status = replica.status(world.now);
        assert_eq!(status.measured_downtime_ms, Some(260), "every replica measures");
    }
    world.pass(3_000);
    assert_eq!(world.replicas[0].status(world.now).running, []);
    assert!(world.bus.records.iter().all(|kept| kept.by == record.by), "one replica keeps it");
}

#[test]
fn what_finds_no_place_is_named_with_the_reasons() {
    let mut world = World::new(2, 2);
    world.bus.edit(|desired| {
        let mut spec = ComponentSpec::new("file://a.wasm", Digest::of(b"a"));
        spec.needs.memory_mb = 4_000;
        desired.start_component(actor("big"), spec, Some(1), true).unwrap();
    });
    world.bus.place("big", Class::Shared, &[(1, 1)]);
    world.pass(2_000);
    world.kill(1);
    world.pass(4_000);
    assert_eq!(world.take(), [EventKind::Dead, EventKind::NoTarget]);
    let record = world.bus.records.last().unwrap();
    let reasons = &record.left_behind[&actor("big")];
    assert!(reasons.iter().any(|reason| reason.starts_with("NEDGE01: ")), "{reasons:?}");
}

#[test]
fn a_new_replica_finds_verdicts_and_has_no_part_in_them() {
    let mut world = World::new(3, 1);
    world.kill(1);
    world.pass(1_000);
    world.take();
    let mut restarted = World::with(std::mem::take(&mut world.bus), 3, 1);
    restarted.hosts.remove(&1);
    let records = restarted.bus.records.len();
    restarted.pass(30_000);
    // It was heard by the replica while it started: then it was there again, and gone again.
    assert_eq!(restarted.bus.records.len() - records, usize::from(restarted.bus.verdict(1).unwrap().standing == Standing::Dead));
    let status = restarted.replicas[0].status(restarted.now);
    assert!(status.ready && status.total <= 1, "{status:?}");
}

#[test]
fn a_store_that_cannot_be_reached_stops_judgements_for_a_window() {
    let mut world = World::new(3, 1);
    world.bus.down = true;
    world.kill(1);
    world.pass(20_000);
    assert_eq!(world.take(), []);
    world.bus.down = false;
    world.pass(2_000);
    assert_eq!(world.take(), [], "it may have been heard while nobody could write");
    world.pass(6_000);
    assert_eq!(world.take(), [EventKind::Suspect, EventKind::Dead]);
}

#[test]
fn a_change_that_was_not_heard_is_found() {
    let mut world = World::new(2, 1);
    world.bus.edit(set(&[("profile", "wan"), ("auto_failover", "false"), ("colour", "red")]));
    world.bus.signals.clear();
    world.bus.place("a", Class::Shared, &[(1, 1)]);
    world.bus.signals.clear();
    let reads = world.bus.reads;
    world.pass(11_000);
    let status = world.replicas[0].status(world.now);
    assert_eq!((status.profile.as_str(), status.auto_failover, status.faults.len()), ("wan", false, 1));
    assert_eq!(world.bus.reads, reads + 1, "a plan that was missed is read once");
    assert!(world.replicas[0].stored.plan.assignments.contains_key(&host_id(1)));
}

#[test]
fn without_auto_failover_verdicts_are_made_all_the_same() {
    let mut world = World::new(2, 1);
    world.bus.edit(set(&[("auto_failover", "false")]));
    world.pass(1_000);
    world.kill(1);
    world.pass(500);
    assert_eq!(world.take(), [EventKind::Dead]);
}

#[test]
fn the_operators_word_makes_a_failover() {
    let mut world = World::new(2, 2);
    world.bus.edit(|desired| desired.edit_node(&host_id(1), |node| node.failed_over = Some(Incarnation::new("01").unwrap())));
    world.pass(10_000);
    assert_eq!(world.take(), [EventKind::Dead]);
    assert_eq!(world.bus.verdict(1).unwrap().evidence, Evidence::Operator);
    assert_eq!(world.bus.records.len(), 1);
}

#[test]
fn a_goodbye_is_an_event_of_the_host_itself() {
    let mut world = World::new(3, 2);
    let host = world.hosts.remove(&1).unwrap();
    let bye = Event {
        kind: EventKind::Bye,
        host: host.id.clone(),
        host_name: host.name,
        region: host.region.clone(),
        incarnation: host.incarnation,
        at_ms: 0,
        message: "leaves".into(),
        details: BTreeMap::new(),
    };
    // Said about another host, or as something else, it is none.
    world.hear("lat.default.evt.local.NX.bye", &wire::encode(&bye));
    let subject = subject::event(&lattice(), &host.region, &host.id, "bye");
    world.hear(&subject, &wire::encode(&Event { kind: EventKind::Hello, ..bye.clone() }));
    assert!(world.replicas.iter().all(|replica| replica.malformed() == 2));
    world.hear(&subject, &wire::encode(&bye));
    world.pass(50);
    assert_eq!(world.bus.verdict(1).unwrap().evidence, Evidence::Left);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let mut world = World::new(3, 1);
    let host = world.hosts[&1].clone();
    let subject = subject::heartbeat(&host.lattice, &host.region, &host.id);
    let later = HostReport { seq: 1_000_000, incarnation: Incarnation::new("99").unwrap(), ..host.clone() };
    let other = HostReport { lattice: LatticeName::new("other").unwrap(), ..later.clone() };
    let other_subject = subject::heartbeat(&other.lattice, &other.region, &other.id);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nonsense: [(&str, Vec<u8>); 12] = [
        (&subject, Vec::new()),
        (&subject, b"\xff\xfe".to_vec()),
        (&subject, b"null".to_vec()),
        (&subject, deep.into_bytes()),
        (&subject, vec![b' '; 2 * 1024 * 1024]),
        (&subject, wire::encode(&HostReport { id: host_id(2), ..later.clone() })),
        (&subject, wire::encode(&other)),
        (&other_subject, wire::encode(&other)),
        ("lat.default.hb.local", wire::encode(&later)),
        ("lat.default.hb.elsewhere.NBBB", wire::encode(&later)),
        (DISCONNECTS, b"{}".to_vec()),
        ("edge.sensor.x", wire::encode(&later)),
    ];
    let before = world.replicas[0].status(world.now);
    for (subject, payload) in &nonsense {
        world.hear(subject, payload);
    }
    assert_eq!(world.replicas[0].malformed(), 12);
    assert_eq!(world.replicas[0].status(world.now), before);
    let clients = ["", "lattice-host", "lattice-host NX 01", "nats-cli", &"x".repeat(100_000)];
    for name in clients {
        world.hear(DISCONNECTS, format!(r#"{{"client":{{"name":"{name}"}},"reason":"Client Closed"}}"#).as_bytes());
    }
    world.hear("lat.default.changed.verdict.host.NX", b"nonsense");
    world.hear("lat.default.planned.*", b"");
    world.pass(5_000);
    assert_eq!(world.take(), []);
}

#[test]
fn a_server_that_goes_says_nothing_about_its_clients() {
    let mut world = World::new(2, 1);
    let name = subject::connection_name(&host_id(1), &world.hosts[&1].incarnation);
    world.hear(DISCONNECTS, format!(r#"{{"client":{{"name":"{name}"}},"reason":"Server Shutdown"}}"#).as_bytes());
    world.pass(900);
    assert_eq!(world.take(), []);
}

#[test]
fn nonsense_in_the_store_is_replaced() {
    let mut world = World::new(2, 1);
    write(&mut world.bus.verdicts, &mut world.bus.verdict_rev, &host_key(&host_id(1)), b"nonsense".to_vec(), Revision(0));
    write(&mut world.bus.verdicts, &mut world.bus.verdict_rev, "site.local", b"nonsense".to_vec(), Revision(0));
    world.pass(6_000);
    world.kill(1);
    world.pass(1_000);
    assert_eq!(world.bus.verdict(1).unwrap().standing, Standing::Dead);
    assert_eq!(world.replicas[0].malformed(), 2);
}

#[test]
fn a_frozen_site_is_said_once_and_found_by_a_new_replica() {
    let mut world = World::new(6, 2);
    (1..5).for_each(|n| drop(world.kill(n)));
    world.pass(30_000);
    let kinds = world.take();
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Frozen).count(), 1);
    assert!(!kinds.contains(&EventKind::Dead), "{kinds:?}");
    let status = world.replicas[1].status(world.now);
    assert_eq!(status.frozen.values().copied().collect::<Vec<_>>(), [30_100]);
    let mut late = World::with(Bus { verdicts: world.bus.verdicts.clone(), verdict_rev: world.bus.verdict_rev, ..Bus::default() }, 1, 1);
    late.pass(50);
    assert_eq!(late.replicas[0].status(late.now).frozen.len(), 1);
    world.pass(60_000);
    let kinds = world.take();
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Thawed).count(), 1);
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Dead).count(), 3, "one each ten seconds from the 61st on: {kinds:?}");
}

#[test]
fn time_passes_with_the_heartbeats_of_the_own_host() {
    let mut world = World::new(3, 0);
    world.replicas.push(Failover::new("NEDGE01", 0));
    world.pass(10_000);
    let host = world.kill(1);
    assert_eq!(std::mem::take(&mut world.bus.woken), [(host_id(0), 100)], "when the grace is over");
    world.now += 150;
    world.bus.run(&mut world.replicas, world.now);
    assert!(world.bus.verdicts.is_empty(), "something may wait in the queue");
    assert_eq!(world.bus.woken, [], "it is on its way");
    // What waits is heard before the own host's heartbeat.
    world.hosts.insert(1, host);
    world.beat(1);
    world.beat(0);
    assert!(world.bus.verdicts.is_empty());
    world.kill(1);
    assert_eq!(std::mem::take(&mut world.bus.woken), [(host_id(0), 100)]);
    world.now += 90;
    world.beat(0);
    assert!(world.bus.verdicts.is_empty(), "an ordinary one, before the time");
    assert_eq!(std::mem::take(&mut world.bus.woken), [(host_id(0), 10)], "its host keeps the earliest: this may have been it");
    world.now += 10;
    world.beat(0);
    assert_eq!(world.take(), [EventKind::Dead]);
}

#[test]
fn hosts_in_the_seeds_words() {
    let mut world = World::new(4, 1);
    world.hosts.get_mut(&2).unwrap().error_count = 1;
    world.kill(1);
    world.pass(1_000);
    let hosts = world.replicas[0].hosts(world.now);
    let words: Vec<(&str, &str)> = hosts.iter().map(|host| (host.node_id.as_str(), host.status.as_str())).collect();
    assert_eq!(words, [("NEDGE01", "Healthy"), ("NEDGE02", "Unhealthy"), ("NEDGE03", "Degraded"), ("NEDGE04", "Healthy")]);
    assert_eq!((hosts[1].last_heartbeat_ms, hosts[2].error_count), (1_000, 1));
    // A host that is gone for good is not shown for ever.
    world.pass(700_000);
    assert_eq!(world.replicas[0].hosts(world.now).len(), 3);
}

#[test]
fn plans_follow_the_verdicts_of_the_replica() {
    let mut world = World::new(3, 1);
    world.bus.edit(add("a", Class::Shared));
    world.bus.place("a", Class::Shared, &[(1, 1)]);
    world.pass(2_000);
    world.kill(1);
    world.pass(200);
    let stored = &world.replicas[0].stored;
    let inventory = Inventory::new(world.hosts.values().cloned(), stored.plan.assignments.values());
    let plan = plan::plan(&stored.desired, stored.desired_revision, &inventory, &stored.verdicts, &stored.plan);
    assert!(plan.changed[&host_id(1)].components.is_empty(), "{:?}", plan.troubles);
}
