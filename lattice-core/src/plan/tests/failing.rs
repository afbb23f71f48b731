//! What verdicts do to a plan.

use super::lattice::*;
use super::*;
use crate::needs::{Class, Needs, Spread};
use crate::timing::TimingProfile;
use crate::wire::report::HostReport;
use crate::wire::verdict::{Quarantine, Standing};

fn spread() -> Needs {
    Needs { spread: Some(Spread::Host), ..Needs::default() }
}

/// Four hosts, each of which runs one instance of `a`.
fn running() -> Lattice {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(spread(), 4));
    lattice.plan();
    lattice.apply();
    lattice
}

fn restarted(n: u8) -> HostReport {
    HostReport { incarnation: Incarnation::new("02").unwrap(), ..host(n, "eu") }
}

#[test]
fn each_standing_has_its_effect() {
    // What becomes of the instance on NEDGE01, whether that host is still heard or not, and when one more is wanted.
    let check = |standing: Standing, instances: u32, handing_over: bool| {
        for heard in [true, false] {
            let mut lattice = running();
            lattice.judge(0, standing);
            if !heard {
                lattice.silence(0);
            }
            let plan = lattice.plan();
            assert_eq!(lattice.at("a").get(&0).copied().unwrap_or(0), instances, "{standing:?}, heard: {heard}");
            assert_eq!(plan.handing_over, handing_over, "{standing:?}, heard: {heard}");
            let held = lattice.at("a");
            lattice.set("a", with(spread(), 12));
            lattice.plan();
            assert!(lattice.at("a").get(&0) <= held.get(&0), "{standing:?}: nothing new");
        }
    };
    check(Standing::Suspect, 1, false);
    check(Standing::Returned, 1, false);
    check(Standing::Dead, 0, false);
    check(Standing::Degraded, 1, true);
}

#[test]
fn a_dead_host_s_work_moves_at_once_and_does_not_come_back_by_itself() {
    let mut lattice = running();
    lattice.judge(0, Standing::Dead);
    lattice.silence(0);
    let plan = lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(1, 2), (2, 1), (3, 1)]));
    let moved = Moved { actor: actor("a"), from: host_id(0), to: host_id(1), instances: 1, reason: "heartbeat timeout: 3000ms".into() };
    assert_eq!((plan.moved, plan.left_behind, plan.troubles.len()), (vec![moved], vec![], 0));
    for standing in [Standing::Dead, Standing::Returned, Standing::Healthy] {
        lattice.hosts.insert(0, restarted(0));
        lattice.judge(0, standing);
        assert!(lattice.plan().is_empty(), "{standing:?}");
        lattice.hosts.remove(0);
    }
}

#[test]
fn a_host_that_came_back_before_anybody_planned_keeps_what_it_has() {
    let mut lattice = running();
    lattice.judge(0, Standing::Dead);
    lattice.hosts[0] = restarted(0);
    assert!(lattice.plan().is_empty());
    lattice.set("a", with(spread(), 12));
    lattice.plan();
    assert_eq!(lattice.at("a")[&0], 1);
    // A suspicion about the start before says nothing of this one.
    lattice.judge(0, Standing::Suspect);
    lattice.set("a", with(spread(), 13));
    lattice.plan();
    assert_eq!(lattice.at("a")[&0], 2);
}

