//! Buckets of actors whose slots have owners: state, epochs, what was applied, and the outbox in one stream.
//!
//! **Invariants.** A claim is stored over the record that was found or not at all. What an owner stores is one atomic batch
//! on condition of its epoch, under ids that depend on the input alone. Whatever is read here comes from the stream's
//! leader, and decides nothing: the next write does.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::stream::{Config, Republish};
use bytes::Bytes;
use lattice_core::fence::{self, Answer, Condition};
use lattice_core::id::{BucketName, LatticeName, Revision};
use lattice_core::ownership::SlotId;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::ownership::{Applied, EpochRecord};
use serde::de::DeserializeOwned;

use crate::api::{self, Lookup};
use crate::batch::{self, DUPLICATE_MESSAGE, Ids, Part, WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_UNSAID};
use crate::bucket::{self, Bucket, deletion, is_deleted};
use crate::connect::Connection;
use crate::error::{ApiError, CommitError, StoreError};
use crate::lattice::Lattice;
use crate::safety;

/// Bytes of the headers of one part: ids of at most a few hundred bytes, the subject of the epoch, and names.
const HEADER_BYTES: usize = 2048;

impl Lattice {
    /// Makes a bucket whose writers are fenced, or makes an existing bucket one; `region` is noted on a new one. Its keys and
    /// whoever reads them notice nothing.
    ///
    /// # Errors
    /// [`StoreError::Weaker`] if one exists that a header could wipe, that cannot take atomic batches, or that another
    /// lattice uses for itself.
    pub async fn ensure_fenced_bucket(&self, name: &BucketName, region: Option<&str>) -> Result<(), StoreError> {
        let plain = bucket::config(name, region);
        let wanted = fenced(plain.clone(), self.name(), name);
        let failed = |doing: &str| StoreError::nats(format!("{doing} bucket `{name}`"));
        let Some(found) = api::stream_info(self.connection(), &plain.name).await.map_err(failed("looking at"))? else {
            return safety::ensure(self.connection(), &wanted).await.map(drop);
        };
        safety::check(&found.config, &plain)?;
        if safety::check(&found.config, &wanted).is_ok() {
            return Ok(());
        }
        if found.config.republish.is_some() && found.config.republish != wanted.republish {
            return Err(StoreError::Weaker { stream: plain.name, setting: "it republishes something else".to_owned() });
        }
        let changed = fenced(found.config, self.name(), name);
        let updated = api::call(self.connection(), &format!("STREAM.UPDATE.{}", changed.name), &changed).await;
        let updated: async_nats::jetstream::stream::Info = updated.map_err(failed("changing"))?;
        safety::check(&updated.config, &wanted)
    }

    /// A bucket whose writers are fenced; nothing is sent.
    pub fn fenced_bucket(&self, name: &BucketName) -> FencedBucket {
        FencedBucket {
            connection: self.connection().clone(),
            lattice: self.name().clone(),
            keys: Bucket::named(self.connection(), name.as_str()),
            stream: subject::bucket_stream(name.as_str()).into(),
            name: name.clone(),
        }
    }
}

/// `config` with what a fenced bucket has more.
fn fenced(mut config: Config, lattice: &LatticeName, name: &BucketName) -> Config {
    for subject in subject::fenced_subjects(lattice, name) {
        if !config.subjects.contains(&subject) {
            config.subjects.push(subject);
        }
    }
    let (source, destination) = subject::outbox_republish(lattice, name);
    config.republish = Some(Republish { source, destination, headers_only: false });
    config
}

/// A bucket whose writers are fenced. Clones are the same bucket.
#[derive(Debug, Clone)]
pub struct FencedBucket {
    connection: Connection,
    lattice: LatticeName,
    name: BucketName,
    keys: Bucket,
    stream: Arc<str>,
}

/// What a commit is about: whose it is, and what caused it.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// The slot.
    pub slot: &'a SlotId,
    /// Its epoch.
    pub epoch: u64,
    /// Consumer of the input.
    pub consumer: &'a str,
    /// Position of the input.
    pub applied: Applied,
    /// What its message ids begin with: see [`fence::message_id`].
    pub id: &'a str,
}

/// Effects ready to be stored: the same bytes and ids in each attempt.
#[derive(Debug, Clone)]
pub struct Commit {
    parts: Vec<Part>,
    ids: Ids,
}

impl FencedBucket {
    /// Its name.
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// Its keys, as anybody sees them.
    pub fn keys(&self) -> &Bucket {
        &self.keys
    }

    /// Largest value or message that a commit takes, in bytes; what the server takes without our own headers.
    pub fn max_bytes(&self) -> usize {
        self.connection.client().max_payload().saturating_sub(HEADER_BYTES)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Who owns the slot, by the record's word, with its sequence.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Nats`].
    pub async fn read_epoch(&self, slot: &SlotId) -> Result<Option<(EpochRecord, u64)>, StoreError> {
        self.read(&self.epoch_subject(slot)).await
    }

    /// Writes the record of the owner, if the last sequence on its subject is `expected` (0: there is none). Returns the
    /// epoch.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if something else is there; [`CommitError::Unknown`] if the server did not say.
    pub async fn claim(&self, slot: &SlotId, record: &EpochRecord, expected: u64) -> Result<u64, CommitError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let stored = api::publish(&self.connection, &self.epoch_subject(slot), headers, wire::encode(record).into()).await;
        match stored {
            Ok(ack) => Ok(ack.sequence),
            Err(ApiError::Refused { code: WRONG_LAST_SEQUENCE, .. }) => {
                Err(CommitError::Conflict { expected: Revision(expected), found: None })
            }
            Err(error) if error.is_ambiguous() => Err(CommitError::Unknown { attempts: 1, source: error }),
            Err(error) => Err(StoreError::nats(format!("claiming slot {slot} in bucket `{}`", self.name))(error).into()),
        }
    }

