//! What moves, what makes room, and what stays.

use super::lattice::*;
use super::*;
use crate::needs::{Class, Needs, Spread, Strategy};
use crate::wire::verdict::Verdicts;

#[test]
fn spread_over_regions_then_hosts_and_scaled_both_ways() {
    let mut lattice = Lattice::new(four());
    let spread = Needs { spread: Some(Spread::Label("region".into())), ..Needs::default() };
    lattice.hosts.push(host(4, "us"));
    lattice.set("a", with(spread.clone(), 3));
    lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 0, 1, 0, 1]);
    lattice.set("a", with(spread.clone(), 12));
    lattice.plan();
    assert_eq!(lattice.shares("a"), [2, 2, 2, 2, 4], "four in each region");
    lattice.set("a", with(spread, 5));
    lattice.plan();
    let shares = lattice.shares("a");
    assert_eq!([shares[0] + shares[1], shares[2] + shares[3], shares[4]].iter().max(), Some(&2), "{shares:?}");
    assert_eq!(shares.iter().sum::<u32>(), 5);
}

#[test]
fn a_preferred_region_is_filled_first() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs { cpu: 400, region: Some(crate::id::Region::new("ap").unwrap()), ..Needs::default() }, 5));
    let plan = lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 0, 2, 2]);
    let reasons: Vec<&str> = plan.choices["a"].iter().map(|choice| choice.reason.as_str()).collect();
    assert_eq!(reasons[0], "emptiest that fits, score 0.00, in ap");
    assert!(reasons[2].ends_with(", no host of ap can take it"), "{reasons:?}");
}

#[test]
fn what_is_measured_counts_if_it_is_more() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs { cpu: 100, memory_mb: 100, ..Needs::default() }, 1));
    lattice.plan();
    lattice.apply();
    let component = lattice.hosts[0].components.get_mut("a").unwrap();
    (component.cpu_used, component.memory_peak_mb) = (700, 10);
    lattice.set("a", with(Needs { cpu: 100, memory_mb: 100, ..Needs::default() }, 8));
    let plan = lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 1, 1, 1], "each is taken to need 700");
    let problem = plan.troubles["a"].problem(&actor("a"));
    let expected = "actor scale failed: insufficient resources: no host can take 4 more of a \
                    (each needs 700 thousandths of a core as measured, 100 MiB)";
    assert_eq!(problem.message, expected);
    assert_eq!(problem.causes[0], "NEDGE01: needs 700 thousandths of a core, has 300");
}

#[test]
fn who_matters_more_displaces_as_few_as_possible_of_the_least() {
    let mut lattice = Lattice::new(four());
    for (id, priority) in [("low", 1), ("mid", 5)] {
        lattice.set(id, with(Needs { cpu: 250, priority, ..Needs::default() }, 8));
    }
    lattice.plan();
    assert_eq!((lattice.shares("low"), lattice.shares("mid")), (vec![2; 4], vec![2; 4]));
    lattice.set("high", with(Needs { cpu: 500, priority: 9, ..Needs::default() }, 1));
    let plan = lattice.plan();
    assert_eq!(lattice.shares("high").iter().sum::<u32>(), 1);
    assert_eq!(lattice.shares("mid"), [2; 4]);
    assert_eq!(lattice.shares("low").iter().sum::<u32>(), 6);
    let displaced: Vec<(&str, &str, u32)> = plan.displaced.iter().map(|one| (one.actor.as_str(), one.by.as_str(), one.instances)).collect();
    assert_eq!(displaced, [("low", "high", 2)]);
    assert!(matches!(plan.troubles["low"], Trouble::Missing { missing: 2, .. }));
    assert!(!plan.troubles.contains_key("high"));
}

#[test]
fn what_is_displaced_goes_where_there_is_room() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    lattice.set("low", with(Needs { cpu: 600, priority: 1, ..Needs::default() }, 1));
    lattice.plan();
    lattice.hosts.push(host(1, "ap"));
    let must = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
    lattice.set("high", with(Needs { cpu: 600, priority: 2, labels: must, ..Needs::default() }, 1));
    let plan = lattice.plan();
    assert_eq!((lattice.shares("high"), lattice.shares("low")), (vec![1, 0], vec![0, 1]));
    assert!(plan.troubles.is_empty() && plan.displaced.len() == 1);
}

#[test]
fn autonomous_actors_never_make_room_and_never_leave() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("box", with(Needs { cpu: 900, class: Class::Autonomous, ..Needs::default() }, 1));
    lattice.plan();
    let home = lattice.shares("box");
    lattice.set("high", with(Needs { cpu: 600, priority: 200, ..Needs::default() }, 2));
    let plan = lattice.plan();
    assert_eq!(lattice.shares("box"), home);
    assert!(matches!(plan.troubles["high"], Trouble::Missing { missing: 1, .. }));
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    lattice.plan();
    assert_eq!(lattice.shares("box"), home);
}