#[test]
fn what_finds_no_other_place_stays_and_says_why_for_each_host() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu"), host(2, "eu")]);
    lattice.set("a", with(Needs { cpu: 600, memory_mb: 10, ..spread() }, 3));
    lattice.plan();
    lattice.apply();
    lattice.judge(0, Standing::Dead);
    lattice.judge(2, Standing::Suspect);
    lattice.silence(0);
    let plan = lattice.plan();
    assert!(plan.is_empty());
    assert_eq!(lattice.at("a"), BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
    let problem = plan.troubles["a"].problem(&actor("a"));
    assert_eq!((problem.code, problem.code.exit_code()), (ErrorCode::NoHealthyTarget, 7));
    let expected = "failover failed: no healthy target for 1 of a, lost with NEDGE01 (each needs 600 thousandths of a core, 10 MiB)";
    assert_eq!(problem.message, expected);
    let causes = ["NEDGE02: needs 600 thousandths of a core, has 400", "NEDGE03: it is Suspect: not heard as it should be"];
    assert_eq!(problem.causes, causes);
    let left = LeftBehind { actor: actor("a"), host: host_id(0), instances: 1, why: causes.map(str::to_owned).to_vec() };
    assert_eq!(plan.left_behind, [left]);
    // As soon as there is room it moves.
    lattice.hosts.push(host(3, "eu"));
    let plan = lattice.plan();
    assert_eq!((lattice.at("a"), plan.moved.len()), (BTreeMap::from([(1, 1), (2, 1), (3, 1)]), 1));
}

#[test]
fn what_is_bound_to_a_dead_host_stays_and_says_why() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("alone", component(&[0], 1));
    lattice.set("both", component(&[0, 1], 2));
    lattice.set("box", with(Needs { class: Class::Autonomous, ..Needs::default() }, 1));
    lattice.set("every", with(Needs { daemon: true, ..Needs::default() }, 1));
    lattice.set("strict", with(Needs { class: Class::Strict, ..Needs::default() }, 1));
    lattice.plan();
    lattice.apply();
    let home = |lattice: &Lattice, id: &str| *lattice.at(id).keys().next().unwrap();
    let (of_box, of_strict) = (home(&lattice, "box"), home(&lattice, "strict"));
    lattice.judge(0, Standing::Dead);
    lattice.judge(1, Standing::Dead);
    lattice.hosts.push(host(2, "eu"));
    let plan = lattice.plan();
    let why = |id: &str| plan.left_behind.iter().find(|left| left.actor.as_str() == id).map(|left| left.why.join(", "));
    assert_eq!(why("alone").unwrap(), "it is named for hosts of which no other one answers");
    assert_eq!(why("box").unwrap(), "it is autonomous: bound to its host");
    assert_eq!(why("every").unwrap(), "it runs on every host that fits");
    assert_eq!(why("strict").unwrap(), "it is strict, and the lease of its host has not been seen to end");
    assert_eq!((home(&lattice, "box"), home(&lattice, "strict")), (of_box, of_strict));
    assert_eq!(lattice.at("every").len(), 3);
    // Of two that were named the one that lives takes all.
    lattice.judge(1, Standing::Healthy);
    lattice.plan();
    assert_eq!(lattice.at("both"), BTreeMap::from([(1, 2)]));
}

#[test]
fn the_operator_s_word_counts_for_one_start_and_without_automatic_failover_for_all_there_is() {
    let mut lattice = running();
    let values = BTreeMap::from([("auto_failover".to_owned(), "false".to_owned())]);
    lattice.desired.put_config(ConfigName::new("failover").unwrap(), values).unwrap();
    lattice.judge(0, Standing::Dead);
    assert!(lattice.plan().is_empty());
    let start = lattice.hosts[1].incarnation.clone();
    lattice.desired.edit_node(&host_id(1), |node| node.failed_over = Some(start));
    let plan = lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(0, 1), (2, 2), (3, 1)]));
    assert_eq!(plan.moved[0].reason, "the operator says so");
    lattice.hosts[1] = restarted(1);
    lattice.set("a", with(spread(), 5));
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(0, 1), (1, 1), (2, 2), (3, 1)]), "a later start takes work");
}

