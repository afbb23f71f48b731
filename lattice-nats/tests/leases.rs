//! Leases and verdicts on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use async_nats::header::NATS_MESSAGE_TTL;
use futures::StreamExt as _;
use lattice_core::id::{HostName, Incarnation, Region, Revision};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::ownership::LeaseRecord;
use lattice_core::wire::verdict::{Evidence, Standing, Verdict, host_key};
use lattice_nats::bucket::{Bucket, KeyChange};
use lattice_nats::{CommitError, StoreError};
use support::{DEADLINE, World, host};

fn region() -> Region {
    Region::new("eu").unwrap()
}

fn lease(number: u64, revoked: bool) -> LeaseRecord {
    LeaseRecord { host: host('A'), incarnation: Incarnation::new("01").unwrap(), number, revoked }
}

fn verdict(standing: Standing) -> Verdict {
    Verdict {
        host: host('A'),
        name: HostName::new("NEDGE01").unwrap(),
        region: region(),
        incarnation: Incarnation::new("01").unwrap(),
        standing,
        evidence: Evidence::Silent,
        reason: "heartbeat timeout: 3000ms".to_owned(),
        lease_ended: false,
        flaps: 0,
        at_ms: 1,
        by: "NEDGE02".to_owned(),
    }
}

#[tokio::test]
async fn a_lease_is_written_over_the_last_one_only_and_expires() {
    let world = World::start().await;
    let lattice = world.ready().await;
    lattice.ensure().await.expect("a second time is fine");
    assert_eq!(lattice.read_lease(&region(), &host('A')).await.unwrap(), (None, Revision(0)));
    let first = lattice.write_lease(&region(), &lease(1, false), Revision(0)).await.unwrap();
    let second = lattice.write_lease(&region(), &lease(2, false), first).await.unwrap();
    let late = lattice.write_lease(&region(), &lease(3, false), first).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "{late:?}");
    assert_eq!(lattice.read_lease(&region(), &host('A')).await.unwrap(), (Some(lease(2, false)), second));

    let stream = lattice.connection().jetstream().get_stream(subject::lease_stream(lattice.name())).await.unwrap();
    let stored = stream.get_last_raw_message_by_subject(&subject::lease(lattice.name(), &region(), &host('A'))).await.unwrap();
    assert_eq!(stored.headers.get(NATS_MESSAGE_TTL).unwrap().as_str(), "60", "the server forgets it by itself");
    assert_eq!(stream.cached_info().state.messages, 1);
}

#[tokio::test]
async fn whoever_ends_a_lease_ends_it_for_good() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let held = lattice.write_lease(&region(), &lease(1, false), Revision(0)).await.unwrap();
    // As a system actor's store does it: the stream as if it were a bucket.
    let (stream, prefix) = (subject::lease_stream(lattice.name()), subject::lease_prefix(lattice.name()));
    let leases = Bucket::of_stream(lattice.connection(), &stream, &prefix);
    let key = subject::lease_key(&region(), &host('A'));
    assert_eq!(leases.snapshot().await.unwrap().entries[&key].revision, held);
    let value = Some(wire::encode(&lease(1, true)).into());
    let ended = leases.commit(&[KeyChange { key: key.clone(), value, expected: Some(held) }], None).await.unwrap();
    let renewed = lattice.write_lease(&region(), &lease(2, false), held).await;
    assert!(matches!(renewed, Err(CommitError::Conflict { .. })), "{renewed:?}");
    assert_eq!(lattice.read_lease(&region(), &host('A')).await.unwrap(), (Some(lease(1, true)), ended));
    assert_eq!(leases.get_latest(&key).await.unwrap().unwrap().revision, ended);
    assert_eq!(leases.info().await.unwrap().keys, 1);
}

#[tokio::test]
async fn a_verdict_is_written_over_the_last_one_and_heard() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    assert!(matches!(lattice.read_verdicts().await, Err(StoreError::Missing { .. })));
    lattice.ensure().await.unwrap();
    let mut changes = lattice.subscribe(subject::verdict_changes(lattice.name())).await.unwrap();
    assert_eq!(lattice.read_verdict(&host('A')).await.unwrap(), (None, Revision(0)));
    let first = lattice.commit_verdict(&verdict(Standing::Suspect), Revision(0)).await.unwrap();
    let second = lattice.commit_verdict(&verdict(Standing::Dead), first).await.unwrap();
    let late = lattice.commit_verdict(&verdict(Standing::Healthy), first).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "{late:?}");
    let verdicts = lattice.read_verdicts().await.unwrap();
    assert_eq!((verdicts.revision, verdicts.hosts[&host('A')].standing), (second, Standing::Dead));
    assert_eq!(lattice.read_verdict(&host('A')).await.unwrap(), (Some(verdict(Standing::Dead)), second));
    let heard = tokio::time::timeout(DEADLINE, changes.next()).await.unwrap().unwrap();
    assert_eq!(heard.subject.as_str(), format!("lat.default.changed.verdict.{}", host_key(&host('A'))));
    assert_eq!(wire::decode::<Verdict>(&heard.payload).unwrap(), verdict(Standing::Suspect));
}
