//! Key-value backends. The buckets in [`BUCKETS`] must exist, or be made when they are opened, and be empty.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use provider_api::CallError;
use provider_api::keyvalue::{Bucket, KeyPage, KeyValue, MAX_KEY_BYTES, MAX_KEYS_PER_PAGE};

/// Buckets that the tests use, each by one function.
pub const BUCKETS: [&str; 6] = ["values", "apart-1", "apart-2", "hostile", "listing", "counting"];
/// Tasks that count at the same time.
const COUNTERS: u64 = 8;
/// What each of them adds, one by one.
const STEPS: u64 = 12;

/// Runs everything.
pub async fn all(store: Arc<dyn KeyValue>) {
    values_come_back(&*store).await;
    buckets_are_apart(&*store).await;
    hostile_keys_are_refused(&*store).await;
    keys_are_listed_in_order_and_in_pages(&*store).await;
    increments_add_up(&*store).await;
}

/// Set, get, exists, delete; any bytes, also none, also after a deletion.
pub async fn values_come_back(store: &dyn KeyValue) {
    let bucket = store.open("values").await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap(), None);
    assert!(!bucket.exists("a").await.unwrap());
    bucket.delete("a").await.expect("deleting what does not exist is no error");

    let binary: Vec<u8> = (0..=255).collect();
    let large = vec![7_u8; 100_000];
    for value in [&b"1"[..], b"", &binary, &large, b"{\"json\": true}"] {
        bucket.set("eu-1.sensor=2E001/x", Bytes::copy_from_slice(value)).await.unwrap();
        assert_eq!(bucket.get("eu-1.sensor=2E001/x").await.unwrap().as_deref(), Some(value));
        assert!(bucket.exists("eu-1.sensor=2E001/x").await.unwrap());
    }
    bucket.delete("eu-1.sensor=2E001/x").await.unwrap();
    assert_eq!(bucket.get("eu-1.sensor=2E001/x").await.unwrap(), None);
    assert!(!bucket.exists("eu-1.sensor=2E001/x").await.unwrap());
    bucket.set("eu-1.sensor=2E001/x", "again".into()).await.unwrap();
    assert_eq!(bucket.get("eu-1.sensor=2E001/x").await.unwrap().unwrap(), "again");

    let other = store.open("values").await.unwrap();
    assert_eq!(other.get("eu-1.sensor=2E001/x").await.unwrap().unwrap(), "again", "a second handle sees the same bucket");
}

/// One bucket's keys are not another's.
pub async fn buckets_are_apart(store: &dyn KeyValue) {
    let (one, two) = (store.open("apart-1").await.unwrap(), store.open("apart-2").await.unwrap());
    one.set("key", "1".into()).await.unwrap();
    assert_eq!(two.get("key").await.unwrap(), None);
    assert_eq!(two.list_keys(None).await.unwrap(), KeyPage { keys: vec![], cursor: None });
    two.set("key", "2".into()).await.unwrap();
    one.delete("key").await.unwrap();
    assert_eq!(two.get("key").await.unwrap().unwrap(), "2");
}

/// Keys that could mean something to the backend are refused by each operation, and harm nothing.
pub async fn hostile_keys_are_refused(store: &dyn KeyValue) {
    let bucket = store.open("hostile").await.unwrap();
    let long = "a".repeat(MAX_KEY_BYTES + 1);
    for key in ["", " ", "a b", "*", ">", "a.*", "a.>", "a..b", ".a", "a.", "é", "a\r\nb", "a\0", "_kv", &long] {
        let refused = [
            bucket.get(key).await.err(),
            bucket.set(key, "x".into()).await.err(),
            bucket.delete(key).await.err(),
            bucket.exists(key).await.err(),
            bucket.increment(key, 1).await.err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(CallError::Invalid(_))), "{key:?}: {error:?}");
        }
    }
    let longest = "a".repeat(MAX_KEY_BYTES);
    bucket.set(&longest, "x".into()).await.unwrap();
    assert_eq!(bucket.list_keys(None).await.unwrap(), KeyPage { keys: vec![longest], cursor: None });
}

/// Every key once, in ascending order, in pages that are not too long, deleted ones left out.
pub async fn keys_are_listed_in_order_and_in_pages(store: &dyn KeyValue) {
    let bucket = store.open("listing").await.unwrap();
    assert_eq!(bucket.list_keys(None).await.unwrap(), KeyPage { keys: vec![], cursor: None });
    let count = MAX_KEYS_PER_PAGE * 2 + 10;
    let keys: Vec<String> = (0..count).map(|number| format!("device.{:04}", (number * 7919) % count)).collect();
    for some in keys.chunks(64) {
        join_all(some.iter().map(|key| bucket.set(key, "x".into()))).await.into_iter().for_each(Result::unwrap);
    }
    for gone in ["device.0000", "device.0300"] {
        bucket.delete(gone).await.unwrap();
    }
    let mut expected = keys;
    expected.sort();
    expected.retain(|key| key != "device.0000" && key != "device.0300");
    assert_eq!(all_keys(&*bucket).await, expected);
    let past_the_end = bucket.list_keys(Some(u64::MAX)).await.unwrap();
    assert_eq!(past_the_end, KeyPage { keys: vec![], cursor: None });
}

async fn all_keys(bucket: &dyn Bucket) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor).await.unwrap();
        assert!(page.keys.len() <= MAX_KEYS_PER_PAGE);
        keys.extend(page.keys);
        assert!(page.cursor.is_none() || page.cursor > cursor, "it goes on");
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}

/// Counting by several at once loses nothing; what is no number stays what it is.
pub async fn increments_add_up(store: &dyn KeyValue) {
    let bucket = store.open("counting").await.unwrap();
    assert_eq!(bucket.increment("count", 0).await.unwrap(), 0);
    let count = || async {
        for _ in 0..STEPS {
            bucket.increment("count", 1).await.unwrap();
        }
    };
    join_all((0..COUNTERS).map(|_| count())).await;
    assert_eq!(bucket.increment("count", 4).await.unwrap(), COUNTERS * STEPS + 4);
    assert_eq!(bucket.get("count").await.unwrap().unwrap(), (COUNTERS * STEPS + 4).to_string());

    bucket.delete("count").await.unwrap();
    assert_eq!(bucket.increment("count", 2).await.unwrap(), 2, "a deleted counter starts again");

    bucket.set("count", u64::MAX.to_string().into()).await.unwrap();
    assert_eq!(bucket.increment("count", 0).await.unwrap(), u64::MAX);
    for (value, delta) in
        [(u64::MAX.to_string(), 1), ("nonsense".to_owned(), 1), ("-1".to_owned(), 1), (String::new(), 1), ("1 ".to_owned(), 1)]
    {
        bucket.set("count", value.clone().into()).await.unwrap();
        let refused = bucket.increment("count", delta).await;
        assert!(matches!(refused, Err(CallError::Failed(_))), "{value:?}: {refused:?}");
        assert_eq!(bucket.get("count").await.unwrap().unwrap(), value, "nothing changed");
    }
}
