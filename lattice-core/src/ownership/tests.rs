use super::*;
use crate::id::Digest;
use crate::inventory::tests::host_id;
use crate::wire::assignment::{InstancePolicy, Limits, Ownership};

fn id(slot: u32) -> SlotId {
    SlotId { actor: ActorId::new("a").unwrap(), slot }
}

fn record(owner: u8, incarnation: &str, term: u64) -> EpochRecord {
    EpochRecord { owner: host_id(owner), incarnation: Incarnation::new(incarnation).unwrap(), term: Generation(term) }
}

/// Actor `a` with these slots: number, term, release.
fn given(class: Class, slots: &[(u32, u64, bool)]) -> BTreeMap<ActorId, ComponentAssignment> {
    let slots = slots.iter().map(|(slot, term, release)| (*slot, SlotAssignment { term: Generation(*term), release: *release })).collect();
    let component = ComponentAssignment {
        image: String::new(),
        digest: Digest::of(b"a"),
        instances: 1,
        policy: InstancePolicy::default(),
        limits: Limits::default(),
        config: BTreeMap::new(),
        links: Vec::new(),
        ownership: Some(Ownership { class, of: 2, slots }),
    };
    BTreeMap::from([(ActorId::new("a").unwrap(), component)])
}

/// What is to be done, without reports and records.
fn actions(owner: &mut Owner) -> Vec<Action> {
    std::iter::from_fn(|| owner.poll_action()).filter(|action| !matches!(action, Action::Report | Action::Record(..))).collect()
}

/// Host 0, incarnation 02, with slot 0 of a ready actor by generation 5; the read is awaited.
fn reading(class: Class) -> Owner {
    let mut owner = Owner::new(host_id(0), Incarnation::new("02").unwrap());
    owner.handle_assignment(&given(class, &[(0, 5, false)]));
    assert_eq!(actions(&mut owner), [], "the actor is not there yet");
    owner.handle_actor(&id(0).actor, true);
    owner
}

/// The same, owned with epoch 9.
fn owning() -> Owner {
    let mut owner = reading(Class::Fenced);
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
    owner.handle_read(&id(0), Some((&record(1, "01", 4), 7)));
    assert_eq!(actions(&mut owner), [Action::Claim { slot: id(0), expected: 7, record: record(0, "02", 5) }]);
    owner.handle_claimed(&id(0), 7, 9);
    assert_eq!(actions(&mut owner), [Action::Start { slot: id(0), epoch: 9 }]);
    owner
}

#[test]
fn whose_claim_is_right() {
    let check = |found: Option<(EpochRecord, u64)>, claims_over: Option<u64>| {
        let mut owner = reading(Class::Fenced);
        actions(&mut owner);
        owner.handle_read(&id(0), found.as_ref().map(|(record, sequence)| (record, *sequence)));
        let expected = claims_over.map(|expected| Action::Claim { slot: id(0), expected, record: record(0, "02", 5) });
        assert_eq!(actions(&mut owner), expected.into_iter().collect::<Vec<_>>(), "{found:?}");
        assert_eq!(owner.epoch(&id(0)), None, "a read owns nothing");
    };
    check(None, Some(0));
    check(Some((record(1, "09", 4), 7)), Some(7));
    check(Some((record(0, "01", 5), 7)), Some(7));
    check(Some((record(0, "02", 5), 7)), Some(7));
    check(Some((record(1, "01", 6), 7)), None);
    check(Some((record(1, "01", 5), 7)), None);
    check(Some((record(0, "03", 5), 7)), None);
    check(Some((record(0, "03", 4), 7)), None);
}

#[test]
fn a_refused_claim_looks_again() {
    let mut owner = reading(Class::Fenced);
    actions(&mut owner);
    owner.handle_read(&id(0), None);
    actions(&mut owner);
    owner.handle_refused(&id(0), 0);
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
    owner.handle_claimed(&id(0), 0, 3);
    assert_eq!(actions(&mut owner), [], "an answer to an older question");
    owner.handle_read(&id(0), Some((&record(1, "01", 6), 2)));
    assert_eq!(owner.epoch(&id(0)), None);
}

