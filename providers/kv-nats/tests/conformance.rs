//! Key-value in JetStream does what every key-value backend must, and fails as it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::id::{BucketName, LatticeName};
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Connection, bucket, connect};
use provider_api::keyvalue::KeyValue;
use provider_api::{CallError, ProviderError};
use provider_conformance::keyvalue;
use provider_kv_nats::KvNats;

async fn start_server(folder: &Path, port: u16) -> Server {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
    let program = find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap();
    let config = ServerConfig { port, ..ServerConfig::new(folder, LatticeName::new("default").unwrap()) };
    Server::start(&program, &config).await.unwrap()
}

/// A server of its own on a port that it chose, with the buckets that the test asks for.
async fn start(folder: &Path, buckets: &[&str]) -> (Server, Connection) {
    let server = start_server(folder, 0).await;
    let connection = connect(&ConnectOptions::new(server.url(), "test")).await.unwrap();
    for name in buckets {
        bucket::ensure(&connection, &BucketName::new(*name).unwrap(), None).await.unwrap();
    }
    (server, connection)
}

#[tokio::test]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &keyvalue::BUCKETS).await;
    keyvalue::all(Arc::new(KvNats::new(connection))).await;
}

#[tokio::test]
async fn buckets_that_do_not_exist_or_are_ours_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &[]).await;
    let store = KvNats::new(connection);
    assert!(matches!(store.open("none").await.err(), Some(ProviderError::Missing { what: "bucket", .. })));
    for name in ["LAT_default_DESIRED", "a.b", "", "a b", "../x"] {
        assert!(matches!(store.open(name).await.err(), Some(ProviderError::Setting { .. })), "{name:?}");
    }
}

#[tokio::test]
async fn stock_clients_share_the_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &["edge-data"]).await;
    let ours = KvNats::new(connection.clone()).open("edge-data").await.unwrap();
    let stock = connection.jetstream().get_key_value("edge-data").await.unwrap();
    ours.set("eu.sensor-1", "1".into()).await.unwrap();
    assert_eq!(stock.get("eu.sensor-1").await.unwrap().unwrap(), "1");
    stock.put("eu.sensor-1", "2".into()).await.unwrap();
    assert_eq!(ours.get("eu.sensor-1").await.unwrap().unwrap(), "2");
    stock.delete("eu.sensor-1").await.unwrap();
    assert_eq!(ours.get("eu.sensor-1").await.unwrap(), None);
    assert_eq!(ours.list_keys(None).await.unwrap().keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_value_above_the_servers_limit_is_refused_before_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &["b"]).await;
    let limit = connection.client().max_payload();
    let bucket = KvNats::new(connection).open("b").await.unwrap();
    let refused = bucket.set("k", Bytes::from(vec![0; limit + 1])).await;
    assert!(matches!(refused, Err(CallError::TooLarge { what: "value", .. })), "{refused:?}");
    bucket.set("k", "small".into()).await.unwrap();
}

#[tokio::test]
async fn without_a_server_calls_fail_at_once_and_work_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let (server, connection) = start(folder.path(), &["b"]).await;
    let port = server.port();
    let bucket = KvNats::new(connection.clone()).open("b").await.unwrap();
    bucket.set("k", "1".into()).await.unwrap();
    server.stop().await.unwrap();
    let mut state = connection.state();
    state.wait_for(|state| *state == lattice_nats::ConnectionState::Disconnected).await.unwrap();
    let asked = std::time::Instant::now();
    assert!(matches!(bucket.get("k").await, Err(CallError::Unavailable(_))));
    assert!(matches!(bucket.set("k", "2".into()).await, Err(CallError::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(1));

    let _server = start_server(folder.path(), port).await;
    state.wait_for(|state| *state == lattice_nats::ConnectionState::Connected).await.unwrap();
    assert_eq!(bucket.get("k").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_stream_that_does_not_answer_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &["b"]).await;
    let bucket = KvNats::new(connection.clone()).open("b").await.unwrap();
    // As while it elects a leader.
    connection.jetstream().delete_stream("KV_b").await.unwrap();
    assert!(matches!(bucket.get("k").await, Err(CallError::Unavailable(_))));
    assert!(matches!(bucket.set("k", "1".into()).await, Err(CallError::Unavailable(_))));
}

#[tokio::test]
async fn whoever_gives_up_counting_keeps_nobody_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, connection) = start(folder.path(), &["b"]).await;
    let (one, other) = (KvNats::new(connection.clone()).open("b").await.unwrap(), KvNats::new(connection).open("b").await.unwrap());
    let count = |bucket: &Arc<dyn provider_api::keyvalue::Bucket>| {
        let bucket = bucket.clone();
        tokio::spawn(async move { bucket.increment("k", 1).await })
    };
    let (mut patient, mut hasty) = (Vec::new(), Vec::new());
    for number in 0..60 {
        patient.push(count(if number % 3 == 0 { &other } else { &one }));
        hasty.push(count(&one));
        if number % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    hasty.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
    let mut sums = Vec::new();
    for counted in patient {
        sums.push(counted.await.unwrap().unwrap());
    }
    let (mut finished, mut given_up) = (0, 0);
    for counted in hasty {
        match counted.await {
            Ok(sum) => {
                sums.push(sum.unwrap());
                finished += 1;
            }
            Err(_aborted) => given_up += 1,
        }
    }
    sums.sort_unstable();
    let all = sums.len();
    sums.dedup();
    assert_eq!(sums.len(), all, "each sum is that of one caller");
    let total = one.increment("k", 0).await.unwrap();
    assert_eq!(other.increment("k", 0).await.unwrap(), total);
    assert!((60 + finished..=60 + finished + given_up).contains(&total), "{total}: {finished} finished, {given_up} gave up");
}
