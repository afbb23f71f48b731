//! `lattice:actor/store`: buckets of the control plane, for lattice's own actors.
//!
//! The actor knows a bucket by the name that its link gives it and can reach no other. Reading and writing are told apart
//! bucket by bucket, sizes are checked before anything is sent, and what nobody confirmed is never called a failure.

use std::sync::Arc;

use bytes::Bytes;
use lattice_core::contract::Contract;
use lattice_core::link::StoreBucket;
use provider_api::CallError;
use provider_api::store::{self as api, Place, Store, StoreError};
use tokio::time::Instant;

use crate::runtime::bindings::host::lattice::actor::store::{BucketInfo, Change, Entry, Error, Host, Listing};
use crate::runtime::links::{Link, LinkCallError, Links};
use crate::runtime::state::{Identity, State};

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 256;
/// Largest value in bytes; what the bus takes by default.
const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Keys in one commit; what the server takes.
const MAX_CHANGES: usize = 1000;
/// Keys and values of one commit in bytes.
const MAX_COMMIT_BYTES: usize = 16 * 1024 * 1024;
/// Keys and values of one listing in bytes: the whole of desired state at its largest.
const MAX_LISTING_BYTES: usize = 64 * 1024 * 1024;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// What a call is about, for when nothing is heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Host for State {
    async fn get(&mut self, bucket: String, key: String) -> Answer<Option<Entry>> {
        Ok(self.store().get(&bucket, &key).await)
    }

    async fn list(&mut self, bucket: String) -> Answer<Listing> {
        Ok(self.store().list(&bucket).await)
    }

    async fn create(&mut self, bucket: String, key: String, value: Vec<u8>) -> Answer<u64> {
        Ok(self.store().commit(&bucket, vec![Change { key, value: Some(value), expected: Some(0) }], None).await)
    }

    async fn update(&mut self, bucket: String, key: String, value: Vec<u8>, expected: u64) -> Answer<u64> {
        Ok(self.store().commit(&bucket, vec![Change { key, value: Some(value), expected: Some(expected) }], None).await)
    }

    async fn commit(&mut self, bucket: String, changes: Vec<Change>, at: Option<u64>) -> Answer<u64> {
        Ok(self.store().commit(&bucket, changes, at).await)
    }

    async fn info(&mut self, bucket: String) -> Answer<BucketInfo> {
        Ok(self.store().info(&bucket).await)
    }
}

/// What one call needs of the instance's state.
struct Stores<'a> {
    identity: &'a Identity,
    links: &'a Links,
    deadline: Instant,
}

impl State {
    fn store(&self) -> Stores<'_> {
        Stores { identity: &self.identity, links: &self.around.links, deadline: self.task.deadline }
    }
}

impl Stores<'_> {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
        check_key(key)?;
        let (link, target, store) = self.bucket(bucket, Access::Read)?;
        let found = self.settle(link, Access::Read, || store.get(place(target), key)).await?;
        Ok(found.map(Entry::from))
    }

    async fn list(&self, bucket: &str) -> Result<Listing, Error> {
        let (link, target, store) = self.bucket(bucket, Access::Read)?;
        checked_listing(self.settle(link, Access::Read, || store.list(place(target))).await?)
    }

    async fn commit(&self, bucket: &str, changes: Vec<Change>, at: Option<u64>) -> Result<u64, Error> {
        check_changes(&changes)?;
        let (link, target, store) = self.bucket(bucket, Access::Write)?;
        let changes: Vec<api::Change> = changes.into_iter().map(api::Change::from).collect();
        self.settle(link, Access::Write, || store.commit(place(target), changes.clone(), at)).await
    }

    async fn info(&self, bucket: &str) -> Result<BucketInfo, Error> {
        let (link, target, store) = self.bucket(bucket, Access::Read)?;
        let info = self.settle(link, Access::Read, || store.info(place(target))).await?;
        Ok(BucketInfo { last_revision: info.last_revision, entries: info.entries, bytes: info.bytes })
    }

    /// The bucket that the actor means, if a link gives it for that.
    fn bucket(&self, name: &str, access: Access) -> Result<(&Link, &StoreBucket, &Arc<dyn Store>), Error> {
        let denied = |what: &str| self.identity.log.denied(Contract::Store.as_str(), what);
        let Some((link, target, store)) = self.links.store(name) else {
            denied(&format!("no link gives bucket `{}`", shown(name)));
            return Err(Error::NoSuchBucket);
        };
        if access == Access::Write && !target.write {
            denied(&format!("link `{}` gives bucket `{name}` for reading only", link.spec.name));
            return Err(Error::AccessDenied);
        }
        Ok((link, target, store))
    }

    /// One call over the link, by its rules.
    async fn settle<T, F>(&self, link: &Link, access: Access, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let attempt = || {
            let called = call();
            async {
                match called.await {
                    // Only this may be tried again: nothing was sent.
                    Err(StoreError::Unavailable(why)) => Err(CallError::Unavailable(why)),
                    settled => Ok(settled),
                }
            }
        };
        match link.call(self.deadline, attempt).await {
            Ok(settled) => settled.map_err(Error::from),
            Err(error @ (LinkCallError::TimedOut(_) | LinkCallError::Revoked(_))) if access == Access::Write => {
                Err(Error::UnknownOutcome(error.to_string()))
            }
            Err(error @ (LinkCallError::TimedOut(_) | LinkCallError::Revoked(_) | LinkCallError::Backend(_))) => {
                Err(Error::Unavailable(error.to_string()))
            }
        }
    }
}