#[test]
fn those_that_keep_apart_do_so_in_either_direction() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("a", with(Needs::default(), 1));
    lattice.set("b", with(Needs { anti_affinity: BTreeSet::from([actor("a")]), ..Needs::default() }, 2));
    let plan = lattice.plan();
    assert_eq!((lattice.shares("a"), lattice.shares("b")), (vec![1, 0], vec![0, 2]));
    assert!(plan.troubles.is_empty());
    lattice.set("a", with(Needs::default(), 2));
    lattice.plan();
    assert_eq!(lattice.shares("a"), [2, 0], "b does not want it there, although a says nothing");
}

#[test]
fn a_cordon_keeps_what_is_there_and_lets_nothing_in() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 4));
    lattice.plan();
    lattice.desired.edit_node(&host_id(0), |node| node.cordoned = true);
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 8));
    lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 3, 2, 2]);
    lattice.set("pinned", component(&[0], 1));
    let problem = lattice.plan().troubles["pinned"].problem(&actor("pinned"));
    assert_eq!(problem.causes, ["NEDGE01: it is cordoned"]);
}

#[test]
fn a_drain_moves_first_and_stops_afterwards() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 4));
    lattice.plan();
    lattice.apply();
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    let first = lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 2, 1, 1], "the new one is not ready yet");
    assert!(first.handing_over);
    assert!(lattice.plan().is_empty(), "nothing more until it is");
    lattice.apply();
    let second = lattice.plan();
    assert_eq!(lattice.shares("a"), [0, 2, 1, 1]);
    assert!(!second.handing_over && second.troubles.is_empty());
    lattice.desired.edit_node(&host_id(0), |node| node.draining = false);
    assert!(lattice.plan().is_empty(), "coming back attracts nothing");
}

#[test]
fn a_drain_without_room_elsewhere_leaves_things_running() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("a", with(Needs { cpu: 800, ..Needs::default() }, 2));
    lattice.plan();
    lattice.apply();
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    let plan = lattice.plan();
    assert_eq!(lattice.shares("a"), [1, 1]);
    assert!(matches!(plan.troubles["a"], Trouble::Missing { missing: 1, .. }));
}

#[test]
fn a_large_host_is_drained_a_few_actors_at_a_time() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    for n in 0..50 {
        lattice.set(&format!("a{n:02}"), with(Needs::default(), 1));
    }
    lattice.plan();
    lattice.apply();
    lattice.hosts.push(host(1, "eu"));
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    let mut rounds = 0;
    while !lattice.state.assignments[&host_id(0)].components.is_empty() {
        lattice.plan();
        let twice = lattice.desired.components.keys().filter(|id| lattice.shares(id.as_str()) == [1, 1]).count();
        assert!(twice <= 20, "{twice} at once");
        lattice.apply();
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!(rounds >= 3);
}

#[test]
fn a_host_that_comes_and_goes_moves_nothing() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs { spread: Some(Spread::Host), ..Needs::default() }, 6));
    lattice.plan();
    lattice.apply();
    let all = lattice.hosts.clone();
    for round in 0..10 {
        lattice.hosts = if round % 2 == 0 { all[1..].to_vec() } else { all.clone() };
        assert!(lattice.plan().is_empty(), "round {round}");
    }
}

#[test]
fn daemons_run_on_every_host_that_fits_also_on_later_ones() {
    let mut lattice = Lattice::new(four());
    lattice.set("d", with(Needs { daemon: true, labels: BTreeMap::from([("region".into(), "eu".into())]), ..Needs::default() }, 2));
    lattice.plan();
    assert_eq!(lattice.shares("d"), [2, 2, 0, 0]);
    lattice.hosts.push(host(4, "eu"));
    lattice.plan();
    assert_eq!(lattice.shares("d"), [2, 2, 0, 0, 2]);
    lattice.apply();
    lattice.desired.edit_node(&host_id(0), |node| node.draining = true);
    lattice.plan();
    assert_eq!(lattice.shares("d"), [0, 2, 0, 0, 2]);
}

#[test]
fn a_stopped_host_s_work_moves_unless_it_was_named() {
    let mut lattice = Lattice::new(vec![host(0, "eu"), host(1, "eu")]);
    lattice.set("free", with(Needs::default(), 2));
    lattice.set("named", component(&[0], 1));
    lattice.plan();
    lattice.apply();
    let incarnation = lattice.hosts[0].incarnation.clone();
    lattice.desired.edit_node(&host_id(0), |node| node.stop = Some(incarnation));
    lattice.plan();
    lattice.apply();
    lattice.plan();
    assert_eq!((lattice.shares("free"), lattice.shares("named")), (vec![0, 2], vec![1, 0]));
}

#[test]
fn round_robin_takes_turns_over_actors() {
    let mut lattice = Lattice::new(four());
    for id in ["a", "b", "c"] {
        lattice.set(id, with(Needs { strategy: Some(Strategy::RoundRobin), ..Needs::default() }, 2));
    }
    lattice.plan();
    assert_eq!((lattice.shares("a"), lattice.shares("b"), lattice.shares("c")), (vec![1, 1, 0, 0], vec![0, 0, 1, 1], vec![1, 1, 0, 0]));
}

