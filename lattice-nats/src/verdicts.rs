//! Verdicts in the store: who is taken for alive.

use async_nats::jetstream::stream::{Config, Republish};
use lattice_core::id::{HostId, Revision};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::verdict::{self, Verdict, Verdicts};

use crate::bucket::{Bucket, KeyChange};
use crate::error::{CommitError, StoreError};
use crate::lattice::Lattice;
use crate::safety;

/// Verdicts of one host that are kept, for people who look what happened.
const VERDICT_HISTORY: i64 = 8;
/// Disk for verdicts, in bytes: 10,000 hosts with some 512 bytes each, eight times.
const VERDICT_MAX_BYTES: i64 = 64 * 1024 * 1024;

impl Lattice {
    /// All verdicts.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such lattice, [`StoreError::Corrupt`] names a key that makes no sense.
    pub async fn read_verdicts(&self) -> Result<Verdicts, StoreError> {
        let (found, revision) = self.read_bucket(&subject::verdict_bucket(self.name())).await?;
        let mut verdicts = Verdicts { revision, ..Verdicts::default() };
        for (key, (value, _)) in found {
            verdicts.insert(&key, &value).map_err(|error| self.corrupt_verdict(&error.to_string()))?;
        }
        Ok(verdicts)
    }

    /// The verdict about one host with its revision, never older than what was committed before; without one the revision on
    /// which the first can be committed.
    ///
    /// # Errors
    /// As for [`Lattice::read_verdicts`].
    pub async fn read_verdict(&self, host: &HostId) -> Result<(Option<Verdict>, Revision), StoreError> {
        let (entry, revision) = self.verdict_bucket().entry_or_gap(&verdict::host_key(host)).await?;
        let verdict: Option<Verdict> = entry
            .map(|entry| wire::decode(&entry.value))
            .transpose()
            .map_err(|error| self.corrupt_verdict(&format!("{}: {error}", verdict::host_key(host))))?;
        if verdict.as_ref().is_some_and(|verdict| verdict.host != *host) {
            return Err(self.corrupt_verdict(&format!("{}: it is about another host", verdict::host_key(host))));
        }
        Ok((verdict, revision))
    }

    /// Writes a verdict if the last one about its host has the revision `expected` (0: there is none). Returns the new
    /// revision.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if somebody else judged meanwhile; [`CommitError::Unknown`] if the server did not say.
    pub async fn commit_verdict(&self, verdict: &Verdict, expected: Revision) -> Result<Revision, CommitError> {
        let key = verdict::host_key(&verdict.host);
        let change = KeyChange { key, value: Some(wire::encode(verdict).into()), expected: Some(expected) };
        self.verdict_bucket().commit(&[change], None).await
    }

    pub(crate) fn verdict_config(&self) -> Config {
        let (source, destination) = subject::verdict_republish(self.name());
        let config = safety::bucket_config(&subject::verdict_bucket(self.name()), VERDICT_HISTORY, VERDICT_MAX_BYTES);
        Config { republish: Some(Republish { source, destination, headers_only: false }), ..config }
    }

    fn verdict_bucket(&self) -> Bucket {
        Bucket::named(self.connection(), &subject::verdict_bucket(self.name()))
    }

    fn corrupt_verdict(&self, reason: &str) -> StoreError {
        StoreError::Corrupt { what: format!("verdicts of lattice `{}`", self.name()), reason: reason.to_owned() }
    }
}
