//! Actors that fail wherever they land.

use super::*;

/// Sets how host `n` reports the actor, and lets it be heard.
fn report_crashes(world: &mut World, n: u8, crashes: u32, state: ComponentState) {
    let component = ComponentReport { crashes, ..ComponentReport::new(Digest::of(b"a"), state, 1) };
    world.hosts.get_mut(&n).unwrap().components.insert(actor("a"), component);
    world.beat(n);
}

fn quarantined(world: &World) -> bool {
    world.replicas.iter().all(|replica| !replica.status(world.now).quarantined.is_empty())
}

#[test]
fn an_actor_that_fails_on_several_hosts_is_quarantined() {
    let running = ComponentState::Running;
    let failed = ComponentState::Failed("no".into());
    let check = |reports: &[(u8, u32, &ComponentState)], system: bool, expected: bool| {
        let mut world = World::new(6, 2);
        world.bus.edit(add("a", Class::Shared));
        world.bus.edit(|desired| {
            desired.components.get_mut(&actor("a")).unwrap().system = system.then_some(SystemActor::Scheduler);
        });
        world.pass(1_000);
        reports.iter().for_each(|(n, crashes, state)| report_crashes(&mut world, *n, *crashes, (*state).clone()));
        world.pass(2_000);
        assert_eq!(quarantined(&world), expected, "{reports:?}");
        let said = world.take().iter().filter(|kind| **kind == EventKind::Quarantined).count();
        assert_eq!(said, usize::from(expected), "once");
    };
    check(&[(0, 4, &running), (1, 1, &running)], false, true);
    check(&[(0, 4, &running), (1, 1, &running)], true, false);
    check(&[(0, 100, &running)], false, false);
    check(&[(0, 2, &running), (1, 2, &running)], false, false);
    check(&[(0, 4, &running), (0, 0, &running), (1, 4, &running)], false, false);
    check(&[(0, 0, &failed), (1, 0, &failed)], false, false);
    check(&[(0, 0, &failed), (1, 0, &failed), (2, 0, &failed), (3, 0, &failed), (4, 0, &failed)], false, true);
}

#[test]
fn what_a_policy_forbids_is_no_failure() {
    for held in [true, false] {
        let mut world = World::new(6, 1);
        world.bus.edit(add("a", Class::Shared));
        world.pass(1_000);
        for n in 0..5 {
            let failed = ComponentState::Failed("capability denied: wasmcloud:keyvalue".into());
            let component = ComponentReport { held, ..ComponentReport::new(Digest::of(b"a"), failed, 0) };
            world.hosts.get_mut(&n).unwrap().components.insert(actor("a"), component);
            world.beat(n);
        }
        world.pass(2_000);
        assert_eq!(quarantined(&world), !held);
    }
}

#[test]
fn the_operators_change_lifts_a_quarantine() {
    let mut world = World::new(3, 1);
    world.bus.edit(add("a", Class::Shared));
    world.pass(1_000);
    report_crashes(&mut world, 0, 3, ComponentState::Running);
    report_crashes(&mut world, 1, 3, ComponentState::Running);
    assert!(quarantined(&world));
    world.bus.edit(|desired| desired.components.get_mut(&actor("a")).unwrap().digest = Digest::of(b"b"));
    world.pass(3_000);
    assert!(!quarantined(&world));
    // The same code again: what was counted before does not count.
    world.bus.edit(|desired| desired.components.get_mut(&actor("a")).unwrap().digest = Digest::of(b"c"));
    world.pass(3_000);
    assert!(!quarantined(&world));
}

#[test]
fn an_actor_that_kills_its_hosts_is_quarantined() {
    let mut world = World::new(8, 2);
    world.bus.edit(add("a", Class::Shared));
    world.bus.place("a", Class::Shared, &[(0, 1)]);
    world.pass(2_000);
    for n in 0..4 {
        assert!(!quarantined(&world), "{n}");
        world.kill(n);
        world.pass(200);
        world.bus.place("a", Class::Shared, &[(n + 1, 1)]);
        world.pass(40_000);
    }
    assert!(quarantined(&world), "three hosts died within a minute after a failover had brought it");
    let quarantine = &world.replicas[0].status(world.now).quarantined[0];
    assert_eq!(quarantine.hosts, [1, 2, 3].map(host_id).into());
}
