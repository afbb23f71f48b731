//! All of a bucket at one moment, and several of its keys changed as one.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use lattice_core::id::Revision;

use super::{Bucket, Entry, deletion, is_deleted};
use crate::api::{self, STREAM_NOT_FOUND};
use crate::batch::{self, Part};
use crate::error::{ApiError, CommitError, StoreError};
use crate::scan;

/// Keys that are looked up after a conflict, to say which revision is there.
const EXPLAINED_KEYS: usize = 16;

/// One key of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// The batch is stored only if this is the key's revision; 0: it has no value.
    pub expected: Option<Revision>,
}

/// All keys of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The entries by key.
    pub entries: BTreeMap<String, Entry>,
    /// Revision of the bucket before they were read: a batch on condition of it fails if anything is newer.
    pub revision: Revision,
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Revision of the last change of any key.
    pub last_revision: Revision,
    /// Keys, deleted ones included.
    pub keys: u64,
    /// Bytes on disk, history included.
    pub bytes: u64,
}

impl Bucket {
    /// The value of `key`, never older than what was acknowledged before.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Missing`], [`StoreError::Nats`].
    pub async fn get_latest(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.entry_or_gap(key).await.map(|(entry, _)| entry).map_err(|error| self.or_missing(error))
    }

    /// All of the bucket.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Nats`].
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (found, revision) =
            scan::snapshot(&self.connection, &self.stream, &format!("{}>", self.prefix)).await.map_err(|error| self.or_missing(error))?;
        let alive = found.into_iter().filter(|(_, message)| !is_deleted(&message.headers));
        let entries = alive.filter_map(|(subject, message)| {
            let entry = Entry { value: message.payload, revision: Revision(message.sequence) };
            Some((subject.strip_prefix(&*self.prefix)?.to_owned(), entry))
        });
        Ok(Snapshot { entries: entries.collect(), revision })
    }

    /// How the bucket stands; costs one request.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Nats`].
    pub async fn info(&self) -> Result<Info, StoreError> {
        let found = api::stream_info(&self.connection, &self.stream).await;
        let found = found.map_err(StoreError::nats(format!("looking at bucket `{}`", self.name)))?;
        let state = found.ok_or_else(|| self.missing())?.state;
        Ok(Info { last_revision: Revision(state.last_sequence), keys: state.subjects_count, bytes: state.bytes })
    }

    /// Stores all of `changes` or none: if each key has the revision that its change expects, and nobody has changed the
    /// bucket since `at`. Returns the revision of the last of them.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] with a revision that differs from what was expected; [`CommitError::Unknown`] if the server
    /// answered no attempt; with any other error nothing was stored.
    pub async fn commit(&self, changes: &[KeyChange], at: Option<Revision>) -> Result<Revision, CommitError> {
        let mut parts = changes.iter().map(|change| self.part(change)).collect::<Result<Vec<_>, _>>()?;
        let conflict = match self.store(&parts, at).await {
            Err(error @ CommitError::Conflict { .. }) => error,
            settled => return settled,
        };
        // A key that was deleted has a revision, too; whoever expects no value expects that one.
        let mut deleted = false;
        let mut mismatch = None;
        let conditional = changes.iter().zip(&mut parts).filter_map(|(change, part)| Some((change, part, change.expected?)));
        for (change, part, expected) in conditional.take(EXPLAINED_KEYS) {
            let (entry, revision) = self.entry_or_gap(&change.key).await?;
            if expected == Revision(0) && entry.is_none() && revision != Revision(0) {
                part.expected = Some(revision);
                deleted = true;
            } else if revision != expected && mismatch.is_none() {
                mismatch = Some(CommitError::Conflict { expected, found: Some(revision) });
            }
        }
        match mismatch {
            Some(mismatch) => Err(mismatch),
            None if deleted => self.store(&parts, at).await,
            None => Err(conflict),
        }
    }

    async fn store(&self, parts: &[Part], at: Option<Revision>) -> Result<Revision, CommitError> {
        batch::commit(&self.connection, &self.stream, parts, at).await.map_err(|error| match error {
            CommitError::Store(error) => CommitError::Store(self.or_missing(error)),
            error @ (CommitError::Conflict { .. } | CommitError::TooMany { .. } | CommitError::Unknown { .. }) => error,
        })
    }

    fn part(&self, change: &KeyChange) -> Result<Part, StoreError> {
        let headers = if change.value.is_some() { HeaderMap::new() } else { deletion() };
        let payload = change.value.clone().unwrap_or_default();
        Ok(Part::new(self.subject(&change.key)?, headers, payload, change.expected))
    }

    fn missing(&self) -> StoreError {
        StoreError::Missing { what: "bucket", name: self.name.to_string() }
    }

    /// The server's words for a stream that does not exist, as ours; what is sent to one is heard by nobody.
    fn or_missing(&self, error: StoreError) -> StoreError {
        let is_missing = match &error {
            StoreError::Nats { source, .. } => {
                matches!(source, ApiError::Refused { code: STREAM_NOT_FOUND, .. } | ApiError::NoResponders)
            }
            StoreError::Missing { .. } => true,
            StoreError::Weaker { .. }
            | StoreError::Owned { .. }
            | StoreError::OtherConsumer { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Key { .. } => false,
        };
        if is_missing { self.missing() } else { error }
    }
}
