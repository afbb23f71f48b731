mod policies;

use std::collections::BTreeMap;

use super::*;
use crate::desired::{ComponentSpec, Stamp};
use crate::id::{Digest, HostName, Incarnation, LatticeName};
use crate::inventory::tests::{carry_out, host_id, report, verdict};
use crate::plan::tests::policies::bundle;
use crate::trust::envelope::{Purpose, seal, signed_bytes};
use crate::trust::testing::sign;
use crate::wire::report::{HostReport, HostState, Profile};
use crate::{subject, wire};

/// How long a host counts as there in a lattice that is not set otherwise.
const FRESH_FOR_MS: Millis = 3_000;

/// What is stored, as the server would have it, and the replicas that share it.
#[derive(Default)]
struct Store {
    desired: BTreeMap<String, Vec<u8>>,
    desired_rev: u64,
    plan: BTreeMap<String, (Vec<u8>, Revision)>,
    plan_rev: u64,
    verdicts: BTreeMap<String, Vec<u8>>,
    verdict_rev: u64,
    policies: BTreeMap<String, Vec<u8>>,
    policy_rev: u64,
    /// Head of every plan that was committed.
    heads: Vec<plan::Head>,
    records: Vec<BTreeMap<ActorId, PastDecision>>,
    probes: usize,
    reads: usize,
}

impl Store {
    fn edit(&mut self, edit: impl FnOnce(&mut Desired)) -> Revision {
        let mut before = Desired::default();
        for (key, value) in &self.desired {
            before.insert(key, value).unwrap();
        }
        let mut after = before.clone();
        edit(&mut after);
        for change in before.diff(&after, &Stamp { by: "test".into(), at_ms: 0 }) {
            self.desired_rev += 1;
            match change.value {
                Some(value) => drop(self.desired.insert(change.key, value)),
                None => drop(self.desired.remove(&change.key)),
            }
        }
        Revision(self.desired_rev)
    }

    fn commit(&mut self, batch: Vec<KeyChange>) -> Option<Revision> {
        let at = |key: &str| self.plan.get(key).map_or(Revision(0), |(_, revision)| *revision);
        if batch.iter().any(|change| change.expected.is_some_and(|expected| at(&change.key) != expected)) {
            return None;
        }
        for change in batch {
            self.plan_rev += 1;
            if change.key == subject::PLAN_HEAD_KEY {
                self.heads.push(wire::decode(&change.value).unwrap());
            }
            self.plan.insert(change.key, (change.value, Revision(self.plan_rev)));
        }
        Some(Revision(self.plan_rev))
    }

    fn judge(&mut self, verdict: &Verdict) {
        self.verdict_rev += 1;
        self.verdicts.insert(wire::verdict::host_key(&verdict.host), wire::encode(verdict));
    }

    /// A policy that allows everything but `denied`, for the hosts of `scope`.
    fn put(&mut self, version: u64, scope: &str, denied: &[&str]) {
        let bundle = bundle(version, scope, denied);
        let body = bundle.encode();
        let signature = sign(&bundle.issuer, &signed_bytes(Purpose::Policy, &body));
        self.policy_rev += 1;
        self.policies.insert(subject::policy_key(&bundle.policy.policy_id), seal(&bundle.issuer, &signature, &body));
    }

