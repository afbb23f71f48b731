//! Owners, their effects and their outbox on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::fence::{Answer, Effects, Publication, message_id};
use lattice_core::id::{ActorId, BucketName, Generation, Incarnation};
use lattice_core::ownership::SlotId;
use lattice_core::subject::{EDGE_STREAM, SubjectPattern};
use lattice_core::wire::ownership::{Applied, EpochRecord};
use lattice_nats::fenced::{Cause, Commit, FencedBucket};
use lattice_nats::{CommitError, Lattice, StoreError, streams};
use support::{DEADLINE, World, eventually, host};

const CONSUMER: &str = "lat-default-a-1";

fn name() -> BucketName {
    BucketName::new("state").unwrap()
}

fn slot() -> SlotId {
    SlotId { actor: ActorId::new("a").unwrap(), slot: 0 }
}

fn record(letter: char, term: u64) -> EpochRecord {
    EpochRecord { owner: host(letter), incarnation: Incarnation::new("01").unwrap(), term: Generation(term) }
}

/// Claims the slot over what is there.
async fn claim(bucket: &FencedBucket, letter: char, term: u64) -> u64 {
    let expected = bucket.read_epoch(&slot()).await.unwrap().map_or(0, |(_, sequence)| sequence);
    bucket.claim(&slot(), &record(letter, term), expected).await.unwrap()
}

fn effects(key: &str, value: &str, results: &[&str]) -> Effects {
    let mut effects = Effects::default();
    effects.write(key, Some(value.as_bytes().to_vec()), None).unwrap();
    for result in results {
        let headers = vec![("source-node".to_owned(), "NEDGE01".to_owned())];
        effects.publish(Publication { subject: "edge.result.eu".to_owned(), headers, body: result.as_bytes().to_vec() }).unwrap();
    }
    effects
}

fn commit(bucket: &FencedBucket, epoch: u64, sequence: u64, effects: Effects) -> Commit {
    let id = message_id(&slot(), CONSUMER, sequence, 0);
    let id = id.strip_suffix(":0").unwrap();
    let cause = Cause { slot: &slot(), epoch, consumer: CONSUMER, applied: Applied { sequence }, id };
    bucket.prepare(cause, effects.into_parts()).unwrap()
}

async fn bucket(world: &World) -> (Lattice, FencedBucket) {
    let lattice = world.ready().await;
    lattice.ensure_fenced_bucket(&name(), Some("eu")).await.unwrap();
    let bucket = lattice.fenced_bucket(&name());
    (lattice, bucket)
}

async fn heard(results: &mut async_nats::Subscriber, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let message = tokio::time::timeout(DEADLINE, results.next()).await.unwrap().unwrap();
        heard.push(String::from_utf8(message.payload.to_vec()).unwrap());
    }
    heard
}

#[tokio::test]
async fn effects_are_stored_once_and_heard_once() {
    let world = World::start().await;
    let (lattice, bucket) = bucket(&world).await;
    let mut results = lattice.subscribe("edge.>".to_owned()).await.unwrap();
    let epoch = claim(&bucket, 'A', 1).await;
    assert_eq!(bucket.read_applied(&slot(), CONSUMER).await.unwrap(), None);
    let first = commit(&bucket, epoch, 7, effects("k", "1", &["one", "two"]));
    assert_eq!(bucket.attempt(&first).await.0, Answer::Stored);
    assert_eq!(bucket.read_applied(&slot(), CONSUMER).await.unwrap(), Some(Applied { sequence: 7 }));
    // The acknowledgement got lost: the same once more, by the same owner and by one that took over.
    assert_eq!(bucket.attempt(&first).await.0, Answer::Duplicate);
    let later = claim(&bucket, 'B', 2).await;
    let again = commit(&bucket, later, 7, effects("k", "other", &["three"]));
    assert_eq!(bucket.attempt(&again).await.0, Answer::Duplicate);
    assert_eq!(bucket.attempt(&commit(&bucket, later, 8, effects("k", "2", &["four"]))).await.0, Answer::Stored);
    assert_eq!(heard(&mut results, 3).await, ["one", "two", "four"], "two on one subject, each once, in order");
    assert_eq!(bucket.keys().get("k").await.unwrap().unwrap().value, "2");
    lattice.connection().settle().await;
    assert!(tokio::time::timeout(Duration::from_millis(50), results.next()).await.is_err(), "nothing of what was refused");
}

#[tokio::test]
async fn a_stale_owner_stores_nothing() {
    let world = World::start().await;
    let (lattice, bucket) = bucket(&world).await;
    let mut results = lattice.subscribe("edge.>".to_owned()).await.unwrap();
    let old = claim(&bucket, 'A', 1).await;
    assert_eq!(bucket.attempt(&commit(&bucket, old, 1, effects("k", "1", &["one"]))).await.0, Answer::Stored);
    let new = claim(&bucket, 'B', 2).await;
    assert!(new > old);
    assert_eq!(bucket.attempt(&commit(&bucket, old, 2, effects("k", "stale", &["stale"]))).await.0, Answer::WrongSequence);
    assert_eq!(bucket.attempt(&commit(&bucket, new, 2, effects("k", "2", &["two"]))).await.0, Answer::Stored);
    assert_eq!(heard(&mut results, 2).await, ["one", "two"]);
    assert_eq!(bucket.read_epoch(&slot()).await.unwrap(), Some((record('B', 2), new)));
    let over = bucket.claim(&slot(), &record('A', 1), old).await;
    assert!(matches!(over, Err(CommitError::Conflict { .. })), "{over:?}");
}

