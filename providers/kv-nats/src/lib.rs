//! Key-value in JetStream buckets, shared by all hosts of a lattice and readable with stock NATS tools.
//!
//! A bucket is a raw `KV_…` stream made by `link put`; this backend opens buckets and does not make any, so that a host
//! needs no right to. Reads go to any replica; counting reads from the leader and writes on condition.

mod counters;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lattice_core::subject;
use lattice_nats::bucket::Bucket as NatsBucket;
use lattice_nats::error::ApiError;
use lattice_nats::{Connection, StoreError};
use provider_api::keyvalue::{Bucket, KeyPage, KeyValue, MAX_KEYS_PER_PAGE, check_key};
use provider_api::{CallError, ProviderError};

use crate::counters::Counters;

/// JetStream's number for a message that is larger than the stream takes.
const MESSAGE_TOO_LARGE: u64 = 10054;

/// The provider on one connection.
#[derive(Debug, Clone)]
pub struct KvNats {
    connection: Connection,
}

impl KvNats {
    /// The provider on `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }
}

#[async_trait]
impl KeyValue for KvNats {
    async fn open(&self, bucket: &str) -> Result<Arc<dyn Bucket>, ProviderError> {
        let name = subject::user_bucket(bucket).map_err(|error| ProviderError::setting("bucket", error.to_string()))?;
        let opened = NatsBucket::open(&self.connection, &name).await.map_err(|error| match error {
            StoreError::Missing { what, name } => ProviderError::Missing { what, name },
            error @ (StoreError::Weaker { .. }
            | StoreError::Owned { .. }
            | StoreError::OtherConsumer { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Key { .. }
            | StoreError::Nats { .. }) => ProviderError::backend(format!("opening bucket `{name}`"), error),
        })?;
        Ok(Arc::new(OpenBucket {
            counters: Counters::new(opened.clone(), self.connection.clone()),
            bucket: opened,
            connection: self.connection.clone(),
        }))
    }
}

struct OpenBucket {
    bucket: NatsBucket,
    counters: Counters,
    connection: Connection,
}

#[async_trait]
impl Bucket for OpenBucket {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        self.check(key, None)?;
        let entry = self.bucket.get(key).await.map_err(call_error)?;
        Ok(entry.map(|entry| entry.value))
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError> {
        self.check(key, Some(&value))?;
        self.bucket.put(key, value).await.map(drop).map_err(call_error)
    }

    async fn delete(&self, key: &str) -> Result<(), CallError> {
        self.check(key, None)?;
        self.bucket.delete(key).await.map_err(call_error)
    }

    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyPage, CallError> {
        self.check_connected()?;
        let page = self.bucket.keys_page(cursor.unwrap_or(0), MAX_KEYS_PER_PAGE).await.map_err(call_error)?;
        Ok(KeyPage { keys: page.keys, cursor: page.next })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        self.check(key, None)?;
        self.counters.add(key, delta).await
    }
}

impl OpenBucket {
    fn check(&self, key: &str, value: Option<&Bytes>) -> Result<(), CallError> {
        check_key(key)?;
        let limit = self.connection.client().max_payload();
        if let Some(value) = value.filter(|value| value.len() > limit) {
            return Err(CallError::TooLarge { what: "value", size: wide(value.len()), limit: wide(limit) });
        }
        self.check_connected()
    }

    /// Nothing is handed to a client that is not connected: it would be sent late, perhaps over a newer value.
    fn check_connected(&self) -> Result<(), CallError> {
        if self.connection.is_connected() { Ok(()) } else { Err(CallError::Unavailable("NATS is not connected".to_owned())) }
    }
}

fn call_error(error: StoreError) -> CallError {
    match error {
        StoreError::Key { .. } => CallError::Invalid(error.to_string()),
        StoreError::TooLarge { size, limit, .. } => CallError::TooLarge { what: "value", size, limit },
        StoreError::Missing { .. }
        | StoreError::Weaker { .. }
        | StoreError::Owned { .. }
        | StoreError::OtherConsumer { .. }
        | StoreError::Corrupt { .. } => CallError::Failed(error.to_string()),
        StoreError::Nats { doing, source } => match source {
            ApiError::TimedOut(after) => CallError::TimedOut(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            ApiError::Disconnected => CallError::Unavailable(format!("{doing}: NATS is not connected")),
            source if source.is_outage() => CallError::Unavailable(format!("{doing}: {source}")),
            ApiError::TooLarge { .. } | ApiError::Refused { code: MESSAGE_TOO_LARGE, .. } => {
                CallError::Failed(format!("{doing}: the value is larger than the bucket takes"))
            }
            ApiError::NoResponders | ApiError::Denied { .. } | ApiError::Refused { .. } | ApiError::Other(_) => {
                CallError::Failed(format!("{doing}: {source}"))
            }
        },
    }
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