#[test]
fn an_actor_in_quarantine_stays_until_it_is_changed() {
    let mut lattice = running();
    let digest = lattice.desired.components["a"].digest.clone();
    let quarantine = Quarantine {
        actor: actor("a"),
        digest,
        changed_at_ms: 7,
        hosts: BTreeSet::new(),
        reason: "it failed 5 times on 2 hosts".into(),
        at_ms: 0,
    };
    let stamp = |at_ms| crate::desired::Stamp { by: "test".into(), at_ms };
    lattice.desired.changed.insert("component.a".into(), stamp(7));
    lattice.verdicts.quarantined.insert(actor("a"), quarantine);
    lattice.judge(0, Standing::Dead);
    lattice.judge(1, Standing::Degraded);
    let plan = lattice.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.left_behind[0].why, ["it is in quarantine"]);
    let problem = plan.troubles["a"].problem(&actor("a"));
    assert_eq!(problem.message, "a is in quarantine and moved no more: it failed 5 times on 2 hosts");
    lattice.desired.changed.insert("component.a".into(), stamp(8));
    lattice.plan();
    assert!(!lattice.at("a").contains_key(&0));
}

#[test]
fn replicas_of_system_actors_move_too_and_never_together() {
    let mut lattice = Lattice::new(four());
    lattice.set("lattice-failover", ComponentSpec { system: Some(SystemActor::Failover), ..component(&[], 2) });
    lattice.plan();
    assert_eq!(lattice.at("lattice-failover"), BTreeMap::from([(0, 1), (1, 1)]));
    lattice.judge(0, Standing::Dead);
    lattice.silence(0);
    lattice.plan();
    assert_eq!(lattice.at("lattice-failover"), BTreeMap::from([(1, 1), (2, 1)]));
    lattice.judge(2, Standing::Dead);
    lattice.judge(3, Standing::Dead);
    assert!(lattice.plan().troubles.is_empty(), "one is enough for now");
    assert_eq!(lattice.at("lattice-failover"), BTreeMap::from([(1, 1), (2, 1)]), "it waits for its host");
}

#[test]
fn what_would_happen_without_a_host_is_known_before() {
    let mut lattice = running();
    lattice.set("strict", with(Needs { class: Class::Strict, ..Needs::default() }, 1));
    lattice.plan();
    let home = *lattice.at("strict").keys().next().unwrap();
    let values = BTreeMap::from([("auto_failover".to_owned(), "false".to_owned())]);
    lattice.desired.put_config(ConfigName::new("failover").unwrap(), values).unwrap();
    let inventory = Inventory::new(lattice.hosts.clone(), []);
    let dry = plan_without(&lattice.desired, Revision(9), &inventory, &lattice.verdicts, &lattice.state, &host_id(home));
    let moved: Vec<(&str, u32)> = dry.moved.iter().map(|moved| (moved.actor.as_str(), moved.instances)).collect();
    assert_eq!(moved, [("a", 1), ("strict", 1)]);
    assert!(dry.left_behind.is_empty());
    assert!(lattice.plan().is_empty(), "nothing has happened");
}

#[test]
fn hosts_are_told_how_often_to_report() {
    let mut lattice = running();
    assert_eq!(lattice.state.assignments[&host_id(0)].timing, TimingProfile::Lan);
    lattice.desired.put_config(ConfigName::new("failover").unwrap(), BTreeMap::from([("profile".into(), "test".into())])).unwrap();
    let plan = lattice.plan();
    assert_eq!(plan.changed.len(), 4);
    assert!(plan.changed.values().all(|assignment| assignment.timing == TimingProfile::Test));
}

#[test]
fn a_named_host_that_returns_takes_its_share_only_when_it_may() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("a", component(&[0, 1], 4));
    lattice.plan();
    lattice.judge(0, Standing::Dead);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(1, 4)]));
    lattice.judge(0, Standing::Returned);
    assert!(lattice.plan().is_empty(), "nobody gives up anything for it");
    lattice.judge(0, Standing::Healthy);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(0, 2), (1, 2)]), "where the operator wants it");
    lattice.judge(0, Standing::Suspect);
    assert!(lattice.plan().is_empty());
    lattice.set("a", component(&[0, 1], 2));
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(0, 1), (1, 1)]));
}
