//! Leases in the store: the sign of life without which a host may not run what is strict.
//!
//! A lease is written by a raw publish: the client's own key-value calls drop the time after which the server forgets it. It
//! is written on condition of what was there before, so that whoever ends a lease ends it for good.

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::stream::Config;
use lattice_core::id::{HostId, Region, Revision};
use lattice_core::subject;
use lattice_core::timing::LEASE_TTL;
use lattice_core::wire;
use lattice_core::wire::ownership::LeaseRecord;

use crate::api::{self, Lookup};
use crate::batch::{WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_UNSAID};
use crate::bucket;
use crate::error::{ApiError, CommitError, StoreError};
use crate::lattice::Lattice;
use crate::safety;

/// Most hosts with a lease.
const MAX_LEASES: i64 = 20_000;
/// Disk for leases, in bytes: a few hundred for each of them.
const LEASE_MAX_BYTES: i64 = 16 * 1024 * 1024;

impl Lattice {
    /// Writes the lease of a host if the one before has the revision `expected` (0: there is none). Tried once: whoever
    /// renews a lease has a deadline and tries again by itself.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if another one was written; [`CommitError::Unknown`] if the server did not say.
    pub async fn write_lease(&self, region: &Region, record: &LeaseRecord, expected: Revision) -> Result<Revision, CommitError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, LEASE_TTL.as_secs().to_string());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let subject = subject::lease(self.name(), region, &record.host);
        match api::publish(self.connection(), &subject, headers, wire::encode(record).into()).await {
            Ok(ack) => Ok(Revision(ack.sequence)),
            Err(ApiError::Refused { code: WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_UNSAID, .. }) => {
                Err(CommitError::Conflict { expected, found: None })
            }
            Err(error) if error.is_ambiguous() => Err(CommitError::Unknown { attempts: 1, source: error }),
            Err(error) => Err(StoreError::nats(format!("writing the lease of host {}", record.host))(error).into()),
        }
    }

    /// The lease of a host with its revision, from the stream's leader; without one the revision on which it can be written.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for one that makes no sense, [`StoreError::Nats`].
    pub async fn read_lease(&self, region: &Region, host: &HostId) -> Result<(Option<LeaseRecord>, Revision), StoreError> {
        let (stream, subject) = (subject::lease_stream(self.name()), subject::lease(self.name(), region, host));
        let doing = format!("reading the lease of host {host}");
        let found = api::leader_get(self.connection(), &stream, Lookup::Last(&subject)).await.map_err(StoreError::nats(doing))?;
        let Some(message) = found else { return Ok((None, Revision(0))) };
        let revision = Revision(message.sequence);
        if bucket::is_deleted(&message.headers) {
            return Ok((None, revision));
        }
        let record = wire::decode(&message.payload);
        let corrupt = |error: wire::DecodeError| StoreError::Corrupt { what: format!("lease of host {host}"), reason: error.to_string() };
        Ok((Some(record.map_err(corrupt)?), revision))
    }

    pub(crate) fn lease_config(&self) -> Config {
        let subjects = format!("{}.>", subject::lease_prefix(self.name()));
        safety::register_config(&subject::lease_stream(self.name()), subjects, MAX_LEASES, LEASE_MAX_BYTES)
    }
}