    /// Carries out one step of a replica; whether there was one.
    fn step(&mut self, replica: &mut Scheduler, now: Millis) -> bool {
        match replica.poll_step(now) {
            None => return false,
            Some(Step::AskHosts) => {}
            Some(Step::Probe(_)) => self.probes += 1,
            Some(Step::Look) => {
                let [desired, plan, verdicts] = [self.desired_rev, self.plan_rev, self.verdict_rev].map(Revision);
                replica.handle_revisions(desired, plan, verdicts, Revision(self.policy_rev));
            }
            Some(Step::ReadPolicies) => {
                let entries = self.policies.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
                let _ = replica.handle_policies(entries, Revision(self.policy_rev));
            }
            Some(Step::ReadVerdicts) => {
                let entries = self.verdicts.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
                let _ = replica.handle_verdicts(entries, Revision(self.verdict_rev));
            }
            Some(Step::Read) => {
                self.reads += 1;
                let plan = self.plan.iter().map(|(key, (value, revision))| (key.as_str(), value.as_slice(), *revision));
                let desired = self.desired.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
                let _ = replica.handle_stored(plan, Revision(self.plan_rev), desired, Revision(self.desired_rev), now);
            }
            Some(Step::Commit(batch)) => match self.commit(batch) {
                Some(revision) => replica.handle_committed(revision, 0),
                None => replica.handle_conflict(now),
            },
            Some(Step::Record(reasons)) => self.records.push(reasons),
        }
        true
    }

