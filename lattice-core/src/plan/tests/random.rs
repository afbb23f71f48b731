//! Many random lattices: no rule is ever broken, nothing moves without need, and packing needs few hosts.

use super::*;
use crate::id::Region;
use crate::needs::{Needs, Spread, Strategy};
use crate::wire::report::{HostReport, Profile};
use crate::wire::verdict::Verdicts;

/// A small generator of its own, so that a case can be named by its seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap() % limit
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}

const REGIONS: [&str; 3] = ["eu", "ap", "us"];

fn random_hosts(dice: &mut Dice) -> Vec<HostReport> {
    let count = u8::try_from(1 + dice.below(6)).unwrap();
    let host = |n| HostReport {
        region: Region::new(REGIONS[dice.below(3) as usize]).unwrap(),
        labels: if dice.chance(30) { BTreeMap::from([("gpu".into(), "yes".into())]) } else { BTreeMap::new() },
        profile: Profile {
            cpu_capacity: dice.below(4) * 1000,
            memory_mb: dice.below(4) * 512,
            cpu_used: dice.below(1200),
            memory_used_mb: dice.below(600),
        },
        ..report(n, &format!("H{n}"))
    };
    (0..count).map(host).collect()
}

fn random_spec(dice: &mut Dice, hosts: u8) -> ComponentSpec {
    let mut needs = Needs {
        cpu: if dice.chance(60) { dice.below(900) } else { 0 },
        memory_mb: if dice.chance(60) { dice.below(500) } else { 0 },
        priority: u8::try_from(dice.below(4)).unwrap(),
        ..Needs::default()
    };
    if dice.chance(30) {
        needs.region = Some(Region::new(REGIONS[dice.below(3) as usize]).unwrap());
    }
    if dice.chance(15) {
        needs.labels.insert("gpu".into(), "yes".into());
    }
    if dice.chance(20) {
        needs.anti_affinity.insert(actor(&format!("a{}", dice.below(6))));
    }
    match dice.below(6) {
        0 => needs.spread = Some(Spread::Host),
        1 => needs.spread = Some(Spread::Label("region".into())),
        2 => needs.strategy = Some(Strategy::Pack),
        3 => needs.strategy = Some(Strategy::RoundRobin),
        4 if dice.chance(30) => needs.daemon = true,
        _ => {}
    }
    let named: Vec<u8> = if dice.chance(15) { (0..hosts).filter(|_| dice.chance(50)).collect() } else { Vec::new() };
    ComponentSpec { needs, ..component(&named, 1 + dice.below(8)) }
}

fn random_desired(dice: &mut Dice, hosts: u8) -> Desired {
    let mut desired = Desired::default();
    for n in 0..1 + dice.below(6) {
        let id = actor(&format!("a{n}"));
        let mut spec = random_spec(dice, hosts);
        spec.needs.anti_affinity.remove(&id);
        desired.components.insert(id, spec);
    }
    for n in 0..hosts {
        if dice.chance(10) {
            desired.edit_node(&host_id(n), |node| node.cordoned = true);
        }
    }
    desired
}

/// What must hold of the plan that was made for an empty lattice.
fn check(desired: &Desired, inventory: &Inventory, state: &PlanState, plan: &Plan, seed: u64) {
    for (id, report) in &inventory.hosts {
        let assignment = &state.assignments[id];
        let (mut cpu, mut memory) = (0_u64, 0_u64);
        for (actor, component) in &assignment.components {
            let needs = &desired.components[actor].needs;
            cpu += u64::from(needs.cpu) * u64::from(component.instances);
            memory += u64::from(needs.memory_mb) * u64::from(component.instances);
            assert!(needs.labels.iter().all(|(name, value)| report.labels.get(name) == Some(value)), "seed {seed}: labels of {actor}");
            let near = assignment.components.keys().find(|other| needs.anti_affinity.contains(*other));
            assert_eq!(near, None, "seed {seed}: {actor} keeps away from");
            assert!(!desired.nodes.contains_key(id), "seed {seed}: {actor} on a cordoned host");
        }
        let free = |capacity: u32, used: u32| u64::from(capacity.saturating_sub(used));
        assert!(cpu <= free(report.profile.cpu_capacity, report.profile.cpu_used), "seed {seed}: {cpu} on {report:?}");
        assert!(memory <= free(report.profile.memory_mb, report.profile.memory_used_mb), "seed {seed}: {memory} on {report:?}");
    }
    for (actor, spec) in desired.components.iter().filter(|(_, spec)| !spec.needs.daemon) {
        let placed: u32 = state.shares_of(actor).values().sum();
        let missing = match plan.troubles.get(actor) {
            Some(Trouble::Missing { missing, .. }) => *missing,
            Some(other) => panic!("seed {seed}: {other:?}"),
            None => 0,
        };
        assert_eq!(placed + missing, spec.max, "seed {seed}: {actor}");
    }
}

