//! Atomic batches: several messages of one stream, all or none, on condition of what was there before.
//!
//! **Ambiguity.** A time-out does not say whether the batch was stored. It is repeated with the same message ids, so that
//! the server stores it once; if an attempt is then refused, the message that won the condition tells whose it was.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID,
};
use bytes::Bytes;
use lattice_core::id::Revision;
use ulid::Ulid;

use crate::api::{self, Lookup};
use crate::connect::Connection;
use crate::error::{ApiError, CommitError, StoreError};

/// Most messages in one batch; nats-server's limit.
pub(crate) const MAX_MESSAGES: usize = 1000;
/// Attempts to store one batch while the server does not answer.
const ATTEMPTS: u32 = 4;
/// Patience with the answer to one part of a batch. All attempts together stay far below the duplicate window.
const PART_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after the first ambiguous attempt; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Names the subject that an expected last sequence is about, where it is not the message's own. The client knows no name
/// for it.
pub(crate) const EXPECTED_ON_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// The stream's last sequence is not the expected one.
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
/// The subject's last sequence is not the expected one (nats-server reports it without the number found).
pub(crate) const WRONG_LAST_SEQUENCE_UNSAID: u64 = 10164;
/// A message of the batch is stored already.
pub(crate) const DUPLICATE_MESSAGE: u64 = 10201;
/// The server has not got all parts, as when the connection broke between them; nothing was stored.
pub(crate) const INCOMPLETE: u64 = 10176;
/// Too many other batches are open at the moment; nothing was stored.
pub(crate) const TOO_MANY_INFLIGHT: u64 = 10210;

/// One message of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// The batch is stored only if the last sequence on the subject is this one; 0: there is none.
    pub(crate) expected: Option<Revision>,
    /// Another subject that is meant by `expected`, instead of the part's own.
    pub(crate) expected_on: Option<Arc<str>>,
}

impl Part {
    /// A part on condition of its own subject, or without any.
    pub(crate) fn new(subject: String, headers: HeaderMap, payload: Bytes, expected: Option<Revision>) -> Self {
        Self { subject, headers, payload, expected, expected_on: None }
    }
}

/// What shows whether a batch was stored whose confirmation got lost: the message that took the place of one of its parts.
#[derive(Debug, Clone, Copy)]
struct Witness<'a> {
    /// The part.
    index: usize,
    /// The revision that was expected.
    expected: Revision,
    lookup: Lookup<'a>,
}

impl<'a> Witness<'a> {
    /// Of a stream at a revision the first part; of parts with conditions the last of them; of a batch without any condition
    /// the last part, as long as nobody wrote over it.
    fn of(parts: &'a [Part], at: Option<Revision>) -> Option<Self> {
        let next = |expected: Revision| expected.0.saturating_add(1);
        if let Some(expected) = at {
            return Some(Self { index: 0, expected, lookup: Lookup::At(next(expected)) });
        }
        let conditional = parts.iter().enumerate().rev().find_map(|(index, part)| Some((index, part, part.expected?)));
        if let Some((index, part, expected)) = conditional {
            // What is conditional on another subject says nothing about its own before.
            let lookup =
                if part.expected_on.is_none() { Lookup::NextOn(&part.subject, next(expected)) } else { Lookup::Last(&part.subject) };
            return Some(Self { index, expected, lookup });
        }
        let (index, last) = parts.iter().enumerate().next_back()?;
        Some(Self { index, expected: Revision(0), lookup: Lookup::Last(&last.subject) })
    }
}