    fn run(&mut self, replica: &mut Scheduler, now: Millis) {
        for _ in 0..100 {
            if !self.step(replica, now) {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

fn host(n: u8) -> HostReport {
    HostReport {
        profile: Profile { cpu_capacity: 1000, memory_mb: 1000, cpu_used: 0, memory_used_mb: 0 },
        ..report(n, &format!("NEDGE0{}", n + 1))
    }
}

fn beat(replica: &mut Scheduler, report: &HostReport, now: Millis) {
    let subject = subject::heartbeat(&report.lattice, &report.region, &report.id);
    replica.handle_heartbeat(&subject, &wire::encode(report), now);
}

fn actor(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

fn add(name: &'static str, max: u32) -> impl FnOnce(&mut Desired) {
    move |desired| {
        let spec = ComponentSpec::new("file://a.wasm", Digest::of(b"a"));
        desired.start_component(actor(name), spec, Some(max), true).unwrap();
    }
}

#[test]
fn a_change_is_planned_once_and_its_reasons_are_kept() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    let revision = store.edit(add("a", 2));
    beat(&mut replica, &host(0), 0);
    beat(&mut replica, &host(1), 0);
    store.run(&mut replica, 10);
    assert_eq!(replica.planned(revision).unwrap().generation, Generation(1));
    assert_eq!(
        store.records[0]["a"].reasons,
        ["NEDGE01: 1 more: emptiest that fits, score 0.00", "NEDGE02: 1 more: emptiest that fits, score 0.00"]
    );
    let revision = store.edit(add("b", 1));
    assert!(replica.planned(revision).is_none());
    replica.handle_desired_changed();
    replica.handle_desired_changed();
    store.run(&mut replica, 20);
    assert_eq!((replica.planned(revision).unwrap().generation, store.heads.len(), store.probes), (Generation(2), 2, 1));
    // Heartbeats of no news cost no look at the store.
    let reads = store.reads;
    for now in 0..100 {
        beat(&mut replica, &HostReport { seq: 2 + now, ..host(0) }, 21 + now);
        store.run(&mut replica, 21 + now);
    }
    assert_eq!((store.reads, store.heads.len()), (reads, 2));
}

#[test]
fn replicas_race_and_the_chain_stays_whole() {
    let mut store = Store::default();
    let mut replicas = [Scheduler::new("n1", 0), Scheduler::new("n2", 0), Scheduler::new("n3", 0)];
    for replica in &mut replicas {
        beat(replica, &host(0), 0);
        beat(replica, &host(1), 0);
    }
    for round in 0..20_u32 {
        let revision = store.edit(|desired| add("a", round + 1)(desired));
        for replica in &mut replicas {
            replica.handle_desired_changed();
        }
        // One step each in turn: all of them read before the first commits.
        for _ in 0..30 {
            for replica in &mut replicas {
                store.step(replica, 10);
            }
        }
        assert!(replicas.iter().all(|replica| replica.planned(revision).is_some()), "round {round}");
    }
    for (parent, head) in store.heads.iter().zip(store.heads.iter().skip(1)) {
        assert_eq!((head.parent, head.generation), (parent.generation, parent.generation.next()));
    }
    assert_eq!(store.heads.len(), 20, "each change was planned once");
}

#[test]
fn a_fresh_replica_waits_until_it_has_heard_the_hosts_of_the_plan() {
    let (mut store, mut first) = (Store::default(), Scheduler::new("n", 0));
    store.edit(add("a", 2));
    beat(&mut first, &host(0), 0);
    beat(&mut first, &host(1), 0);
    store.run(&mut first, 10);
    let mut fresh = Scheduler::new("n", 100);
    let revision = store.edit(add("b", 4));
    beat(&mut fresh, &host(1), 100);
    store.run(&mut fresh, 110);
    assert!(!fresh.is_ready(110) && fresh.planned(revision).is_none());
    beat(&mut fresh, &host(0), 120);
    store.run(&mut fresh, 120);
    assert!(fresh.planned(revision).is_some());
    // A host that never comes is waited for no longer than a heartbeat may be late.
    let mut patient = Scheduler::new("n", 200);
    let revision = store.edit(add("c", 1));
    beat(&mut patient, &host(1), 200);
    store.run(&mut patient, 200);
    assert!(patient.planned(revision).is_none());
    beat(&mut patient, &HostReport { seq: 2, ..host(1) }, 200 + FRESH_FOR_MS);
    store.run(&mut patient, 200 + FRESH_FOR_MS);
    assert!(patient.planned(revision).is_some());
}

#[test]
fn many_hosts_that_come_at_once_are_planned_for_together() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(|desired| {
        add("d", 1)(desired);
        desired.components.get_mut("d").unwrap().needs.daemon = true;
    });
    let letters = |n: u8| [n / 26, n % 26].map(|digit| char::from(b'A' + digit)).iter().collect::<String>();
    for n in 0..200_u8 {
        let report = HostReport { id: HostId::new(format!("N{:A<55}", letters(n))).unwrap(), ..host(0) };
        beat(&mut replica, &report, Millis::from(n));
        store.run(&mut replica, Millis::from(n));
    }
    let plans = store.heads.len();
    assert!((50..60).contains(&plans), "one for each of the first, then few: {plans}");
    // The pause is over with a heartbeat of anybody.
    beat(&mut replica, &HostReport { seq: 2, ..host(0) }, 600);
    store.run(&mut replica, 600);
    let planned = replica.stored.as_ref().unwrap().plan.assignments.len();
    assert_eq!((store.heads.len(), planned), (plans + 1, 200));
}

#[test]
fn a_host_that_joins_gets_its_part_by_itself_and_a_silent_one_keeps_its_own() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(|desired| {
        let spec = ComponentSpec::new("file://a.wasm", Digest::of(b"a"));
        desired.start_component(actor("d"), spec, Some(1), true).unwrap();
        desired.components.get_mut("d").unwrap().needs.daemon = true;
    });
    beat(&mut replica, &host(0), 0);
    store.run(&mut replica, 0);
    beat(&mut replica, &host(1), 10);
    store.run(&mut replica, 10);
    assert_eq!(store.heads.len(), 2);
    let now = 10 + FRESH_FOR_MS;
    beat(&mut replica, &HostReport { seq: 2, ..host(1) }, now);
    store.run(&mut replica, now);
    assert_eq!((store.heads.len(), replica.status(now).hosts), (2, 1));
    let nodes = replica.nodes(now);
    assert_eq!(nodes.iter().map(|node| node.is_healthy).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn heartbeats_that_make_no_sense_change_nothing() {
    let mut replica = Scheduler::new("n", 0);
    beat(&mut replica, &host(0), 0);
    let good = wire::encode(&host(1));
    let text = String::from_utf8(good.clone()).unwrap();
    let own = subject::heartbeat(&host(1).lattice, &host(1).region, &host(1).id);
    let foreign = wire::encode(&HostReport { lattice: LatticeName::new("other").unwrap(), ..host(1) });
    let cases: [(&str, Vec<u8>); 8] = [
        (&own, b"{".to_vec()),
        (&own, b"".to_vec()),
        (&own, text.replace("\"cpu_capacity\":1000", "\"cpu_capacity\":18446744073709551615").into_bytes()),
        (&own, text.replace("\"cpu_capacity\":1000", "\"cpu_capacity\":NaN").into_bytes()),
        (&own, text.replace("\"v\":1", "\"v\":2").into_bytes()),
        (&own, vec![b'['; 100_000]),
        ("lat.default.hb.local.NOBODY", good),
        (&own.replace("default", "other"), foreign),
    ];
    for (subject, payload) in &cases {
        replica.handle_heartbeat(subject, payload, 0);
    }
    let status = replica.status(0);
    assert_eq!((status.malformed, status.hosts), (8, 1));
}

#[test]
fn two_processes_with_one_identity_are_told_and_the_newer_one_counts() {
    let mut replica = Scheduler::new("n", 0);
    let newer = HostReport { incarnation: Incarnation::new("02").unwrap(), name: HostName::new("NEW").unwrap(), ..host(0) };
    beat(&mut replica, &host(0), 0);
    beat(&mut replica, &newer, 10);
    assert!(replica.status(10).cloned.is_empty(), "a restart is none");
    for now in 1..4 {
        beat(&mut replica, &HostReport { seq: 10 + now, ..host(0) }, 10 + now);
    }
    let status = replica.status(20);
    assert_eq!((status.hosts, status.cloned), (1, vec![host_id(0)]));
    assert_eq!(replica.status(20 + FRESH_FOR_MS).cloned, []);
}

#[test]
fn a_broken_key_stops_nothing_that_is_known() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    let revision = store.edit(add("a", 1));
    beat(&mut replica, &host(0), 0);
    store.run(&mut replica, 0);
    store.desired.insert("component.b".into(), b"{".to_vec());
    store.desired_rev += 1;
    replica.handle_desired_changed();
    store.run(&mut replica, 10);
    assert!(replica.planned(revision).is_some() && replica.planned(Revision(store.desired_rev)).is_none());
    store.desired.remove("component.b");
    store.desired_rev += 1;
    beat(&mut replica, &HostReport { seq: 2, ..host(0) }, 2000);
    replica.handle_desired_changed();
    store.run(&mut replica, 2000);
    assert!(replica.planned(Revision(store.desired_rev)).is_some());
}

#[test]
fn a_drain_goes_on_by_heartbeats_alone() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(add("a", 1));
    let mut hosts = [host(0), host(1)];
    let mut round = |store: &mut Store, replica: &mut Scheduler, now: Millis| {
        for host in &mut hosts {
            let Some((value, _)) = store.plan.get(&subject::assignment_key(&host.id)) else { continue };
            carry_out(host, &wire::decode(value).unwrap());
            beat(replica, host, now);
            store.run(replica, now);
        }
    };
    for report in [host(0), host(1)] {
        beat(&mut replica, &report, 0);
    }
    store.run(&mut replica, 0);
    round(&mut store, &mut replica, 10);
    store.edit(|desired| desired.edit_node(&host_id(0), |node| node.draining = true));
    replica.handle_desired_changed();
    store.run(&mut replica, 20);
    for now in 3..6 {
        round(&mut store, &mut replica, now * 10);
    }
    let shares = replica.plan_state().unwrap().shares_of(&actor("a"));
    assert_eq!(shares, BTreeMap::from([(host_id(1), 1)]));
}

#[test]
fn tasks_are_placed_among_those_that_are_there() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    let task = |text: &str| serde_json::from_str::<TaskSpec>(text).unwrap();
    let small = task(r#"{"task_id": "t", "cpu_required": 600}"#);
    assert_eq!(replica.place(&small, 0).unwrap_err().code, ErrorCode::TimedOut);
    let low = |desired: &mut Desired| {
        add("low", 1)(desired);
        desired.components.get_mut("low").unwrap().needs.cpu = 700;
    };
    store.edit(low);
    beat(&mut replica, &host(0), 0);
    beat(&mut replica, &host(1), 0);
    store.run(&mut replica, 0);
    assert_eq!(replica.place(&small, 0).unwrap().node_id, "NEDGE02", "the plan promises NEDGE01 to an actor");
    let leaving = HostReport { seq: 2, state: HostState::Draining, ..host(1) };
    beat(&mut replica, &leaving, 10);
    let problem = replica.place(&small, 10).unwrap_err();
    assert_eq!(problem.causes, ["NEDGE01: needs 600 thousandths of a core, has 300", "NEDGE02: it is stopping"]);
    let urgent = TaskSpec { priority: 3, ..small };
    let placed = replica.place(&urgent, 10).unwrap();
    assert_eq!((placed.node_id.as_str(), placed.displaces), ("NEDGE01", BTreeMap::from([(actor("low"), 1)])));
    let problem = replica.place(&task(r#"{"task_id": "t", "preferred_region": "a b"}"#), 10).unwrap_err();
    assert_eq!(problem.code, ErrorCode::Usage);
}

/// Two hosts that share two instances of `a`, and a replica that is at rest.
fn at_rest() -> (Store, Scheduler) {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(add("a", 2));
    beat(&mut replica, &host(0), 0);
    beat(&mut replica, &host(1), 0);
    store.run(&mut replica, 0);
    (store, replica)
}

fn shares(replica: &Scheduler) -> BTreeMap<HostId, u32> {
    replica.plan_state().unwrap().shares_of(&actor("a"))
}

#[test]
fn a_dead_host_s_work_is_committed_at_the_very_next_step() {
    let (mut store, mut replica) = at_rest();
    // Late enough that everything else is due as well.
    let now = 100_000;
    beat(&mut replica, &HostReport { seq: 2, ..host(1) }, now);
    store.judge(&verdict(0, Standing::Dead));
    replica.handle_verdict_changed();
    let reads = store.reads;
    assert_eq!(replica.poll_step(now), Some(Step::ReadVerdicts));
    assert!(store.step(&mut replica, now));
    let Some(Step::Commit(batch)) = replica.poll_step(now) else { panic!("no commit") };
    let revision = store.commit(batch).unwrap();
    replica.handle_committed(revision, 0);
    assert_eq!((shares(&replica), store.reads), (BTreeMap::from([(host_id(1), 2)]), reads));
    assert_eq!(store.heads[1].verdict_rev, Revision(1));
    store.run(&mut replica, now);
    let last = store.records.last().unwrap()["a"].reasons.clone();
    assert!(last.len() == 2 && last[0].ends_with("; NEDGE01 is gone: heartbeat timeout: 3000ms"), "{last:?}");
    assert_eq!(last[1], "NEDGE01: 1 less, it is gone: heartbeat timeout: 3000ms");
}

#[test]
fn a_verdict_that_was_not_heard_of_is_found() {
    let (mut store, mut replica) = at_rest();
    store.judge(&verdict(0, Standing::Dead));
    store.run(&mut replica, LOOK_EVERY_MS - 1);
    assert_eq!(shares(&replica).len(), 2);
    beat(&mut replica, &HostReport { seq: 2, ..host(1) }, LOOK_EVERY_MS);
    store.run(&mut replica, LOOK_EVERY_MS);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(1), 2)]));
}

