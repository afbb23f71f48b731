//! Users' buckets, the public stream, components.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use lattice_core::id::{BucketName, Digest, Revision};
use lattice_core::subject::{self, EDGE_STREAM, SubjectPattern};
use lattice_nats::bucket::Bucket;
use lattice_nats::{CommitError, Lattice, StoreError};
use support::{World, name};

fn bucket_name() -> BucketName {
    BucketName::new("edge-data").unwrap()
}

fn pattern(text: &str) -> SubjectPattern {
    SubjectPattern::new(text).unwrap()
}

#[tokio::test]
async fn stock_clients_read_and_write_our_buckets() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    lattice.ensure_bucket(&bucket_name(), Some("local")).await.unwrap();
    lattice.ensure_bucket(&bucket_name(), Some("elsewhere")).await.expect("a second time is fine");
    let ours = Bucket::open(lattice.connection(), &bucket_name()).await.unwrap();
    let stock = lattice.connection().jetstream().get_key_value("edge-data").await.unwrap();

    let first = stock.create("a.b", "1".into()).await.unwrap();
    let entry = ours.get("a.b").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (Bytes::from("1"), Revision(first)));
    let second = ours.update("a.b", "2".into(), entry.revision).await.unwrap();
    assert!(stock.update("a.b", "lost".into(), first).await.is_err());
    let third = stock.update("a.b", "3".into(), second.0).await.unwrap();
    assert!(matches!(ours.update("a.b", "lost".into(), second).await, Err(CommitError::Conflict { .. })));
    ours.delete("a.b").await.unwrap();
    assert_eq!(stock.get("a.b").await.unwrap(), None);
    assert_eq!(ours.get("a.b").await.unwrap(), None);
    assert!(matches!(ours.update("a.b", "lost".into(), Revision(third)).await, Err(CommitError::Conflict { .. })));
    ours.create("a.b", "4".into()).await.expect("over a deletion");
    assert!(matches!(ours.create("a.b", "5".into()).await, Err(CommitError::Conflict { .. })));
    assert_eq!(stock.get("a.b").await.unwrap().unwrap(), "4");
    assert!(matches!(ours.get("a b").await, Err(StoreError::Key { .. })));
}

#[tokio::test]
async fn keys_are_listed_without_the_deleted_ones() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    lattice.ensure_bucket(&bucket_name(), None).await.unwrap();
    let bucket = Bucket::open(lattice.connection(), &bucket_name()).await.unwrap();
    for key in ["eu.1", "eu.2", "us.1", "eu.3"] {
        bucket.put(key, "x".into()).await.unwrap();
    }
    bucket.delete("eu.2").await.unwrap();
    assert_eq!(bucket.keys("").await.unwrap(), ["eu.1", "eu.3", "us.1"]);
    assert_eq!(bucket.keys("eu.").await.unwrap(), ["eu.1", "eu.3"]);
    let page = bucket.keys_page(0, 2).await.unwrap();
    assert_eq!(page.keys, ["eu.1", "eu.3"]);
    assert_eq!(bucket.keys_page(page.next.unwrap(), 2).await.unwrap().keys, ["us.1"]);
    support::eventually("scans leave no consumer behind", async || {
        let mut stream = lattice.connection().jetstream().get_stream("KV_edge-data").await.unwrap();
        (stream.info().await.unwrap().state.consumer_count == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bucket_that_could_be_wiped_is_refused_by_name() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    let stock = jetstream::kv::Config { bucket: "edge-data".to_owned(), ..jetstream::kv::Config::default() };
    lattice.connection().jetstream().create_key_value(stock).await.unwrap();
    let error = lattice.ensure_bucket(&bucket_name(), None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Weaker { stream, .. } if stream == "KV_edge-data"), "{error}");
    let missing = Bucket::open(lattice.connection(), &BucketName::new("none").unwrap()).await.unwrap_err();
    assert!(matches!(missing, StoreError::Missing { what: "bucket", .. }), "{missing}");
}

#[tokio::test]
async fn a_bucket_without_room_for_it_is_refused() {
    let world = World::start_with(|config| config.max_file_bytes = 1024).await;
    let error = world.lattice().await.ensure_bucket(&bucket_name(), None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Nats { .. }), "no room for a bucket: {error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("insufficient"), "{error:?}");
}

#[tokio::test]
async fn the_public_stream_has_one_owner() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    assert_eq!(lattice.edge_stream_status().await.unwrap(), None);
    lattice.ensure_edge_stream().await.unwrap();
    lattice.ensure_edge_stream().await.expect("a second time is fine");
    let other = Lattice::new(world.connect().await, name("other"));
    let error = other.ensure_edge_stream().await.unwrap_err();
    assert!(matches!(&error, StoreError::Owned { .. }) && error.to_string().contains("lattice default"), "{error}");
    let status = lattice.edge_stream_status().await.unwrap().unwrap();
    assert_eq!((status.owner.as_deref(), status.max_messages, status.max_age_seconds), (Some("default"), 1_000_000, 72 * 3600));
    assert_eq!(status.subjects, subject::EDGE_STREAM_SUBJECTS);
}

