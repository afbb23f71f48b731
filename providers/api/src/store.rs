//! Stores for system actors: buckets whose keys have revisions and change together, on condition.

use async_trait::async_trait;
use bytes::Bytes;

/// A bucket, or a stream that is used as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Real name of the bucket; of the stream if `subjects` is given.
    pub name: &'a str,
    /// Of a stream that is no bucket: what stands before the key in its subjects, without the dot.
    pub subjects: Option<&'a str>,
}

/// The buckets of a control plane. Keys are as for [`crate::keyvalue::Bucket`]; revisions ascend over the whole bucket.
#[async_trait]
pub trait Store: Send + Sync {
    /// The newest value of `key`, never older than what was acknowledged before.
    async fn get(&self, bucket: Place<'_>, key: &str) -> Result<Option<Entry>, StoreError>;
    /// All keys with their values, and the revision of the bucket before they were read.
    async fn list(&self, bucket: Place<'_>) -> Result<Listing, StoreError>;
    /// Stores all of `changes` or none: if each key has the revision that its change expects, and nobody has changed
    /// anything since `at`. Returns the revision of the last of them.
    async fn commit(&self, bucket: Place<'_>, changes: Vec<Change>, at: Option<u64>) -> Result<u64, StoreError>;
    /// How the bucket stands; cheap.
    async fn info(&self, bucket: Place<'_>) -> Result<Info, StoreError>;
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Its revision.
    pub revision: u64,
}

/// All of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries in ascending order of their keys.
    pub entries: Vec<Entry>,
    /// Revision of the bucket, on which a commit may be conditioned.
    pub revision: u64,
}

/// One key of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// Revision that the key must have; 0: it must have no value.
    pub expected: Option<u64>,
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Revision of its last change.
    pub last_revision: u64,
    /// Keys, deleted ones included.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Why a store did not do what it was asked. Unless it says otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The host itself may not do that.
    #[error("access denied: {0}")]
    Denied(String),
    /// A condition does not hold; says which revision was expected and, where known, which was found.
    #[error("{0}")]
    Conflict(String),
    /// Whether it was done is not known.
    #[error("{0}")]
    UnknownOutcome(String),
    /// Too many keys or bytes.
    #[error("{0}")]
    TooLarge(String),
    /// A key that is none.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot be reached now; trying again may help.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The store refused or failed; trying again will not help.
    #[error("{0}")]
    Failed(String),
}