#[test]
fn of_two_replicas_that_hear_of_a_verdict_one_moves_the_work() {
    let (mut store, mut first) = at_rest();
    let mut second = Scheduler::new("n2", 0);
    for n in [0, 1] {
        beat(&mut second, &host(n), 0);
    }
    store.run(&mut second, 0);
    // The second knows an older plan than the first.
    store.edit(add("b", 1));
    first.handle_desired_changed();
    store.run(&mut first, 10);
    store.judge(&verdict(0, Standing::Dead));
    for replica in [&mut second, &mut first] {
        replica.handle_verdict_changed();
        store.run(replica, 20);
        assert_eq!(shares(replica), BTreeMap::from([(host_id(1), 2)]));
    }
    assert_eq!(store.heads.len(), 3, "one plan for the verdict");
}

#[test]
fn suspicion_alone_plans_nothing_and_keeps_tasks_away() {
    let (mut store, mut replica) = at_rest();
    store.judge(&verdict(0, Standing::Suspect));
    replica.handle_verdict_changed();
    store.run(&mut replica, 10);
    assert_eq!(store.heads.len(), 1);
    let task = serde_json::from_str::<TaskSpec>(r#"{"task_id": "t"}"#).unwrap();
    assert_eq!(replica.place(&task, 10).unwrap().node_id, "NEDGE02");
    let opinions = replica.explain(&actor("a"), 10).unwrap().hosts;
    assert_eq!(opinions[1].rejected.as_deref(), Some("it is Suspect: not heard as it should be"));
}

#[test]
fn a_verdict_that_makes_no_sense_keeps_no_other_from_its_effect() {
    let (mut store, mut replica) = at_rest();
    store.verdicts.insert("host.broken".into(), b"{".to_vec());
    store.judge(&verdict(0, Standing::Dead));
    replica.handle_verdict_changed();
    store.run(&mut replica, 10);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(1), 2)]));
}

