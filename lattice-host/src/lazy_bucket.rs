//! A bucket that is opened when it can be: an actor starts and serves although its bucket is not reachable yet.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use provider_api::keyvalue::{Bucket, KeyPage, KeyValue};
use provider_api::{CallError, ProviderError};
use tokio::sync::OnceCell;

/// A bucket of `store`. Until it is open each call tries to open it.
pub(crate) struct LazyBucket {
    store: Arc<dyn KeyValue>,
    name: String,
    opened: OnceCell<Arc<dyn Bucket>>,
}

impl LazyBucket {
    pub(crate) fn new(store: Arc<dyn KeyValue>, name: &str) -> Self {
        Self { store, name: name.to_owned(), opened: OnceCell::new() }
    }

    /// Opens the bucket, if it is not open.
    ///
    /// # Errors
    /// The backend's; the next call tries again.
    pub(crate) async fn open(&self) -> Result<&Arc<dyn Bucket>, ProviderError> {
        self.opened.get_or_try_init(|| self.store.open(&self.name)).await
    }

    async fn bucket(&self) -> Result<&Arc<dyn Bucket>, CallError> {
        self.open().await.map_err(|error| match error {
            // Only a backend that cannot be reached may be better a moment later.
            ProviderError::Backend { .. } => CallError::Unavailable(error.to_string()),
            ProviderError::Setting { .. } | ProviderError::Missing { .. } | ProviderError::Taken { .. } => {
                CallError::Failed(error.to_string())
            }
        })
    }
}

#[async_trait]
impl Bucket for LazyBucket {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        self.bucket().await?.get(key).await
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError> {
        self.bucket().await?.set(key, value).await
    }

    async fn delete(&self, key: &str) -> Result<(), CallError> {
        self.bucket().await?.delete(key).await
    }

    async fn exists(&self, key: &str) -> Result<bool, CallError> {
        self.bucket().await?.exists(key).await
    }

    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyPage, CallError> {
        self.bucket().await?.list_keys(cursor).await
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        self.bucket().await?.increment(key, delta).await
    }
}