fn place(bucket: &StoreBucket) -> Place<'_> {
    Place { name: &bucket.bucket, subjects: bucket.subjects.as_deref() }
}

fn checked_listing(listing: api::Listing) -> Result<Listing, Error> {
    let bytes = listing.entries.iter().fold(0_usize, |sum, entry| sum.saturating_add(entry.key.len()).saturating_add(entry.value.len()));
    if bytes > MAX_LISTING_BYTES {
        return Err(Error::TooLarge(format!("the bucket holds {bytes} bytes, at most {MAX_LISTING_BYTES} are listed")));
    }
    Ok(Listing { entries: listing.entries.into_iter().map(Entry::from).collect(), revision: listing.revision })
}

fn check_changes(changes: &[Change]) -> Result<(), Error> {
    if changes.is_empty() {
        return Err(Error::Failed("a commit without keys".to_owned()));
    }
    if changes.len() > MAX_CHANGES {
        return Err(Error::TooLarge(format!("a commit of {} keys, at most {MAX_CHANGES} are allowed", changes.len())));
    }
    let mut total = 0_usize;
    for change in changes {
        check_key(&change.key)?;
        let size = change.value.as_ref().map_or(0, Vec::len);
        if size > MAX_VALUE_BYTES {
            return Err(Error::TooLarge(format!("value of `{}` has {size} bytes, at most {MAX_VALUE_BYTES} are allowed", change.key)));
        }
        total = total.saturating_add(change.key.len()).saturating_add(size);
    }
    if total > MAX_COMMIT_BYTES {
        return Err(Error::TooLarge(format!("a commit of {total} bytes, at most {MAX_COMMIT_BYTES} are allowed")));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::TooLarge(format!("key `{}…` is longer than {MAX_KEY_BYTES} bytes", shown(key))));
    }
    provider_api::keyvalue::check_key(key).map_err(|error| Error::Failed(error.to_string()))
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl From<api::Entry> for Entry {
    fn from(entry: api::Entry) -> Self {
        Self { key: entry.key, value: entry.value.into(), revision: entry.revision }
    }
}

impl From<Change> for api::Change {
    fn from(change: Change) -> Self {
        Self { key: change.key, value: change.value.map(Bytes::from), expected: change.expected }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchBucket => Self::NoSuchBucket,
            StoreError::Denied(_) => Self::AccessDenied,
            StoreError::Conflict(text) => Self::Conflict(text),
            StoreError::UnknownOutcome(text) => Self::UnknownOutcome(text),
            StoreError::TooLarge(text) => Self::TooLarge(text),
            StoreError::Unavailable(text) => Self::Unavailable(text),
            StoreError::Invalid(text) | StoreError::Failed(text) => Self::Failed(text),
        }
    }
}