#[tokio::test]
async fn a_key_that_changed_meanwhile_stops_the_whole_commit() {
    let world = World::start().await;
    let (_lattice, bucket) = bucket(&world).await;
    let epoch = claim(&bucket, 'A', 1).await;
    let revision = bucket.keys().put("count", "1".into()).await.unwrap();
    let mut counted = effects("k", "1", &[]);
    counted.write("count", Some(b"2".to_vec()), Some(revision.0)).unwrap();
    bucket.keys().put("count", "5".into()).await.unwrap();
    assert_eq!(bucket.attempt(&commit(&bucket, epoch, 1, counted.clone())).await.0, Answer::WrongSequence);
    assert_eq!(bucket.keys().get("k").await.unwrap(), None);
    let mut again = effects("k", "1", &[]);
    let (_, now) = bucket.keys().entry_or_gap("count").await.unwrap();
    again.write("count", Some(b"6".to_vec()), Some(now.0)).unwrap();
    again.write("fresh", Some(b"1".to_vec()), Some(0)).unwrap();
    assert_eq!(bucket.attempt(&commit(&bucket, epoch, 1, again)).await.0, Answer::Stored);
    assert_eq!(bucket.keys().get("count").await.unwrap().unwrap().value, "6");
}

#[tokio::test]
async fn one_of_eight_claims_wins() {
    let world = World::start().await;
    let (lattice, bucket) = bucket(&world).await;
    let before = claim(&bucket, 'Z', 1).await;
    let mut racers = Vec::new();
    for letter in 'A'..='H' {
        let racer = Lattice::new(world.connect().await, lattice.name().clone()).fenced_bucket(&name());
        racers.push(tokio::spawn(async move { (letter, racer.claim(&slot(), &record(letter, 2), before).await) }));
    }
    let mut won = Vec::new();
    for racer in racers {
        match racer.await.unwrap() {
            (letter, Ok(epoch)) => won.push((record(letter, 2), epoch)),
            (_, Err(CommitError::Conflict { .. })) => {}
            (_, Err(error)) => panic!("neither won nor lost: {error}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(bucket.read_epoch(&slot()).await.unwrap(), won.pop());
}

#[tokio::test]
async fn a_plain_bucket_becomes_a_fenced_one_and_stays_readable() {
    let world = World::start().await;
    let lattice = world.ready().await;
    lattice.ensure_bucket(&name(), Some("eu")).await.unwrap();
    let bucket = lattice.fenced_bucket(&name());
    bucket.keys().put("before", "1".into()).await.unwrap();
    for _ in 0..2 {
        lattice.ensure_fenced_bucket(&name(), None).await.unwrap();
    }
    lattice.ensure_bucket(&name(), None).await.expect("it still is a bucket");
    let epoch = claim(&bucket, 'A', 1).await;
    let mut effects = effects("after", "2", &["x"]);
    effects.write("before", None, None).unwrap();
    assert_eq!(bucket.attempt(&commit(&bucket, epoch, 1, effects)).await.0, Answer::Stored);

    let stock = lattice.connection().jetstream().get_key_value("state").await.unwrap();
    assert_eq!(stock.get("after").await.unwrap().unwrap(), "2");
    assert_eq!(stock.get("before").await.unwrap(), None);
    let keys: Vec<String> = stock.keys().await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(keys, ["after"], "epochs and messages are no keys");
    assert_eq!(bucket.keys().keys("").await.unwrap(), ["after"]);
    stock.put("by-hand", "3".into()).await.unwrap();

    let other = Lattice::new(world.connect().await, support::name("other"));
    let refused = other.ensure_fenced_bucket(&name(), None).await.unwrap_err();
    assert!(matches!(refused, StoreError::Weaker { .. }), "{refused}");
}

#[tokio::test]
async fn what_a_dead_owner_holds_is_given_back_at_once() {
    let world = World::start().await;
    let lattice = world.ready().await;
    lattice.ensure_edge_stream().await.unwrap();
    let filter = SubjectPattern::new("edge.sensor.eu").unwrap();
    // Far longer than the test may take.
    lattice.create_consumer("c", &filter, Duration::from_secs(120), 1).await.unwrap();
    assert!(!streams::take_over(lattice.connection(), EDGE_STREAM, "c").await.unwrap());
    for number in ["1", "2"] {
        let stored = lattice.connection().jetstream().publish("edge.sensor.eu", Bytes::from(number)).await.unwrap();
        stored.await.unwrap();
        // Another subject between them, so that positions in stream and consumer differ.
        lattice.connection().jetstream().publish("edge.sensor.us", "x".into()).await.unwrap().await.unwrap();
    }
    let pull = async |connection: &lattice_nats::Connection| {
        let stream = connection.jetstream().get_stream(EDGE_STREAM).await.unwrap();
        let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer("c").await.unwrap();
        let fetch = consumer.fetch().max_messages(1).messages().await;
        let message = fetch.unwrap().next().await;
        message.map(|message| message.unwrap())
    };
    let dead = world.connect().await;
    let first = pull(&dead).await.unwrap();
    first.double_ack().await.unwrap();
    let held = pull(&dead).await.unwrap();
    assert_eq!(held.payload, "2");
    drop(dead);
    assert!(pull(lattice.connection()).await.is_none(), "it is held");
    assert!(streams::take_over(lattice.connection(), EDGE_STREAM, "c").await.unwrap());
    let again = eventually("it comes again", async || pull(lattice.connection()).await).await;
    assert_eq!((again.payload.as_ref(), again.info().unwrap().delivered), (b"2".as_slice(), 2));
}
