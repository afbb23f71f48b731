//! Users' key-value buckets: raw `KV_…` streams that stock clients can read and write, and that no header can wipe.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MARKER_REASON};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::id::{BucketName, Revision};
use lattice_core::subject;

use crate::api;
use crate::connect::Connection;
use crate::error::{ApiError, CommitError, StoreError};
use crate::lattice::Lattice;
use crate::safety;
use crate::scan::{self, Content};

mod transaction;

pub use transaction::{Info, KeyChange, Snapshot};

/// Header that marks a deletion, as stock clients write and read it.
const KV_OPERATION: &str = "KV-Operation";
/// A deleted key; older values stay in the history.
const DELETED: &str = "DEL";
/// A purged key; stock clients write it together with a roll-up, which our buckets refuse.
const PURGED: &str = "PURGE";
/// Values of one key that a bucket keeps.
const HISTORY: i64 = 1;
/// Disk that one bucket may reserve, in bytes.
const MAX_BYTES: i64 = 128 * 1024 * 1024;
/// Keys that one bucket may hold, deleted ones included, so that a listing stays within memory.
const MAX_KEYS: i64 = 100_000;
/// Metadata of the stream: the region that the bucket was made for.
const REGION_METADATA: &str = "lattice-region";
/// Longest key in bytes; a subject with the bucket's name stays below 512.
const MAX_KEY_BYTES: usize = 256;
/// Keys per look at which of them are deleted.
const KEYS_PER_SCAN: usize = 256;
/// The expected sequence is not the last on this subject, as refused for a single message.
const WRONG_LAST_SEQUENCE: u64 = 10071;

impl Lattice {
    /// Makes a bucket for users if there is none of that name; `region` is noted on it.
    ///
    /// # Errors
    /// [`StoreError::Weaker`] if one exists that a header could wipe or that cannot take atomic batches.
    pub async fn ensure_bucket(&self, name: &BucketName, region: Option<&str>) -> Result<(), StoreError> {
        ensure(self.connection(), name, region).await
    }
}

/// [`Lattice::ensure_bucket`] for those who have a connection only.
///
/// # Errors
/// As there.
pub async fn ensure(connection: &Connection, name: &BucketName, region: Option<&str>) -> Result<(), StoreError> {
    safety::ensure(connection, &config(name, region)).await.map(drop)
}

/// The stream of a user's bucket.
pub(crate) fn config(name: &BucketName, region: Option<&str>) -> Config {
    let mut config = safety::bucket_config(name.as_str(), HISTORY, MAX_BYTES);
    config.max_messages = MAX_KEYS;
    config.metadata.extend(region.map(|region| (REGION_METADATA.to_owned(), region.to_owned())));
    config
}

/// An open bucket, or a stream that is read and written as if it were one.
#[derive(Debug, Clone)]
pub struct Bucket {
    connection: Connection,
    name: Arc<str>,
    stream: Arc<str>,
    /// What stands before the key in a subject, the dot included.
    prefix: Arc<str>,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Its revision, for [`Bucket::update`].
    pub revision: Revision,
}

/// Some keys in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The keys.
    pub keys: Vec<String>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

impl Bucket {
    /// Opens a bucket of any lattice or of a user, however it was made.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it does not exist.
    pub async fn open(connection: &Connection, name: &BucketName) -> Result<Self, StoreError> {
        let stream = subject::bucket_stream(name.as_str());
        let found = api::stream_info(connection, &stream).await.map_err(StoreError::nats(format!("opening bucket `{name}`")))?;
        match found {
            Some(_) => Ok(Self::named(connection, name.as_str())),
            None => Err(StoreError::Missing { what: "bucket", name: name.to_string() }),
        }
    }

    /// The bucket of this name, whoever owns it; nothing is sent, and whether it exists shows with the first call.
    pub fn named(connection: &Connection, name: &str) -> Self {
        let (stream, prefix) = (subject::bucket_stream(name), subject::bucket_key(name, ""));
        Self { connection: connection.clone(), name: name.into(), stream: stream.into(), prefix: prefix.into() }
    }

    /// A stream that is no bucket: its subjects below `subjects` are the keys. Nothing is sent.
    pub fn of_stream(connection: &Connection, stream: &str, subjects: &str) -> Self {
        Self { connection: connection.clone(), name: stream.into(), stream: stream.into(), prefix: format!("{subjects}.").into() }
    }

