//! Signed policies of a lattice: one key each in a bucket of their own, with history.
//!
//! Nothing here knows whether a policy is right: whoever reads one verifies it.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{Config, Republish};
use bytes::Bytes;
use lattice_core::id::{ConfigName, Revision};
use lattice_core::subject;
use lattice_core::trust::clock::parse_utc;
use serde::Deserialize;

use crate::api::{self, Lookup};
use crate::bucket::{self, Bucket};
use crate::error::{CommitError, StoreError};
use crate::lattice::Lattice;
use crate::safety;

/// Versions of one policy that are kept, for `history` and `rollback`.
pub const POLICY_HISTORY: i64 = 16;
/// Disk for policies, in bytes: the 64 that a host holds, sixteen times, at some 60 KiB.
const POLICY_MAX_BYTES: i64 = 64 * 1024 * 1024;

/// A policy as it is stored: a signed document that nobody has verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The document.
    pub document: Bytes,
    /// Where it stands.
    pub revision: Revision,
}

/// The part of an answer that says when it was given.
#[derive(Deserialize)]
struct Dated {
    ts: Option<String>,
}

impl Lattice {
    /// Makes the bucket of policies if there is none.
    ///
    /// # Errors
    /// [`StoreError::Weaker`] if there is one that promises less.
    pub async fn ensure_policies(&self) -> Result<(), StoreError> {
        safety::ensure(self.connection(), &self.policy_config()).await.map(drop)
    }

    /// The newest document of each policy. A lattice without the bucket has none.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn read_policies(&self) -> Result<BTreeMap<ConfigName, StoredPolicy>, StoreError> {
        let found = match self.read_bucket(&subject::policy_bucket(self.name())).await {
            Ok((found, _)) => found,
            Err(StoreError::Missing { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        // Other keys are none of ours; somebody who may write here may write anything.
        let policies = found
            .into_iter()
            .filter_map(|(key, (document, revision))| Some((subject::policy_of_key(&key)?, StoredPolicy { document, revision })));
        Ok(policies.collect())
    }

    /// What the server's clock shows, in seconds since 1970; none from a server that does not say.
    ///
    /// # Errors
    /// [`StoreError::Nats`], also where nobody has made the lattice.
    pub async fn server_time(&self) -> Result<Option<u64>, StoreError> {
        let stream = subject::bucket_stream(&subject::desired_bucket(self.name()));
        let answer = api::call::<_, Dated>(self.connection(), &format!("STREAM.INFO.{stream}"), &api::Nothing {}).await;
        let dated = answer.map_err(StoreError::nats("asking the server for the time"))?;
        Ok(dated.ts.and_then(|text| parse_utc(&text)))
    }

    /// The newest document of one policy, never older than what was committed before, and the revision on which a newer one
    /// may be committed (0: there was never one).
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn read_policy(&self, policy: &ConfigName) -> Result<(Option<StoredPolicy>, Revision), StoreError> {
        let bucket = Bucket::named(self.connection(), &subject::policy_bucket(self.name()));
        let (entry, revision) = bucket.entry_or_gap(&subject::policy_key(policy)).await?;
        Ok((entry.map(|entry| StoredPolicy { document: entry.value, revision: entry.revision }), revision))
    }

    /// The documents of a policy that are kept, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn policy_history(&self, policy: &ConfigName) -> Result<Vec<StoredPolicy>, StoreError> {
        let bucket = subject::policy_bucket(self.name());
        let (stream, subject) = (subject::bucket_stream(&bucket), subject::bucket_key(&bucket, &subject::policy_key(policy)));
        let mut documents = Vec::new();
        let mut next = 1;
        for _ in 0..POLICY_HISTORY {
            let found = api::leader_get(self.connection(), &stream, Lookup::NextOn(&subject, next)).await;
            let Some(message) = found.map_err(StoreError::nats(format!("reading the history of policy `{policy}`")))? else { break };
            next = message.sequence.saturating_add(1);
            if !bucket::is_deleted(&message.headers) {
                documents.push(StoredPolicy { document: message.payload, revision: Revision(message.sequence) });
            }
        }
        Ok(documents)
    }

    /// Stores a document if nobody has stored another one since `expected`. Returns its revision.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if somebody has.
    pub async fn commit_policy(&self, policy: &ConfigName, document: Bytes, expected: Revision) -> Result<Revision, CommitError> {
        let bucket = Bucket::named(self.connection(), &subject::policy_bucket(self.name()));
        bucket.update(&subject::policy_key(policy), document, expected).await
    }

    fn policy_config(&self) -> Config {
        let (source, destination) = subject::policy_republish(self.name());
        let config = safety::bucket_config(&subject::policy_bucket(self.name()), POLICY_HISTORY, POLICY_MAX_BYTES);
        // A host is told that there is something new and reads it itself.
        Config { republish: Some(Republish { source, destination, headers_only: true }), ..config }
    }
}