/// Stores `parts` in `stream` as one, if the stream's last sequence is `at` (nobody wrote anything since) and each part's own
/// condition holds. Returns the sequence of the last part.
///
/// # Errors
/// [`CommitError::Conflict`] if a condition does not hold, [`CommitError::Unknown`] if the server answered no attempt;
/// with any other error nothing was stored.
pub(crate) async fn commit(connection: &Connection, stream: &str, parts: &[Part], at: Option<Revision>) -> Result<Revision, CommitError> {
    if parts.len() > MAX_MESSAGES {
        return Err(CommitError::TooMany { size: parts.len(), limit: MAX_MESSAGES });
    }
    let ids = Ids::new();
    let witness = Witness::of(parts, at);
    let mut ambiguous = false;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let error = match publish(connection, parts, at, &ids).await {
            Ok(sequence) => return Ok(Revision(sequence)),
            Err(error) => error,
        };
        let again = match &error {
            ApiError::Refused { code: WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_UNSAID | DUPLICATE_MESSAGE, description } => {
                let won = match witness {
                    Some(witness) if ambiguous => winner(connection, stream, parts.len(), witness, &ids).await?,
                    Some(_) | None => None,
                };
                let expected = witness.map_or(Revision(0), |witness| witness.expected);
                let conflict = || CommitError::Conflict { expected, found: sequence_in(description) };
                return won.ok_or_else(conflict);
            }
            ApiError::Refused { code: INCOMPLETE | TOO_MANY_INFLIGHT, .. } | ApiError::NoResponders => true,
            ApiError::Refused { .. } | ApiError::Denied { .. } | ApiError::TooLarge { .. } => false,
            ApiError::TimedOut(_) | ApiError::Disconnected | ApiError::Other(_) => error.is_ambiguous(),
        };
        ambiguous |= error.is_ambiguous();
        if !again || attempt == ATTEMPTS {
            return Err(if ambiguous {
                CommitError::Unknown { attempts: attempt, source: error }
            } else {
                CommitError::Store(StoreError::Nats { doing: format!("writing to stream `{stream}`"), source: error })
            });
        }
        tracing::debug!(stream, attempt, "batch not confirmed, trying again: {error}");
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2);
        attempt += 1;
    }
}

/// Message ids that stay the same over all attempts.
#[derive(Debug, Clone)]
pub(crate) struct Ids(String);

impl Ids {
    fn new() -> Self {
        Self(Ulid::new().to_string())
    }

    /// Ids that begin with `prefix`, the same for whoever repeats the batch.
    pub(crate) fn named(prefix: String) -> Self {
        Self(prefix)
    }

    fn of(&self, index: usize) -> String {
        format!("{}:{index}", self.0)
    }
}

/// One attempt. The first part is a request of its own, so that a refusal comes before the rest is sent.
pub(crate) async fn publish(connection: &Connection, parts: &[Part], at: Option<Revision>, ids: &Ids) -> Result<u64, ApiError> {
    // A new batch id for each attempt: the server may still hold parts of the last one.
    let batch = Ulid::new().to_string();
    let last = parts.len().saturating_sub(1);
    for (index, part) in parts.iter().enumerate() {
        let mut headers = part.headers.clone();
        headers.insert(NATS_MESSAGE_ID, ids.of(index));
        headers.insert(NATS_BATCH_ID, batch.as_str());
        headers.insert(NATS_BATCH_SEQUENCE, (index + 1).to_string());
        if let Some(revision) = at.filter(|_| index == 0) {
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, revision.to_string());
        }
        if let Some(revision) = part.expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
            if let Some(subject) = &part.expected_on {
                headers.insert(EXPECTED_ON_SUBJECT, subject.as_ref());
            }
        }
        if index == last {
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
            let answer = api::send(connection, &part.subject, headers, part.payload.clone(), PART_TIMEOUT).await?;
            return Ok(api::parse_ack(&answer)?.sequence);
        }
        if index == 0 {
            let answer = api::send(connection, &part.subject, headers, part.payload.clone(), PART_TIMEOUT).await?;
            if !answer.is_empty() {
                api::parse_ack(&answer)?;
            }
        } else {
            let sent = connection.client().publish_with_headers(part.subject.clone(), headers, part.payload.clone()).await;
            sent.map_err(|error| ApiError::Other(error.to_string()))?;
        }
    }
    Err(ApiError::Other("a batch without messages".to_owned()))
}

/// The sequence of our last part, if the message that took the place is ours.
async fn winner(
    connection: &Connection,
    stream: &str,
    parts: usize,
    witness: Witness<'_>,
    ids: &Ids,
) -> Result<Option<Revision>, CommitError> {
    let found = api::leader_get(connection, stream, witness.lookup).await;
    let found = found.map_err(|source| CommitError::Unknown { attempts: ATTEMPTS, source })?;
    let Some(message) = found else {
        return Ok(None);
    };
    let ours = message.headers.get(NATS_MESSAGE_ID).is_some_and(|id| id.as_str() == ids.of(witness.index));
    let distance = u64::try_from(parts.saturating_sub(witness.index + 1)).unwrap_or(u64::MAX);
    Ok(ours.then(|| Revision(message.sequence.saturating_add(distance))))
}

/// The number in `wrong last sequence: 12`.
fn sequence_in(description: &str) -> Option<Revision> {
    description.rsplit_once(": ")?.1.trim().parse().ok().map(Revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_found_is_read_from_the_servers_words() {
        assert_eq!(sequence_in("wrong last sequence: 12"), Some(Revision(12)));
        assert_eq!(sequence_in("wrong last sequence"), None);
    }
}