    /// The value of `key`; `None` if there is none or it was deleted.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Nats`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let subject = self.subject(key)?;
        let found = api::direct_get(&self.connection, &self.stream, &subject).await.map_err(self.failed("reading", key))?;
        Ok(found.and_then(entry))
    }

    /// Sets `key`, whatever was there; returns its new revision.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Nats`].
    pub async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        let subject = self.subject(key)?;
        let ack = api::publish(&self.connection, &subject, HeaderMap::new(), value).await.map_err(self.failed("writing", key))?;
        Ok(Revision(ack.sequence))
    }

    /// Sets `key` if its newest revision is `revision` (0: no message was ever written for it).
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if it is not.
    pub async fn update(&self, key: &str, value: Bytes, revision: Revision) -> Result<Revision, CommitError> {
        let subject = self.subject(key)?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        match api::publish(&self.connection, &subject, headers, value).await {
            Ok(ack) => Ok(Revision(ack.sequence)),
            Err(ApiError::Refused { code: WRONG_LAST_SEQUENCE, .. }) => Err(CommitError::Conflict { expected: revision, found: None }),
            Err(error) => Err(self.failed("writing", key)(error).into()),
        }
    }

    /// Sets `key` if it has no value, also over a deletion.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if it has one.
    pub async fn create(&self, key: &str, value: Bytes) -> Result<Revision, CommitError> {
        let first = self.update(key, value.clone(), Revision(0)).await;
        if !matches!(first, Err(CommitError::Conflict { .. })) {
            return first;
        }
        let subject = self.subject(key)?;
        let newest =
            api::leader_get(&self.connection, &self.stream, api::Lookup::Last(&subject)).await.map_err(self.failed("reading", key))?;
        match newest {
            Some(marker) if is_deleted(&marker.headers) => self.update(key, value, Revision(marker.sequence)).await,
            Some(_) | None => first,
        }
    }

    /// Deletes `key`; one that does not exist is no error.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Nats`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        if self.get(key).await?.is_none() {
            return Ok(());
        }
        let subject = self.subject(key)?;
        api::publish(&self.connection, &subject, deletion(), Bytes::new()).await.map_err(self.failed("deleting", key))?;
        Ok(())
    }

    /// The newest revision of `key`, a deletion included; 0 if nothing was ever written for it. For [`Bucket::update`]
    /// of a key that has no value.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Nats`].
    pub async fn entry_or_gap(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        let subject = self.subject(key)?;
        let newest =
            api::leader_get(&self.connection, &self.stream, api::Lookup::Last(&subject)).await.map_err(self.failed("reading", key))?;
        Ok(match newest {
            Some(message) => {
                let revision = Revision(message.sequence);
                (entry(message), revision)
            }
            None => (None, Revision(0)),
        })
    }

    /// All keys that start with `prefix`, in ascending order.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let subjects: Vec<String> = self.subjects().await?.into_iter().filter(|key| key.starts_with(prefix)).collect();
        let mut keys = Vec::new();
        for some in subjects.chunks(KEYS_PER_SCAN) {
            keys.extend(self.alive(some).await?);
        }
        Ok(keys)
    }

    /// Up to `limit` keys in ascending order, from `start`, which is 0 or what the last page said.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn keys_page(&self, start: u64, limit: usize) -> Result<Keys, StoreError> {
        let subjects = self.subjects().await?;
        let mut position = usize::try_from(start).unwrap_or(usize::MAX).min(subjects.len());
        let mut keys = Vec::new();
        while keys.len() < limit && position < subjects.len() {
            let end = position.saturating_add((limit - keys.len()).min(KEYS_PER_SCAN)).min(subjects.len());
            let some = subjects.get(position..end).unwrap_or_default();
            keys.extend(self.alive(some).await?);
            position = end;
        }
        let next = (position < subjects.len()).then(|| u64::try_from(position).unwrap_or(u64::MAX));
        Ok(Keys { keys, next })
    }

    /// Keys of which the stream holds anything, deletions too, in ascending order.
    async fn subjects(&self) -> Result<Vec<String>, StoreError> {
        let failed = |error: String| StoreError::Nats { doing: format!("listing bucket `{}`", self.name), source: ApiError::Other(error) };
        let stream = self.connection.jetstream().get_stream_no_info(&*self.stream).await.map_err(|error| failed(error.to_string()))?;
        let mut subjects = stream.info_with_subjects(format!("{}>", self.prefix)).await.map_err(|error| failed(error.to_string()))?;
        let mut keys = Vec::new();
        while let Some(found) = subjects.next().await {
            let (subject, _count) = found.map_err(|error| failed(error.to_string()))?;
            keys.extend(subject.strip_prefix(&*self.prefix).map(str::to_owned));
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Those of `keys` that have a value.
    async fn alive(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let filters = keys.iter().map(|key| format!("{}{key}", self.prefix)).collect();
        let found = scan::newest(&self.connection, &self.stream, filters, Content::HeadersOnly);
        let found = found.await.map_err(StoreError::nats(format!("listing bucket `{}`", self.name)))?;
        let alive = found.iter().filter(|(_, message)| !is_deleted(&message.headers));
        Ok(alive.filter_map(|(subject, _)| subject.strip_prefix(&*self.prefix).map(str::to_owned)).collect())
    }

    fn subject(&self, key: &str) -> Result<String, StoreError> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn failed(&self, doing: &str, key: &str) -> impl FnOnce(ApiError) -> StoreError {
        StoreError::nats(format!("{doing} key `{key}` of bucket `{}`", self.name))
    }
}

/// Headers of a message that deletes its key.
pub(crate) fn deletion() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(KV_OPERATION, DELETED);
    headers
}

/// Whether a message says that its key has no value any more.
pub(crate) fn is_deleted(headers: &HeaderMap) -> bool {
    let operation = headers.get(KV_OPERATION).map(async_nats::HeaderValue::as_str);
    matches!(operation, Some(DELETED | PURGED)) || headers.get(NATS_MARKER_REASON).is_some()
}

pub(crate) fn entry(message: StreamMessage) -> Option<Entry> {
    (!is_deleted(&message.headers)).then(|| Entry { value: message.payload, revision: Revision(message.sequence) })
}

pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    let reason = if key.is_empty() {
        "is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "is longer than 256 bytes"
    } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'=' | b'.' | b'/' | b'-')) {
        "may only hold letters, digits and _ = . / -"
    } else if key.split('.').any(str::is_empty) {
        "has an empty part between dots"
    } else {
        return Ok(());
    };
    Err(StoreError::Key { key: key.chars().take(80).flat_map(char::escape_debug).collect(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_keys_are_refused() {
        for bad in ["", "a b", "a*", ">", "a..b", ".a", "a.", "é", "a\r\nb", &"a".repeat(257)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        assert!(check_key("eu.sensor=2E1/x_-").is_ok());
    }
}
