//! Several keys of a bucket as one, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use bytes::Bytes;
use lattice_core::id::{BucketName, Revision};
use lattice_nats::bucket::{Bucket, KeyChange};
use lattice_nats::{CommitError, StoreError};
use support::World;

fn put(key: &str, value: &str, expected: Option<u64>) -> KeyChange {
    KeyChange { key: key.to_owned(), value: Some(Bytes::from(value.to_owned())), expected: expected.map(Revision) }
}

fn delete(key: &str, expected: Option<u64>) -> KeyChange {
    KeyChange { key: key.to_owned(), value: None, expected: expected.map(Revision) }
}

async fn bucket(world: &World) -> Bucket {
    let lattice = world.ready().await;
    let name = BucketName::new("b").unwrap();
    lattice.ensure_bucket(&name, None).await.unwrap();
    Bucket::open(lattice.connection(), &name).await.unwrap()
}

#[track_caller]
fn conflict(outcome: Result<Revision, CommitError>) -> (u64, Option<u64>) {
    match outcome {
        Err(CommitError::Conflict { expected, found }) => (expected.0, found.map(|found| found.0)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn all_or_nothing_with_a_condition_on_each_key() {
    let world = World::start().await;
    let bucket = bucket(&world).await;
    assert_eq!(bucket.commit(&[put("a", "1", Some(0)), put("b", "1", None)], None).await.unwrap(), Revision(2));
    let lost = bucket.commit(&[put("c", "1", Some(0)), put("a", "2", Some(1)), put("b", "2", Some(1))], None).await;
    assert_eq!(conflict(lost), (1, Some(2)), "the key that differs is the one that is told");
    let snapshot = bucket.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.entries.len()), (Revision(2), 2));
    assert_eq!(bucket.commit(&[put("c", "1", Some(0)), put("a", "2", Some(1)), put("b", "2", Some(2))], None).await.unwrap(), Revision(5));
    assert_eq!(bucket.get_latest("a").await.unwrap().unwrap().revision, Revision(4));
    assert_eq!(bucket.info().await.unwrap().last_revision, Revision(5));
}

#[tokio::test]
async fn a_condition_on_the_whole_bucket() {
    let world = World::start().await;
    let bucket = bucket(&world).await;
    bucket.put("a", "1".into()).await.unwrap();
    assert_eq!(conflict(bucket.commit(&[put("b", "1", None)], Some(Revision(0))).await), (0, Some(1)));
    assert_eq!(bucket.commit(&[put("b", "1", Some(0))], Some(Revision(1))).await.unwrap(), Revision(2));
    // Both kinds of condition must hold.
    assert_eq!(conflict(bucket.commit(&[put("b", "2", Some(0))], Some(Revision(2))).await), (0, Some(2)));
}

#[tokio::test]
async fn a_key_that_was_deleted_has_no_value() {
    let world = World::start().await;
    let bucket = bucket(&world).await;
    bucket.commit(&[put("a", "1", Some(0)), put("b", "1", Some(0))], None).await.unwrap();
    assert_eq!(bucket.commit(&[delete("a", Some(1))], None).await.unwrap(), Revision(3));
    assert_eq!(bucket.get_latest("a").await.unwrap(), None);
    // One is gone, the other is not: nothing is written.
    let lost = bucket.commit(&[put("a", "2", Some(0)), put("b", "2", Some(0))], None).await;
    assert_eq!(conflict(lost), (0, Some(2)));
    assert_eq!(bucket.commit(&[put("a", "2", Some(0)), put("b", "2", Some(2))], None).await.unwrap(), Revision(5));
    assert_eq!(bucket.snapshot().await.unwrap().entries.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let world = World::start().await;
    let bucket = Bucket::named(&world.connect().await, "nowhere");
    let missing = |error: StoreError| matches!(&error, StoreError::Missing { name, .. } if name == "nowhere");
    assert!(missing(bucket.get_latest("a").await.unwrap_err()));
    assert!(missing(bucket.snapshot().await.unwrap_err()));
    assert!(missing(bucket.info().await.unwrap_err()));
    match bucket.commit(&[put("a", "1", None)], None).await {
        Err(CommitError::Store(error)) => assert!(missing(error)),
        other => panic!("{other:?}"),
    }
}