#[test]
fn silence_is_followed_by_another_look() {
    let mut owner = reading(Class::Fenced);
    actions(&mut owner);
    owner.handle_failed(&id(0), Duration::from_secs(1));
    assert_eq!(owner.poll_timeout(), Some(Duration::from_millis(1_100)));
    owner.handle_timeout(Duration::from_millis(1_099));
    assert_eq!(actions(&mut owner), []);
    owner.handle_timeout(Duration::from_millis(1_100));
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
}

#[test]
fn who_is_refused_stops_first_and_looks_then() {
    let mut owner = owning();
    owner.handle_fenced(&id(0), 8);
    assert_eq!(actions(&mut owner), [], "that was an earlier epoch");
    owner.handle_fenced(&id(0), 9);
    assert_eq!(actions(&mut owner), [Action::Stop(id(0)), Action::Read(id(0))]);
    owner.handle_read(&id(0), Some((&record(1, "01", 6), 12)));
    assert_eq!(actions(&mut owner), []);
    owner.handle_assignment(&given(Class::Fenced, &[(0, 5, false)]));
    assert_eq!(actions(&mut owner), [], "lost until a newer plan gives it");
    owner.handle_assignment(&given(Class::Fenced, &[(0, 8, false)]));
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
}

#[test]
fn what_is_taken_away_stops() {
    let mut owner = owning();
    owner.handle_assignment(&given(Class::Fenced, &[(1, 6, false)]));
    assert_eq!(actions(&mut owner), [Action::Stop(id(0)), Action::Read(id(1))]);
    let mut owner = owning();
    owner.handle_assignment(&given(Class::Fenced, &[(0, 5, true)]));
    assert_eq!(actions(&mut owner), [Action::Stop(id(0))]);
    assert_eq!(owner.owned(&id(0).actor).count(), 0);
    let mut owner = owning();
    owner.handle_actor(&id(0).actor, false);
    assert_eq!(actions(&mut owner), [Action::Stop(id(0))]);
    owner.handle_actor(&id(0).actor, true);
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
}

#[test]
fn strict_runs_with_a_lease_only() {
    let mut owner = reading(Class::Strict);
    assert_eq!(actions(&mut owner), []);
    owner.handle_lease_held(false);
    assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
    owner.handle_read(&id(0), None);
    owner.handle_claimed(&id(0), 0, 3);
    actions(&mut owner);
    owner.handle_lease_lost();
    assert_eq!(actions(&mut owner), [Action::Stop(id(0))]);
    owner.handle_lease_held(false);
    assert_eq!(actions(&mut owner), [Action::Read(id(0))], "nobody ended it: it goes on, by a claim");
    owner.handle_lease_lost();
    owner.handle_lease_held(true);
    assert_eq!(actions(&mut owner), [], "it was ended: what this start had is others'");
    owner.handle_assignment(&given(Class::Strict, &[(0, 6, false)]));
    assert_eq!(actions(&mut owner), [Action::Read(id(0))], "unless it is given again");
}

#[test]
fn what_is_first_heard_of_after_the_lease_was_ended_may_be_from_before() {
    for held_first in [true, false] {
        let mut owner = Owner::new(host_id(0), Incarnation::new("01").unwrap());
        owner.handle_actor(&id(0).actor, true);
        owner.handle_lease_held(false);
        owner.handle_lease_lost();
        if held_first {
            owner.handle_lease_held(true);
        }
        owner.handle_assignment(&given(Class::Strict, &[(0, 5, false)]));
        if !held_first {
            owner.handle_lease_held(true);
        }
        assert_eq!(actions(&mut owner), [], "the plan is told that it is lost, and gives it anew");
        assert_eq!(owner.lost(&id(0).actor).collect::<Vec<_>>(), [(0, Generation(5))]);
        owner.handle_assignment(&given(Class::Strict, &[(0, 8, false)]));
        assert_eq!(actions(&mut owner), [Action::Read(id(0))]);
    }
}

#[test]
fn autonomous_needs_nobody() {
    let mut owner = reading(Class::Autonomous);
    assert_eq!(actions(&mut owner), [Action::Start { slot: id(0), epoch: 0 }]);
    owner.handle_lease_lost();
    assert_eq!(actions(&mut owner), []);
}
