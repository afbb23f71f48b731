//! Ending the leases of hosts that are gone.

use super::*;

/// A world in which host 1 owns a slot of a strict actor, with its lease.
fn strict_world(replicas: usize) -> World {
    let mut world = World::new(3, replicas);
    world.bus.edit(add("s", Class::Strict));
    world.bus.place("s", Class::Strict, &[(1, 1)]);
    world.pass(2_000);
    renew(&mut world, 1, true);
    world
}

/// A renewal of host 1, with or without the heartbeat that tells of it.
fn renew(world: &mut World, number: u64, told: bool) {
    let record = LeaseRecord { host: host_id(1), incarnation: Incarnation::new("01").unwrap(), number, revoked: false };
    let key = lease_key();
    let at = entry(&world.bus.leases, &key).map_or(Revision(0), |(_, revision)| revision);
    let revision = write(&mut world.bus.leases, &mut world.bus.lease_rev, &key, wire::encode(&record), at).unwrap();
    if told {
        world.hosts.get_mut(&1).unwrap().lease_rev = revision.0;
        world.beat(1);
    }
}

fn lease_key() -> String {
    subject::lease_key(&Region::new("local").unwrap(), &host_id(1))
}

fn lease(world: &World) -> LeaseRecord {
    wire::decode(&world.bus.leases[&lease_key()].0).unwrap()
}

/// When the verdict says that the lease has ended, by the time now.
fn lease_ended_after(world: &mut World) -> Millis {
    let start = world.now;
    while !world.bus.verdict(1).is_some_and(|verdict| verdict.lease_ended) {
        world.pass(100);
        assert!(world.now - start < 120_000, "it never ends");
    }
    world.now - start
}

#[test]
fn a_lease_is_ended_a_whole_take_over_after_its_last_renewal_was_seen() {
    for replicas in [1, 2] {
        let mut world = strict_world(replicas);
        world.pass(1_000);
        world.kill(1);
        let after = lease_ended_after(&mut world);
        assert!((18_900..=19_100).contains(&after), "20 s after the renewal, one of which had passed: {after}");
        assert!(lease(&world).revoked);
        let verdict = world.bus.verdict(1).unwrap();
        assert_eq!((verdict.standing, verdict.evidence), (Standing::Dead, Evidence::ProcessGone));
        world.pass(5_000);
        assert_eq!(world.take(), [EventKind::Dead, EventKind::Dead], "taken for gone, then the end of its lease, once each");
        assert_eq!(world.bus.records.len(), 1);
    }
}

#[test]
fn a_lease_that_is_renewed_is_not_ended() {
    let mut world = strict_world(1);
    world.kill(1);
    // Its connection is down, but renewals get through.
    for number in 2..20 {
        world.pass(5_000);
        renew(&mut world, number, false);
        assert!(!lease(&world).revoked);
    }
    assert!(!world.bus.verdict(1).unwrap().lease_ended);
    let after = lease_ended_after(&mut world);
    assert!((20_000..=41_000).contains(&after), "a whole window after the last renewal was seen: {after}");
}

#[test]
fn a_lease_of_which_nothing_is_known_is_waited_for_as_long() {
    type Loss = fn(&mut World);
    let losses: [Loss; 3] = [
        |world| world.bus.leases.clear(),
        |world| drop(world.bus.leases.insert(lease_key(), (b"nonsense".to_vec(), Revision(9)))),
        // Made anew after the server had lost it, so that its revision says nothing.
        |world| {
            world.bus.leases.clear();
            world.bus.lease_rev = 0;
            renew(world, 7, false);
            let now = world.now;
            world.replicas[0].handle_failure(now);
        },
    ];
    for loss in losses {
        let mut world = strict_world(1);
        world.kill(1);
        world.pass(10_000);
        let dead = world.bus.verdict(1).is_some();
        assert!(dead);
        loss(&mut world);
        let after = lease_ended_after(&mut world);
        assert!(after >= 19_900, "{after}");
        assert!(lease(&world).revoked);
    }
}

#[test]
fn a_lease_that_another_replica_has_ended_is_ended_once_more() {
    let mut world = strict_world(1);
    world.pass(1_000);
    let revoked = LeaseRecord { revoked: true, ..lease(&world) };
    world.bus.leases.insert(lease_key(), (wire::encode(&revoked), Revision(99)));
    world.bus.lease_rev = 99;
    world.kill(1);
    assert!(lease_ended_after(&mut world) < 1_000);
    assert_eq!(world.bus.lease_rev, 100, "the write is the proof, not the read");
}

#[test]
fn the_lease_of_a_later_start_is_left_alone() {
    let mut world = strict_world(1);
    world.kill(1);
    world.pass(1_000);
    let later = LeaseRecord { incarnation: Incarnation::new("02").unwrap(), ..lease(&world) };
    world.bus.lease_rev += 1;
    world.bus.leases.insert(lease_key(), (wire::encode(&later), Revision(world.bus.lease_rev)));
    world.pass(60_000);
    assert!(!lease(&world).revoked && !world.bus.verdict(1).unwrap().lease_ended);
}

#[test]
fn nothing_is_proven_about_the_lease_of_a_host_that_nobody_heard() {
    let mut bus = Bus::default();
    bus.edit(add("s", Class::Strict));
    bus.place("s", Class::Strict, &[(5, 1)]);
    let mut world = World::with(bus, 2, 1);
    world.pass(120_000);
    let verdict = world.bus.verdict(5).unwrap();
    assert_eq!((verdict.standing, verdict.lease_ended), (Standing::Dead, false));
    assert!(world.bus.leases.is_empty());
}

#[test]
fn hosts_without_strict_actors_keep_their_leases() {
    let mut world = World::new(3, 1);
    world.bus.edit(add("f", Class::Fenced));
    world.bus.place("f", Class::Fenced, &[(1, 1)]);
    world.pass(2_000);
    renew(&mut world, 1, true);
    world.kill(1);
    world.pass(60_000);
    assert!(!lease(&world).revoked);
}
