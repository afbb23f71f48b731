//! Who owns which slot.

use super::lattice::*;
use super::*;
use crate::needs::{Class, Needs, Spread};
use crate::wire::verdict::Standing;

fn owned(class: Class, slots: u32) -> ComponentSpec {
    with(Needs { class, slots, spread: Some(Spread::Host), ..Needs::default() }, slots)
}

/// Three hosts, each of which runs one of three slots of `a`.
fn running(class: Class) -> Lattice {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu"), host(2, "eu")]);
    lattice.set("a", owned(class, 3));
    lattice.plan();
    lattice.apply();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (1, 1)), (2, (2, 1))]));
    lattice
}

#[test]
fn a_fenced_slot_moves_within_one_plan() {
    for standing in [Standing::Dead, Standing::Degraded] {
        let mut lattice = running(Class::Fenced);
        lattice.judge(1, standing);
        let plan = lattice.plan();
        assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (0, 2)), (2, (2, 1))]), "{standing:?}");
        assert!(!plan.handing_over);
        assert_eq!(plan.moved.len(), usize::from(standing == Standing::Dead));
        let ownership = lattice.state.assignments[&host_id(0)].components["a"].ownership.clone().unwrap();
        assert_eq!((ownership.class, ownership.of, lattice.at("a")), (Class::Fenced, 3, BTreeMap::from([(0, 2), (2, 1)])));
        assert!(lattice.plan().is_empty());
    }
}

#[test]
fn a_fenced_slot_without_another_place_stays_with_its_term() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("a", with(Needs { cpu: 900, ..owned(Class::Fenced, 2).needs }, 2));
    lattice.plan();
    lattice.apply();
    for standing in [Standing::Dead, Standing::Degraded] {
        lattice.judge(1, standing);
        let plan = lattice.plan();
        assert!(plan.is_empty(), "{standing:?}");
        assert_eq!(plan.troubles["a"].problem(&actor("a")).code == ErrorCode::NoHealthyTarget, standing == Standing::Dead);
    }
}

#[test]
fn a_strict_slot_moves_from_a_dead_host_when_its_lease_has_ended() {
    let mut lattice = running(Class::Strict);
    lattice.judge(1, Standing::Dead);
    lattice.silence(1);
    assert!(lattice.plan().is_empty());
    lattice.judge_ended(1, Standing::Dead);
    let plan = lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (0, 2)), (2, (2, 1))]));
    assert_eq!(plan.moved.len(), 1);
}

#[test]
fn a_strict_slot_whose_lease_has_ended_leaves_even_without_another_place() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    lattice.set("a", owned(Class::Strict, 1));
    lattice.plan();
    lattice.apply();
    lattice.judge_ended(0, Standing::Dead);
    let plan = lattice.plan();
    assert_eq!((lattice.slots("a").len(), plan.left_behind.len()), (0, 1));
    assert_eq!(plan.troubles["a"].problem(&actor("a")).code, ErrorCode::NoHealthyTarget);
    // It comes back to the same host with a new term only.
    lattice.judge_ended(0, Standing::Returned);
    lattice.plan();
    assert_eq!(lattice.slots("a").len(), 0);
    lattice.hosts[0].components.clear();
    lattice.judge(0, Standing::Healthy);
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 3))]));
}

#[test]
fn a_strict_slot_leaves_a_live_host_in_two_plans() {
    let mut lattice = running(Class::Strict);
    lattice.desired.edit_node(&host_id(1), |node| node.draining = true);
    let first = lattice.plan();
    let released = BTreeMap::from([(0, (0, 1)), (1, (-2, 1)), (2, (2, 1))]);
    assert_eq!(lattice.slots("a"), released);
    assert!(first.handing_over && first.choices.is_empty());
    assert!(lattice.plan().is_empty(), "the host has not said that it stopped it");
    // Taking the drain back does not take back what the host was told: it may have stopped it already.
    lattice.desired.edit_node(&host_id(1), |node| node.draining = false);
    assert!(lattice.plan().is_empty());
    lattice.desired.edit_node(&host_id(1), |node| node.draining = true);
    lattice.apply();
    let second = lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (0, 3)), (2, (2, 1))]));
    assert!(!second.handing_over && second.choices["a"].len() == 1);
}