#[test]
fn very_many_instances_are_placed_in_a_bounded_number_of_steps() {
    let mut lattice = Lattice::new(four());
    lattice.set("a", with(Needs::default(), crate::desired::MAX_INSTANCES));
    lattice.plan();
    let shares = lattice.shares("a");
    assert_eq!(shares.iter().sum::<u32>(), crate::desired::MAX_INSTANCES);
    assert!(shares.iter().all(|share| share.abs_diff(250_000) < 1000), "{shares:?}");
    lattice.set("a", with(Needs::default(), 10));
    lattice.plan();
    assert_eq!(lattice.shares("a").iter().sum::<u32>(), 10);
}

#[test]
fn a_fault_of_one_actor_is_no_fault_of_others() {
    let mut lattice = Lattice::new(four());
    let provider = ProviderSpec { image: "builtin://kv-nats".into(), kind: ProviderKind::KvNats, hosts: BTreeSet::new(), config: vec![] };
    lattice.desired.providers.insert(ProviderId::new("kv").unwrap(), provider);
    lattice.set("a", component(&[0], 1));
    lattice.plan();
    let before = lattice.state.clone();
    lattice.desired.put_link(link("a", "kv", Contract::KeyValue, &[("bucket", "LAT_x")]));
    lattice.set("b", component(&[1], 1));
    let plan = lattice.plan();
    assert!(matches!(plan.troubles["a"], Trouble::Links(_)));
    assert_eq!(lattice.state.assignments[&host_id(0)], before.assignments[&host_id(0)], "it stays as it was");
    assert_eq!(lattice.shares("b"), [0, 1, 0, 0]);
}

#[test]
fn an_edit_answers_for_what_it_breaks_only() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    lattice.set("large", with(Needs { cpu: 2000, ..Needs::default() }, 1));
    let inventory = Inventory::new(lattice.hosts.clone(), []);
    let before = plan(&lattice.desired, Revision(1), &inventory, &Verdicts::default(), &lattice.state);
    lattice.set("small", with(Needs { cpu: 1, ..Needs::default() }, 1));
    let fine = plan(&lattice.desired, Revision(1), &inventory, &Verdicts::default(), &lattice.state);
    assert_eq!(fine.check_against(&before), Ok(()));
    lattice.set("large", with(Needs { cpu: 2000, ..Needs::default() }, 2));
    let worse = plan(&lattice.desired, Revision(1), &inventory, &Verdicts::default(), &lattice.state);
    assert!(worse.check_against(&before).unwrap_err().message.contains("2 more of large"));
}

#[test]
fn settings_of_the_scheduler_hold_for_those_who_say_nothing() {
    let mut lattice = Lattice::new(four());
    let set = |lattice: &mut Lattice, name: &str, value: &str| {
        let values = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        lattice.desired.put_config(ConfigName::new("lattice-scheduler").unwrap(), values).unwrap();
    };
    set(&mut lattice, "strategy", "pack");
    lattice.set("a", with(Needs { cpu: 100, ..Needs::default() }, 4));
    lattice.set("b", with(Needs { cpu: 100, strategy: Some(Strategy::Balanced), ..Needs::default() }, 3));
    let plan = lattice.plan();
    assert_eq!(lattice.shares("a").iter().max(), Some(&4));
    assert_eq!(lattice.shares("b").iter().max(), Some(&1));
    assert!(plan.troubles.is_empty());
    set(&mut lattice, "strategy", "fastest");
    let problem = lattice.plan().troubles["lattice-scheduler"].problem(&actor("lattice-scheduler"));
    assert_eq!(problem.message, "settings of lattice-scheduler make no sense: `strategy` = `fastest`");
}

#[test]
fn replicas_of_a_system_actor_never_share_a_host() {
    let mut lattice = Lattice::new(vec![host(0, "eu")]);
    let spec = ComponentSpec { system: Some(SystemActor::Scheduler), ..component(&[], 2) };
    lattice.set("lattice-scheduler", spec);
    let plan = lattice.plan();
    assert_eq!(lattice.shares("lattice-scheduler"), [1]);
    assert!(plan.troubles.is_empty(), "one host is enough to begin with");
    lattice.hosts.push(host(1, "eu"));
    lattice.plan();
    assert_eq!(lattice.shares("lattice-scheduler"), [1, 1]);
    lattice.hosts.push(host(2, "eu"));
    assert!(!lattice.plan().changed.values().any(|assignment| assignment.components.len() > 1));
    assert_eq!(lattice.shares("lattice-scheduler"), [1, 1, 0]);
    let providers: Vec<&str> = lattice.state.assignments[&host_id(1)].providers.keys().map(ProviderId::as_str).collect();
    assert_eq!(providers, ["lattice-keyvalue", "lattice-messaging", "lattice-store"]);
}