    /// How far the slot has worked through a consumer.
    ///
    /// # Errors
    /// As for [`FencedBucket::read_epoch`].
    pub async fn read_applied(&self, slot: &SlotId, consumer: &str) -> Result<Option<Applied>, StoreError> {
        Ok(self.read(&self.applied_subject(slot, consumer)).await?.map(|(applied, _)| applied))
    }

    /// Makes a commit of `parts`, with the record of what was applied before them.
    ///
    /// # Errors
    /// [`StoreError::Key`] for a key that is none, or a subject without an outbox.
    pub fn prepare(&self, cause: Cause<'_>, parts: Vec<fence::Part>) -> Result<Commit, StoreError> {
        let epoch: Arc<str> = self.epoch_subject(cause.slot).into();
        let fenced = |part: Part| Part { expected: Some(Revision(cause.epoch)), expected_on: Some(epoch.clone()), ..part };
        let applied = wire::encode(&cause.applied).into();
        let applied = Part::new(self.applied_subject(cause.slot, cause.consumer), HeaderMap::new(), applied, None);
        let mut all = vec![fenced(applied)];
        for part in parts {
            all.push(match part {
                fence::Part::Key { key, value, condition } => {
                    bucket::check_key(&key)?;
                    let headers = if value.is_some() { HeaderMap::new() } else { deletion() };
                    let value = Bytes::from(value.unwrap_or_default());
                    let part = Part::new(subject::bucket_key(self.name.as_str(), &key), headers, value, None);
                    match condition {
                        Condition::Epoch => fenced(part),
                        Condition::Revision(revision) => Part { expected: Some(Revision(revision)), ..part },
                    }
                }
                // Without a condition of its own: the server publishes headers along, and another stream that takes the
                // message would apply it to itself. The batch is stored whole or not at all.
                fence::Part::Publish(message) => {
                    let outbox = subject::outbox(&self.lattice, &self.name, &message.subject);
                    let outbox = outbox.ok_or_else(|| StoreError::Key { key: message.subject.clone(), reason: "has no outbox" })?;
                    Part::new(outbox, headers_of(&message.headers), message.body.into(), None)
                }
            });
        }
        Ok(Commit { parts: all, ids: Ids::named(cause.id.to_owned()) })
    }

    /// One attempt to store a commit: how the store answered, and its words if it did not store it now.
    pub async fn attempt(&self, commit: &Commit) -> (Answer, Option<ApiError>) {
        if !self.connection.is_connected() {
            return (Answer::Unavailable, Some(ApiError::Disconnected));
        }
        let error = match batch::publish(&self.connection, &commit.parts, None, &commit.ids).await {
            Ok(_) => return (Answer::Stored, None),
            Err(error) => error,
        };
        let answer = match &error {
            ApiError::Refused { code: WRONG_LAST_SEQUENCE, .. } => Answer::WrongSequence,
            ApiError::Refused { code: WRONG_LAST_SEQUENCE_UNSAID, .. } => Answer::Busy,
            ApiError::Refused { code: DUPLICATE_MESSAGE, .. } => Answer::Duplicate,
            ApiError::Refused { .. } | ApiError::NoResponders | ApiError::Denied { .. } | ApiError::TooLarge { .. } => Answer::Unavailable,
            ApiError::TimedOut(_) | ApiError::Disconnected | ApiError::Other(_) => Answer::Unknown,
        };
        (answer, Some(error))
    }

    async fn read<T: DeserializeOwned>(&self, subject: &str) -> Result<Option<(T, u64)>, StoreError> {
        let failed = StoreError::nats(format!("reading {subject}"));
        let found = api::leader_get(&self.connection, &self.stream, Lookup::Last(subject)).await.map_err(failed)?;
        let Some(message) = found.filter(|message| !is_deleted(&message.headers)) else { return Ok(None) };
        let corrupt = |error: wire::DecodeError| StoreError::Corrupt { what: subject.to_owned(), reason: error.to_string() };
        Ok(Some((wire::decode(&message.payload).map_err(corrupt)?, message.sequence)))
    }

    fn epoch_subject(&self, slot: &SlotId) -> String {
        subject::epoch(&self.lattice, &self.name, &slot.actor, slot.slot)
    }

    fn applied_subject(&self, slot: &SlotId, consumer: &str) -> String {
        subject::applied(&self.lattice, &self.name, &slot.actor, slot.slot, consumer)
    }
}

/// Headers that the server will take; others are left out.
fn headers_of(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<async_nats::HeaderName>(), value.parse::<async_nats::HeaderValue>()) {
            map.append(name, value);
        }
    }
    map
}