#[test]
fn a_strict_slot_that_a_host_still_runs_is_given_to_nobody_else() {
    let mut lattice = running(Class::Strict);
    lattice.desired.edit_node(&host_id(1), |node| node.draining = true);
    lattice.plan();
    // It has applied its assignment and goes on with the slot, for whatever reason.
    let generation = lattice.state.assignments[&host_id(1)].generation;
    lattice.hosts[1].applied_generation = generation;
    assert!(lattice.plan().is_empty());
    // An actor that was taken away and came back at once.
    let mut lattice = running(Class::Strict);
    let spec = lattice.desired.components.remove("a").unwrap();
    lattice.plan();
    lattice.desired.components.insert(actor("a"), spec);
    let plan = lattice.plan();
    assert!(plan.handing_over && lattice.slots("a").is_empty());
    lattice.apply();
    lattice.plan();
    assert_eq!(lattice.slots("a").len(), 3);
}

#[test]
fn without_another_place_a_strict_slot_goes_on_where_it_is() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    lattice.set("a", owned(Class::Strict, 1));
    lattice.plan();
    lattice.apply();
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    assert!(lattice.plan().is_empty());
    lattice.desired.edit_node(&host_id(0), |node| (node.draining, node.failed_over) = (false, Incarnation::new("01").ok()));
    assert!(lattice.plan().is_empty());
    lattice.hosts.push(host(1, "eu"));
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (-1, 1))]));
}

#[test]
fn slots_follow_the_number_that_is_wanted() {
    let mut lattice = running(Class::Fenced);
    lattice.set("a", owned(Class::Fenced, 5));
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (1, 1)), (2, (2, 1)), (3, (0, 2)), (4, (1, 2))]));
    lattice.set("a", owned(Class::Fenced, 2));
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (1, 1))]));
}

#[test]
fn another_class_leaves_instances_where_they_are() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 4));
    lattice.plan();
    lattice.set("a", owned(Class::Fenced, 3));
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 2)), (1, (0, 2)), (2, (1, 2))]));
    lattice.set("a", owned(Class::Strict, 3));
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 2)), (1, (0, 2)), (2, (1, 2))]));
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 4));
    lattice.plan();
    assert_eq!((lattice.slots("a").len(), lattice.shares("a")), (0, vec![2, 2]));
}

#[test]
fn named_owners_take_over_and_keep_what_they_took() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu"), host(2, "eu")]);
    let spec = ComponentSpec { hosts: [host_id(0), host_id(1)].into(), ..owned(Class::Fenced, 1) };
    lattice.set("a", spec);
    lattice.plan();
    lattice.apply();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1))]));
    lattice.judge(0, Standing::Dead);
    lattice.plan();
    assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (1, 2))]));
    lattice.judge(0, Standing::Healthy);
    assert!(lattice.plan().is_empty(), "it does not go back by itself");
}

#[test]
fn autonomous_actors_own_their_host_s_slot() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("box", ComponentSpec { needs: Needs { class: Class::Autonomous, ..Needs::default() }, ..component(&[0, 1], 4) });
    lattice.plan();
    for n in [0, 1] {
        let component = &lattice.state.assignments[&host_id(n)].components["box"];
        let ownership = component.ownership.clone().unwrap();
        assert_eq!((component.instances, ownership.of, ownership.slots.len()), (2, 1, 1));
        assert_eq!(ownership.slots[&0].term, Generation(1));
    }
    lattice.judge(0, Standing::Dead);
    assert!(lattice.plan().is_empty());
}

#[test]
fn strict_actors_do_not_make_room_and_fenced_ones_do() {
    for (class, makes_room) in [(Class::Fenced, true), (Class::Strict, false)] {
        let mut lattice = Lattice::new(vec![host(0, "eu")]);
        lattice.set("a", with(Needs { cpu: 600, class, ..Needs::default() }, 1));
        lattice.plan();
        lattice.set("high", with(Needs { cpu: 600, priority: 9, ..Needs::default() }, 1));
        lattice.plan();
        assert_eq!((lattice.at("high").len() == 1, lattice.slots("a").is_empty()), (makes_room, makes_room), "{class:?}");
    }
}

#[test]
fn a_slot_that_its_host_has_lost_is_given_anew() {
    for class in [Class::Fenced, Class::Strict] {
        let mut lattice = running(class);
        let component = lattice.hosts[1].components.get_mut("a").unwrap();
        component.slots.clear();
        component.lost.insert(1, Generation(1));
        lattice.plan();
        assert_eq!(lattice.slots("a"), BTreeMap::from([(0, (0, 1)), (1, (1, 2)), (2, (2, 1))]), "{class:?}");
        assert!(lattice.plan().is_empty(), "what was lost was that of the plan before");
    }
}
