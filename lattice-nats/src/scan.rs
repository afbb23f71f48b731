//! Reading the newest message of many subjects at once.
//!
//! A scan is a short-lived consumer that is read to its end. Messages that arrive during a scan may or may not be in it;
//! who needs a consistent picture compares the stream's last sequence before and after ([`snapshot`]).

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::id::Revision;

use crate::api;
use crate::connect::{API_TIMEOUT, Connection};
use crate::error::{ApiError, StoreError};

/// Messages asked for at once; fits into a subscription's queue many times.
const FETCH_MESSAGES: usize = 256;
/// A scan that was not cleaned up (the program died) is removed by the server after this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);
/// Attempts to read without anybody writing meanwhile.
const SNAPSHOT_ATTEMPTS: u32 = 5;
/// Empty answers in a row after which a scan gives up.
const MAX_EMPTY_FETCHES: u32 = 3;
/// Requests of one scan that may find nobody: in a cluster the other servers hear of a consumer a moment after it was made.
const MAX_UNHEARD: u32 = 20;
/// Pause after each of them.
const UNHEARD_PAUSE: Duration = Duration::from_millis(25);

/// The newest message on one subject.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) sequence: u64,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// What to read of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Whole,
    HeadersOnly,
}

/// The newest message on each subject of `stream` that `filters` match, by subject.
pub(crate) async fn newest(
    connection: &Connection,
    stream: &str,
    filters: Vec<String>,
    content: Content,
) -> Result<BTreeMap<String, Found>, ApiError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::None,
        filter_subjects: filters,
        headers_only: content == Content::HeadersOnly,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: ABANDONED_AFTER,
        ..pull::Config::default()
    };
    let created = connection.jetstream().create_consumer_on_stream(config, stream).await;
    let consumer = created.map_err(|error| consumer_error(&error))?;
    let found = read_to_end(&consumer).await;
    // Not waited for: what is left of it goes away by itself.
    let name = consumer.cached_info().name.clone();
    let (connection, subject) = (connection.clone(), format!("CONSUMER.DELETE.{stream}.{name}"));
    tokio::spawn(async move {
        let deleted: Result<serde_json::Value, ApiError> = api::call(&connection, &subject, &api::Nothing {}).await;
        if let Err(error) = deleted {
            tracing::debug!("a finished scan stays until the server removes it: {error}");
        }
    });
    found
}

async fn read_to_end(consumer: &Consumer<pull::Config>) -> Result<BTreeMap<String, Found>, ApiError> {
    let failed = |error: &dyn std::fmt::Display| ApiError::Other(error.to_string());
    let mut found = BTreeMap::new();
    let mut pending = consumer.cached_info().num_pending;
    let (mut empty, mut unheard) = (0, 0);
    'fetches: while pending > 0 {
        let fetch = consumer.fetch().max_messages(FETCH_MESSAGES).messages();
        let mut messages = fetch.await.map_err(|error| failed(&error))?;
        let mut any = false;
        loop {
            let next = tokio::time::timeout(API_TIMEOUT, messages.next()).await.map_err(|_elapsed| ApiError::TimedOut(API_TIMEOUT))?;
            let Some(message) = next else { break };
            if message.is_err() && !any && unheard < MAX_UNHEARD {
                unheard += 1;
                tokio::time::sleep(UNHEARD_PAUSE).await;
                continue 'fetches;
            }
            let message = message.map_err(|error| failed(&error))?;
            let info = message.info().map_err(|error| failed(&error))?;
            let (sequence, left) = (info.stream_sequence, info.pending);
            any = true;
            pending = left;
            let (message, _) = message.split();
            let headers = message.headers.unwrap_or_default();
            found.insert(message.subject.into_string(), Found { sequence, headers, payload: message.payload });
        }
        empty = if any { 0 } else { empty + 1 };
        if empty == MAX_EMPTY_FETCHES {
            // Overwritten meanwhile, so that less is left than was counted: ask.
            let info = consumer.get_info().await.map_err(|error| failed(&error))?;
            if info.num_pending > 0 {
                return Err(ApiError::TimedOut(API_TIMEOUT));
            }
            break;
        }
    }
    Ok(found)
}

/// All keys of a bucket, and the stream's last sequence *before* they were read: a commit on condition of it fails if
/// anything is newer. Read again until nobody wrote meanwhile, a few times.
pub(crate) async fn snapshot(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<(BTreeMap<String, Found>, Revision), StoreError> {
    let failed = || StoreError::nats(format!("reading stream `{stream}`"));
    let mut attempt = 1;
    loop {
        let before = last_sequence(connection, stream).await?;
        let found = newest(connection, stream, vec![filter.to_owned()], Content::Whole).await.map_err(failed())?;
        let after = last_sequence(connection, stream).await?;
        if before == after || attempt == SNAPSHOT_ATTEMPTS {
            return Ok((found, before));
        }
        attempt += 1;
    }
}

async fn last_sequence(connection: &Connection, stream: &str) -> Result<Revision, StoreError> {
    let info = api::stream_info(connection, stream).await.map_err(StoreError::nats(format!("reading stream `{stream}`")))?;
    let info = info.ok_or_else(|| StoreError::Missing { what: "stream", name: stream.to_owned() })?;
    Ok(Revision(info.state.last_sequence))
}

fn consumer_error(error: &async_nats::jetstream::stream::ConsumerError) -> ApiError {
    use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
    match error.kind() {
        Kind::JetStream(error) => api::refused(&error),
        Kind::TimedOut => ApiError::TimedOut(API_TIMEOUT),
        Kind::Request | Kind::InvalidConsumerType | Kind::InvalidName | Kind::Other => ApiError::Other(error.to_string()),
    }
}