#[test]
fn a_fresh_replica_does_not_wait_for_the_dead() {
    let (mut store, _) = at_rest();
    store.judge(&verdict(0, Standing::Dead));
    let mut fresh = Scheduler::new("n", 50);
    beat(&mut fresh, &host(1), 50);
    store.run(&mut fresh, 50);
    assert!(fresh.is_ready(50));
    assert_eq!(shares(&fresh), BTreeMap::from([(host_id(1), 2)]));
}

#[test]
fn how_long_a_host_counts_as_there_follows_the_profile() {
    for (profile, expected) in [("lan", 3_000), ("wan", 15_000), ("test", 750)] {
        let (mut store, mut replica) = at_rest();
        store.edit(|desired| {
            let name = crate::id::ConfigName::new("failover").unwrap();
            desired.put_config(name, BTreeMap::from([("profile".into(), profile.into())])).unwrap();
        });
        replica.handle_desired_changed();
        store.run(&mut replica, 10);
        assert_eq!(replica.status(expected - 1).hosts, 2, "{profile}");
        assert_eq!(replica.status(expected).hosts, 0, "{profile}");
    }
}

#[test]
fn a_strict_slot_is_handed_over_by_heartbeats_alone() {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(|desired| {
        let spec = ComponentSpec::new("file://a.wasm", Digest::of(b"a"));
        desired.start_component(actor("a"), spec, None, true).unwrap();
        desired.components.get_mut("a").unwrap().needs.class = crate::needs::Class::Strict;
    });
    let mut hosts = [host(0), host(1)];
    let mut round = |store: &mut Store, replica: &mut Scheduler, now: Millis| {
        for host in &mut hosts {
            if let Some((value, _)) = store.plan.get(&subject::assignment_key(&host.id)) {
                carry_out(host, &wire::decode(value).unwrap());
            }
            beat(replica, host, now);
        }
        store.run(replica, now);
    };
    round(&mut store, &mut replica, 0);
    round(&mut store, &mut replica, 10);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(0), 1)]));
    store.edit(|desired| desired.edit_node(&host_id(0), |node| node.draining = true));
    replica.handle_desired_changed();
    store.run(&mut replica, 20);
    assert_eq!((shares(&replica), store.heads.len()), (BTreeMap::from([(host_id(0), 1)]), 2), "it is told to stop it");
    round(&mut store, &mut replica, 30);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(1), 1)]));
}
