//! The store of system actors over the control plane's JetStream buckets.

use async_trait::async_trait;
use lattice_core::id::Revision;
use lattice_nats::bucket::{Bucket, KeyChange};
use lattice_nats::error::ApiError;
use lattice_nats::{CommitError, Connection};
use provider_api::store::{Change, Entry, Info, Listing, Place, Store, StoreError};

use crate::reason;

/// Buckets on one connection.
pub(crate) struct NatsStore {
    connection: Connection,
}

impl NatsStore {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The bucket; nothing is handed to a client that is not connected, which would send it late.
    fn bucket(&self, place: Place<'_>) -> Result<Bucket, StoreError> {
        if !self.connection.is_connected() {
            return Err(StoreError::Unavailable("NATS is not connected".to_owned()));
        }
        Ok(match place.subjects {
            Some(subjects) => Bucket::of_stream(&self.connection, place.name, subjects),
            None => Bucket::named(&self.connection, place.name),
        })
    }
}

#[async_trait]
impl Store for NatsStore {
    async fn get(&self, bucket: Place<'_>, key: &str) -> Result<Option<Entry>, StoreError> {
        let found = self.bucket(bucket)?.get_latest(key).await.map_err(read_error)?;
        Ok(found.map(|entry| Entry { key: key.to_owned(), value: entry.value, revision: entry.revision.0 }))
    }

    async fn list(&self, bucket: Place<'_>) -> Result<Listing, StoreError> {
        let snapshot = self.bucket(bucket)?.snapshot().await.map_err(read_error)?;
        let entries = snapshot.entries.into_iter().map(|(key, entry)| Entry { key, value: entry.value, revision: entry.revision.0 });
        Ok(Listing { entries: entries.collect(), revision: snapshot.revision.0 })
    }

    async fn commit(&self, bucket: Place<'_>, changes: Vec<Change>, at: Option<u64>) -> Result<u64, StoreError> {
        let change = |change: Change| KeyChange { key: change.key, value: change.value, expected: change.expected.map(Revision) };
        let changes: Vec<KeyChange> = changes.into_iter().map(change).collect();
        let stored = self.bucket(bucket)?.commit(&changes, at.map(Revision)).await;
        stored.map(|revision| revision.0).map_err(|error| match error {
            CommitError::Conflict { .. } => StoreError::Conflict(error.to_string()),
            CommitError::TooMany { .. } => StoreError::TooLarge(error.to_string()),
            CommitError::Unknown { .. } => StoreError::UnknownOutcome(reason::of(&error)),
            CommitError::Store(error) => read_error(error),
        })
    }

    async fn info(&self, bucket: Place<'_>) -> Result<Info, StoreError> {
        let info = self.bucket(bucket)?.info().await.map_err(read_error)?;
        Ok(Info { last_revision: info.last_revision.0, entries: info.keys, bytes: info.bytes })
    }
}

/// Errors after which nothing was changed.
fn read_error(error: lattice_nats::StoreError) -> StoreError {
    use lattice_nats::StoreError as Nats;
    let text = reason::of(&error);
    match error {
        Nats::Missing { .. } => StoreError::NoSuchBucket,
        Nats::Key { .. } => StoreError::Invalid(text),
        Nats::TooLarge { .. } => StoreError::TooLarge(text),
        Nats::Nats { source, .. } => match source {
            ApiError::Denied { .. } => StoreError::Denied(text),
            ApiError::TooLarge { .. } => StoreError::TooLarge(text),
            ApiError::TimedOut(_) | ApiError::Disconnected => StoreError::Unavailable(text),
            ApiError::Refused { .. } | ApiError::NoResponders | ApiError::Other(_) => StoreError::Failed(text),
        },
        Nats::Weaker { .. } | Nats::Owned { .. } | Nats::OtherConsumer { .. } | Nats::Corrupt { .. } => StoreError::Failed(text),
    }
}
