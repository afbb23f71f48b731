//! Key-value in the memory of the host: fast, and gone with the process. For caches and tests.
//!
//! Buckets come into being when they are opened. Everything is bounded: number of buckets, keys of a bucket, bytes of all
//! values and keys together.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use provider_api::keyvalue::{Bucket, KeyPage, KeyValue, MAX_KEYS_PER_PAGE, check_key};
use provider_api::{CallError, ProviderError};

/// Most buckets of one provider.
pub const MAX_BUCKETS: usize = 64;
/// Most keys of one bucket.
pub const MAX_KEYS: usize = 100_000;
/// Bytes of all keys and values together: a quarter of what a small gateway gives the host.
pub const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;
/// Largest value in bytes; as much as a NATS bucket takes, so that an actor may be moved to one.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// What a key costs besides its own bytes and its value, in bytes: the nodes of the map and the buffer's handle.
const OVERHEAD_BYTES: usize = 96;

/// The provider. Clones share their buckets.
#[derive(Debug, Clone, Default)]
pub struct KvMemory {
    data: Arc<Mutex<Data>>,
}

#[derive(Debug, Default)]
struct Data {
    buckets: BTreeMap<String, BTreeMap<String, Bytes>>,
    /// Sum over all entries of key, value and overhead.
    used_bytes: usize,
}

impl KvMemory {
    /// A provider without buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in use, of [`MAX_TOTAL_BYTES`].
    pub fn used_bytes(&self) -> usize {
        lock(&self.data).used_bytes
    }
}

#[async_trait]
impl KeyValue for KvMemory {
    async fn open(&self, bucket: &str) -> Result<Arc<dyn Bucket>, ProviderError> {
        let mut data = lock(&self.data);
        if !data.buckets.contains_key(bucket) {
            if data.buckets.len() >= MAX_BUCKETS {
                return Err(ProviderError::setting(
                    "bucket",
                    format!("`{bucket}` would be one more than the {MAX_BUCKETS} buckets of this provider"),
                ));
            }
            data.buckets.insert(bucket.to_owned(), BTreeMap::new());
        }
        Ok(Arc::new(MemoryBucket { data: Arc::clone(&self.data), name: bucket.to_owned() }))
    }
}

struct MemoryBucket {
    data: Arc<Mutex<Data>>,
    name: String,
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        check_key(key)?;
        Ok(lock(&self.data).buckets.get(&self.name).and_then(|bucket| bucket.get(key)).cloned())
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError> {
        check_key(key)?;
        lock(&self.data).set(&self.name, key, value)
    }

    async fn delete(&self, key: &str) -> Result<(), CallError> {
        check_key(key)?;
        let mut data = lock(&self.data);
        let removed = data.buckets.get_mut(&self.name).and_then(|bucket| bucket.remove(key));
        if let Some(value) = removed {
            data.used_bytes = data.used_bytes.saturating_sub(cost(key, &value));
        }
        Ok(())
    }

    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyPage, CallError> {
        let seen = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let data = lock(&self.data);
        let Some(bucket) = data.buckets.get(&self.name) else {
            return Ok(KeyPage { keys: Vec::new(), cursor: None });
        };
        let keys: Vec<String> = bucket.keys().skip(seen).take(MAX_KEYS_PER_PAGE).cloned().collect();
        let end = seen.saturating_add(keys.len());
        let cursor = (end < bucket.len()).then(|| u64::try_from(end).unwrap_or(u64::MAX));
        Ok(KeyPage { keys, cursor })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        check_key(key)?;
        let mut data = lock(&self.data);
        let stored = data.buckets.get(&self.name).and_then(|bucket| bucket.get(key));
        let sum = provider_api::keyvalue::add(key, stored, delta)?;
        data.set(&self.name, key, Bytes::from(sum.to_string()))?;
        Ok(sum)
    }
}

impl Data {
    fn set(&mut self, bucket: &str, key: &str, value: Bytes) -> Result<(), CallError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(CallError::TooLarge { what: "value", size: wide(value.len()), limit: wide(MAX_VALUE_BYTES) });
        }
        let entries = self.buckets.entry(bucket.to_owned()).or_default();
        let before = entries.get(key).map_or(0, |value| cost(key, value));
        let used = self.used_bytes.saturating_sub(before).saturating_add(cost(key, &value));
        if used > MAX_TOTAL_BYTES {
            return Err(CallError::Failed(format!("the provider's memory of {MAX_TOTAL_BYTES} bytes is full")));
        }
        if before == 0 && entries.len() >= MAX_KEYS {
            return Err(CallError::Failed(format!("bucket `{bucket}` has {MAX_KEYS} keys already")));
        }
        // A copy of its own: a slice of a large message would keep all of that message alive.
        entries.insert(key.to_owned(), Bytes::copy_from_slice(&value));
        self.used_bytes = used;
        Ok(())
    }
}

fn cost(key: &str, value: &Bytes) -> usize {
    key.len().saturating_add(value.len()).saturating_add(OVERHEAD_BYTES)
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn lock(data: &Mutex<Data>) -> MutexGuard<'_, Data> {
    // No code panics while it holds the lock; should one ever do, the maps are still whole.
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_bounded_and_given_back() {
        let store = KvMemory::new();
        let bucket = store.open("b").await.unwrap();
        let too_large = bucket.set("k", vec![0; MAX_VALUE_BYTES + 1].into()).await;
        assert!(matches!(too_large, Err(CallError::TooLarge { .. })), "{too_large:?}");
        let value = Bytes::from(vec![0; MAX_VALUE_BYTES]);
        let mut stored = 0;
        let full = loop {
            match bucket.set(&format!("k{stored}"), value.clone()).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(full.to_string().contains("full") && stored == 63, "{stored}: {full}");
        assert!(store.used_bytes() <= MAX_TOTAL_BYTES);
        bucket.set("k0", value).await.expect("replacing needs no more room");
        for number in 0..stored {
            bucket.delete(&format!("k{number}")).await.unwrap();
        }
        assert_eq!(store.used_bytes(), 0);
    }

    #[tokio::test]
    async fn keys_and_buckets_are_bounded() {
        let store = KvMemory::new();
        let bucket = store.open("b0").await.unwrap();
        for number in 0..MAX_KEYS {
            bucket.set(&format!("k{number}"), Bytes::new()).await.unwrap();
        }
        assert!(matches!(bucket.set("one-more", Bytes::new()).await, Err(CallError::Failed(_))));
        bucket.set("k0", "still".into()).await.unwrap();
        for number in 1..MAX_BUCKETS {
            store.open(&format!("b{number}")).await.unwrap();
        }
        assert!(matches!(store.open("one-more").await, Err(ProviderError::Setting { .. })));
        store.open("b1").await.unwrap();
    }
}