#[test]
fn no_rule_is_broken_in_100_000_lattices() {
    for seed in 0..100_000 {
        let mut dice = Dice(seed);
        let hosts = random_hosts(&mut dice);
        let desired = random_desired(&mut dice, u8::try_from(hosts.len()).unwrap());
        let inventory = Inventory::new(hosts, []);
        let plan = plan(&desired, Revision(1), &inventory, &Verdicts::default(), &PlanState::default());
        let state = PlanState::default().after(&plan, Revision(1));
        check(&desired, &inventory, &state, &plan, seed);
        if seed % 10 == 0 {
            let again = super::super::plan(&desired, Revision(1), &inventory, &Verdicts::default(), &PlanState::default());
            assert_eq!(serde_json::to_vec(&again.changed).unwrap(), serde_json::to_vec(&plan.changed).unwrap(), "seed {seed}");
        }
    }
}

#[test]
fn a_plan_of_what_is_planned_changes_nothing() {
    for seed in 0..10_000 {
        let mut dice = Dice(seed);
        let mut hosts = random_hosts(&mut dice);
        let desired = random_desired(&mut dice, u8::try_from(hosts.len()).unwrap());
        let inventory = Inventory::new(hosts.clone(), []);
        let state =
            PlanState::default().after(&plan(&desired, Revision(1), &inventory, &Verdicts::default(), &PlanState::default()), Revision(1));
        // What it used before, a host may use or not use by now.
        for host in &mut hosts {
            host.profile.cpu_used = dice.below(3000);
        }
        let next = plan(&desired, Revision(2), &Inventory::new(hosts, []), &Verdicts::default(), &state);
        let moved = |host: &HostId, after: &Assignment| {
            let before = &state.assignments[host].components;
            before.iter().any(|(id, component)| after.components.get(id).is_none_or(|after| after.instances < component.instances))
        };
        let displaced = !next.displaced.is_empty();
        assert!(displaced || !next.changed.iter().any(|(host, after)| moved(host, after)), "seed {seed}");
    }
}

/// Hosts that best-fit-decreasing needs, by the larger of both sizes.
fn best_fit_decreasing(items: &[(u32, u32)], capacity: (u32, u32)) -> usize {
    let mut items = items.to_vec();
    items.sort_by_key(|(cpu, memory)| std::cmp::Reverse(*cpu.max(memory)));
    let mut bins: Vec<(u32, u32)> = Vec::new();
    for (cpu, memory) in items {
        let fits = bins.iter_mut().filter(|(free_cpu, free_memory)| *free_cpu >= cpu && *free_memory >= memory);
        match fits.min_by_key(|(free_cpu, free_memory)| free_cpu + free_memory) {
            Some(bin) => *bin = (bin.0 - cpu, bin.1 - memory),
            None => bins.push((capacity.0 - cpu, capacity.1 - memory)),
        }
    }
    bins.len()
}

#[test]
fn packing_needs_few_hosts() {
    let (mut ours, mut theirs) = (0, 0);
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let items: Vec<(u32, u32)> = (0..150).map(|_| (20 + dice.below(380), 20 + dice.below(380))).collect();
        let letters = |n: usize| format!("{n:03}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect::<String>();
        let host = |n: usize| HostReport {
            id: HostId::new(format!("N{}{}", letters(n), "A".repeat(52))).unwrap(),
            name: crate::id::HostName::new(format!("H{n:03}")).unwrap(),
            profile: Profile { cpu_capacity: 1000, memory_mb: 1000, cpu_used: 0, memory_used_mb: 0 },
            ..report(0, "x")
        };
        let inventory = Inventory::new((0..120).map(host), []);
        let mut desired = Desired::default();
        for (n, (cpu, memory_mb)) in items.iter().enumerate() {
            let needs = Needs { cpu: *cpu, memory_mb: *memory_mb, strategy: Some(Strategy::Pack), ..Needs::default() };
            desired.components.insert(actor(&format!("a{n:03}")), ComponentSpec { needs, ..component(&[], 1) });
        }
        let plan = plan(&desired, Revision(1), &inventory, &Verdicts::default(), &PlanState::default());
        assert!(plan.troubles.is_empty());
        ours += plan.changed.values().filter(|assignment| !assignment.components.is_empty()).count();
        theirs += best_fit_decreasing(&items, (1000, 1000));
    }
    assert!(ours * 100 <= theirs * 102, "{ours} hosts, best-fit-decreasing needs {theirs}");
}
