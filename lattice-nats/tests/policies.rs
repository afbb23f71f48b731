//! Signed policies on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::id::{ConfigName, Revision};
use lattice_core::subject;
use lattice_nats::CommitError;
use lattice_nats::bucket::{Bucket, KeyChange};
use support::{DEADLINE, World};

fn id(text: &str) -> ConfigName {
    ConfigName::new(text).unwrap()
}

#[tokio::test]
async fn versions_follow_each_other_and_are_kept() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    assert!(lattice.read_policies().await.unwrap().is_empty(), "a lattice without policies");
    lattice.ensure_policies().await.unwrap();
    lattice.ensure_policies().await.expect("a second time is fine");
    let mut told = lattice.subscribe(subject::policy_changes(lattice.name())).await.unwrap();

    assert_eq!(lattice.read_policy(&id("edge")).await.unwrap(), (None, Revision(0)));
    let first = lattice.commit_policy(&id("edge"), Bytes::from("1"), Revision(0)).await.unwrap();
    let message = tokio::time::timeout(DEADLINE, told.next()).await.unwrap().unwrap();
    assert_eq!((message.subject.as_str(), message.payload.len()), ("lat.default.changed.policy.policy.edge", 0));
    let late = lattice.commit_policy(&id("edge"), Bytes::from("x"), Revision(0)).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })), "{late:?}");
    let second = lattice.commit_policy(&id("edge"), Bytes::from("2"), first).await.unwrap();
    lattice.commit_policy(&id("other"), Bytes::from("a"), Revision(0)).await.unwrap();

    let (stored, revision) = lattice.read_policy(&id("edge")).await.unwrap();
    assert_eq!((stored.unwrap().document, revision), (Bytes::from("2"), second));
    let all = lattice.read_policies().await.unwrap();
    assert_eq!(
        all.iter().map(|(id, stored)| (id.as_str(), &stored.document[..])).collect::<Vec<_>>(),
        [("edge", &b"2"[..]), ("other", b"a")]
    );
    let history = lattice.policy_history(&id("edge")).await.unwrap();
    assert_eq!(history.iter().map(|stored| &stored.document[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(lattice.policy_history(&id("none")).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_policy_in_the_bucket_is_none() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    lattice.ensure_policies().await.unwrap();
    let bucket = Bucket::named(lattice.connection(), &subject::policy_bucket(lattice.name()));
    for key in ["edge", "policy.a.b", "other.edge"] {
        bucket.update(key, Bytes::from("x"), Revision(0)).await.unwrap();
    }
    let first = lattice.commit_policy(&id("edge"), Bytes::from("1"), Revision(0)).await.unwrap();
    assert_eq!(lattice.read_policies().await.unwrap().keys().map(ConfigName::as_str).collect::<Vec<_>>(), ["edge"]);

    // What somebody deletes with a stock tool is gone, and no version of its history; the next one follows on it.
    let delete = KeyChange { key: subject::policy_key(&id("edge")), value: None, expected: Some(first) };
    bucket.commit(&[delete], None).await.unwrap();
    assert!(lattice.read_policies().await.unwrap().is_empty());
    assert_eq!(lattice.policy_history(&id("edge")).await.unwrap().len(), 1);
    let (gone, revision) = lattice.read_policy(&id("edge")).await.unwrap();
    assert!(gone.is_none() && revision > first);
    lattice.commit_policy(&id("edge"), Bytes::from("2"), revision).await.unwrap();
}