#[tokio::test]
async fn a_stream_that_no_lattice_made_is_nobodys() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    let stock = jetstream::stream::Config {
        name: EDGE_STREAM.to_owned(),
        subjects: vec!["edge.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    lattice.connection().jetstream().create_stream(stock).await.unwrap();
    let error = lattice.ensure_edge_stream().await.unwrap_err();
    assert!(matches!(&error, StoreError::Owned { .. }) && error.to_string().contains("nobody"), "{error}");
}

#[tokio::test]
async fn a_consumer_starts_with_what_comes_after_it() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    let (wait, pending) = (Duration::from_secs(4), 32);
    let early = lattice.create_consumer("c", &pattern("edge.sensor.*"), wait, pending).await;
    assert!(matches!(early, Err(StoreError::Missing { what: "stream", .. })), "{early:?}");
    lattice.ensure_edge_stream().await.unwrap();
    let jetstream = lattice.connection().jetstream();
    let publish = async |subject: &'static str| jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
    publish("edge.sensor.eu").await;
    lattice.create_consumer("c", &pattern("edge.sensor.*"), wait, pending).await.unwrap();
    publish("edge.sensor.eu").await;
    publish("edge.cmd.eu").await;
    lattice.create_consumer("c", &pattern("edge.sensor.*"), wait, pending).await.expect("the same is left where it is");
    let other = lattice.create_consumer("c", &pattern("edge.cmd.*"), wait, pending).await.unwrap_err();
    assert!(matches!(&other, StoreError::OtherConsumer { .. }) && other.to_string().contains("edge.sensor.*"), "{other}");

    let [consumer] = &lattice.edge_stream_status().await.unwrap().unwrap().consumers[..] else { panic!("one consumer") };
    assert_eq!((consumer.name.as_str(), consumer.filter.as_str(), consumer.pending), ("c", "edge.sensor.*", 1));
    lattice.delete_consumer("c").await.unwrap();
    lattice.delete_consumer("c").await.expect("gone already");
    assert_eq!(lattice.edge_stream_status().await.unwrap().unwrap().consumers, []);
}

#[tokio::test]
async fn artifacts_come_back_and_go_up_once() {
    let world = World::start().await;
    let lattice = world.lattice().await;
    assert!(matches!(lattice.put_artifact("x".into()).await, Err(StoreError::Missing { what: "artifact store", .. })));
    lattice.ensure().await.unwrap();
    let component: Bytes = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>().into();
    let digest = lattice.put_artifact(component.clone()).await.unwrap();
    assert_eq!(digest, Digest::of(&component));
    assert_eq!(lattice.get_artifact(&digest, 3_000_000).await.unwrap(), component);

    let messages = async || {
        let mut stream = lattice.connection().jetstream().get_stream("OBJ_LAT_default_ARTIFACTS").await.unwrap();
        stream.info().await.unwrap().state.last_sequence
    };
    let before = messages().await;
    assert_eq!(lattice.put_artifact(component).await.unwrap(), digest);
    assert_eq!(messages().await, before, "not sent again");

    let empty = lattice.put_artifact(Bytes::new()).await.unwrap();
    assert_eq!(lattice.get_artifact(&empty, 0).await.unwrap(), Bytes::new());
    let too_large = lattice.get_artifact(&digest, 2_999_999).await;
    assert!(matches!(too_large, Err(StoreError::TooLarge { size: 3_000_000, limit: 2_999_999, .. })), "{too_large:?}");
    let missing = lattice.get_artifact(&Digest::of(b"never stored"), 1000).await;
    assert!(matches!(missing, Err(StoreError::Missing { what: "artifact", .. })), "{missing:?}");
}

#[tokio::test]
async fn other_bytes_under_a_digest_are_refused() {
    let world = World::start().await;
    let lattice = world.ready().await;
    let digest = Digest::of(b"component");
    let store = lattice.connection().jetstream().get_object_store("LAT_default_ARTIFACTS").await.unwrap();
    store.put(digest.hex(), &mut &b"forged!!!"[..]).await.unwrap();
    let refused = lattice.get_artifact(&digest, 1000).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
}
