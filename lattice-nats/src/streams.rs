//! The public stream of readings and commands, and the durable consumers that links hang on it.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::Info;
use lattice_core::id::LatticeName;
use lattice_core::subject::{EDGE_STREAM, EDGE_STREAM_SUBJECTS, SubjectPattern};
use serde::Serialize;
use serde_json::json;

use crate::api;
use crate::connect::Connection;
use crate::error::{ApiError, StoreError};
use crate::lattice::Lattice;
use crate::safety;

/// How long a reading is kept: a long weekend without a connection.
const EDGE_MAX_AGE: Duration = Duration::from_secs(72 * 60 * 60);
/// Most readings kept.
const EDGE_MAX_MESSAGES: i64 = 1_000_000;
/// Disk for readings, in bytes.
const EDGE_MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// Metadata of the stream: the lattice that owns it.
const OWNER_METADATA: &str = "lattice-owner";
/// Most hosts that may ask one consumer for messages at once.
const MAX_WAITING: i64 = 4096;
/// Most messages that one request to a consumer may ask for.
const MAX_BATCH: i64 = 1024;

/// How the public stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EdgeStream {
    /// Its name.
    pub name: String,
    /// The lattice that owns it; none if somebody else made it.
    pub owner: Option<String>,
    /// What it captures.
    pub subjects: Vec<String>,
    /// Messages in it.
    pub messages: u64,
    /// Most messages it keeps.
    pub max_messages: i64,
    /// Bytes in it.
    pub bytes: u64,
    /// Most bytes it keeps.
    pub max_bytes: i64,
    /// Seconds that a message is kept.
    pub max_age_seconds: u64,
    /// Position of the oldest message.
    pub first_sequence: u64,
    /// Position of the newest message.
    pub last_sequence: u64,
    /// Its consumers.
    pub consumers: Vec<DurableConsumer>,
}

/// How a durable consumer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DurableConsumer {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub filter: String,
    /// Messages that were not yet handed out.
    pub pending: u64,
    /// Messages that were handed out and not yet acknowledged.
    pub unacknowledged: u64,
    /// Messages that were handed out again.
    pub redelivered: u64,
    /// Position up to which everything is done.
    pub done_up_to: u64,
}

impl Lattice {
    /// Makes the public stream for this lattice, or checks that it is this lattice's.
    ///
    /// # Errors
    /// [`StoreError::Owned`] names the lattice that has it; [`StoreError::Weaker`] if it promises less than ours.
    pub async fn ensure_edge_stream(&self) -> Result<(), StoreError> {
        let mut config = safety::log_config(EDGE_STREAM, &EDGE_STREAM_SUBJECTS, EDGE_MAX_AGE, EDGE_MAX_BYTES);
        config.max_messages = EDGE_MAX_MESSAGES;
        config.metadata.insert(OWNER_METADATA.to_owned(), self.name().to_string());
        // Who owns it matters more than how it is set up, so that is looked at first, also if somebody else was faster.
        if let Some(found) = self.edge_info().await? {
            check_owner(&found, self.name())?;
        }
        let found = safety::ensure(self.connection(), &config).await?;
        check_owner(&found, self.name())
    }

    /// How the public stream stands; `None` if nobody has made it yet.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn edge_stream_status(&self) -> Result<Option<EdgeStream>, StoreError> {
        let Some(info) = self.edge_info().await? else {
            return Ok(None);
        };
        let consumers = self.edge_consumers().await?;
        Ok(Some(EdgeStream {
            owner: owner(&info).map(str::to_owned),
            name: info.config.name,
            subjects: info.config.subjects,
            messages: info.state.messages,
            max_messages: info.config.max_messages,
            bytes: info.state.bytes,
            max_bytes: info.config.max_bytes,
            max_age_seconds: info.config.max_age.as_secs(),
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            consumers,
        }))
    }

    /// Makes a durable consumer of the public stream that starts after the newest message of now. One of that name with
    /// the same filter is left where it is, and from then on has this limit.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without the stream, [`StoreError::OtherConsumer`] if the name is taken for other subjects.
    pub async fn create_consumer(
        &self,
        name: &str,
        filter: &SubjectPattern,
        ack_wait: Duration,
        max_ack_pending: u32,
    ) -> Result<(), StoreError> {
        let info = self.edge_info().await?.ok_or_else(|| StoreError::Missing { what: "stream", name: EDGE_STREAM.to_owned() })?;
        if let Some(found) = self.consumer_info(name).await? {
            same_filter(&found, filter)?;
            return self.limit_consumer(found, i64::from(max_ack_pending)).await;
        }
        let config = consumer::Config {
            durable_name: Some(name.to_owned()),
            name: Some(name.to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: info.state.last_sequence.saturating_add(1) },
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            // No limit: with one, readings vanish when hosts crash. The host gives up a message by itself, after answers.
            max_deliver: -1,
            filter_subject: filter.as_str().to_owned(),
            replay_policy: ReplayPolicy::Instant,
            max_ack_pending: i64::from(max_ack_pending),
            max_waiting: MAX_WAITING,
            max_batch: MAX_BATCH,
            ..consumer::Config::default()
        };
        let subject = format!("CONSUMER.CREATE.{EDGE_STREAM}.{name}.{filter}");
        let body = json!({ "stream_name": EDGE_STREAM, "config": config, "action": "create" });
        match api::call::<_, consumer::Info>(self.connection(), &subject, &body).await {
            Ok(_) => Ok(()),
            Err(error @ ApiError::Refused { .. }) => match self.consumer_info(name).await? {
                // Somebody was faster.
                Some(found) => same_filter(&found, filter),
                None => Err(StoreError::nats(format!("making consumer `{name}`"))(error)),
            },
            Err(error) => Err(StoreError::nats(format!("making consumer `{name}`"))(error)),
        }
    }

    /// Gives a consumer that is there another limit of messages under way, if it has another one.
    async fn limit_consumer(&self, found: consumer::Info, max_ack_pending: i64) -> Result<(), StoreError> {
        if found.config.max_ack_pending == max_ack_pending {
            return Ok(());
        }
        let name = found.name;
        let config = consumer::Config { max_ack_pending, ..found.config };
        let subject = format!("CONSUMER.CREATE.{EDGE_STREAM}.{name}.{}", config.filter_subject);
        let body = json!({ "stream_name": EDGE_STREAM, "config": config, "action": "update" });
        let updated: Result<consumer::Info, ApiError> = api::call(self.connection(), &subject, &body).await;
        updated.map(drop).map_err(StoreError::nats(format!("changing consumer `{name}`")))
    }

    /// Removes a durable consumer of the public stream; one that does not exist is no error.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn delete_consumer(&self, name: &str) -> Result<(), StoreError> {
        let subject = format!("CONSUMER.DELETE.{EDGE_STREAM}.{name}");
        match api::call::<_, serde_json::Value>(self.connection(), &subject, &api::Nothing {}).await {
            Ok(_) | Err(ApiError::Refused { code: api::CONSUMER_NOT_FOUND | api::STREAM_NOT_FOUND, .. }) => Ok(()),
            Err(error) => Err(StoreError::nats(format!("removing consumer `{name}`"))(error)),
        }
    }

    async fn edge_info(&self) -> Result<Option<Info>, StoreError> {
        api::stream_info(self.connection(), EDGE_STREAM).await.map_err(StoreError::nats(format!("reading stream `{EDGE_STREAM}`")))
    }

    async fn consumer_info(&self, name: &str) -> Result<Option<consumer::Info>, StoreError> {
        match api::call(self.connection(), &format!("CONSUMER.INFO.{EDGE_STREAM}.{name}"), &api::Nothing {}).await {
            Ok(info) => Ok(Some(info)),
            Err(ApiError::Refused { code: api::CONSUMER_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(StoreError::nats(format!("reading consumer `{name}`"))(error)),
        }
    }

    async fn edge_consumers(&self) -> Result<Vec<DurableConsumer>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Page {
            total: usize,
            consumers: Option<Vec<consumer::Info>>,
        }
        let mut consumers = Vec::new();
        loop {
            let body = json!({ "offset": consumers.len() });
            let page: Result<Page, ApiError> = api::call(self.connection(), &format!("CONSUMER.LIST.{EDGE_STREAM}"), &body).await;
            let page = page.map_err(StoreError::nats(format!("listing consumers of stream `{EDGE_STREAM}`")))?;
            let some = page.consumers.unwrap_or_default();
            let last = some.is_empty();
            consumers.extend(some.into_iter().map(durable));
            if last || consumers.len() >= page.total {
                consumers.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(consumers);
            }
        }
    }
}

/// Whether a durable pull consumer is there, for those who have a connection only.
///
/// # Errors
/// [`StoreError::Missing`] names the stream or the consumer.
pub async fn find_consumer(connection: &Connection, stream: &str, name: &str) -> Result<(), StoreError> {
    consumer_of(connection, stream, name).await.map(drop)
}

async fn consumer_of(connection: &Connection, stream: &str, name: &str) -> Result<consumer::Info, StoreError> {
    let found: Result<consumer::Info, ApiError> = api::call(connection, &format!("CONSUMER.INFO.{stream}.{name}"), &api::Nothing {}).await;
    match found {
        Ok(info) => Ok(info),
        Err(ApiError::Refused { code: api::CONSUMER_NOT_FOUND, .. }) => {
            Err(StoreError::Missing { what: "consumer", name: name.to_owned() })
        }
        Err(ApiError::Refused { code: api::STREAM_NOT_FOUND, .. }) => Err(StoreError::Missing { what: "stream", name: stream.to_owned() }),
        Err(error) => Err(StoreError::nats(format!("reading consumer `{name}`"))(error)),
    }
}

/// Takes over a durable consumer that hands out one message at a time: gives back what somebody who is gone holds of it, so
/// that it need not be waited for. Whether anything was held.
///
/// # Errors
/// [`StoreError::Missing`] names the stream or the consumer, [`StoreError::Weaker`] one that hands out several messages at
/// once, whose order would be lost.
pub async fn take_over(connection: &Connection, stream: &str, name: &str) -> Result<bool, StoreError> {
    let info = consumer_of(connection, stream, name).await?;
    if info.config.max_ack_pending != 1 {
        let setting = format!("its consumer `{name}` hands out several messages at once, an owner needs one after the other");
        return Err(StoreError::Weaker { stream: stream.to_owned(), setting });
    }
    if info.num_ack_pending == 0 {
        return Ok(false);
    }
    let delivered = &info.delivered;
    // As the server wrote it on the message: deliveries, positions in stream and consumer, time, what was left.
    let receipt = format!("$JS.ACK.{stream}.{name}.1.{}.{}.0.0", delivered.stream_sequence, delivered.consumer_sequence);
    let sent = connection.client().publish(receipt, "-NAK".into()).await;
    sent.map_err(|error| StoreError::nats(format!("giving back what consumer `{name}` handed out"))(ApiError::Other(error.to_string())))?;
    Ok(true)
}

fn durable(info: consumer::Info) -> DurableConsumer {
    DurableConsumer {
        filter: filter_of(&info),
        name: info.name,
        pending: info.num_pending,
        unacknowledged: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
        redelivered: u64::try_from(info.num_redelivered).unwrap_or(u64::MAX),
        done_up_to: info.ack_floor.stream_sequence,
    }
}

fn filter_of(info: &consumer::Info) -> String {
    if info.config.filter_subjects.is_empty() { info.config.filter_subject.clone() } else { info.config.filter_subjects.join(",") }
}

fn same_filter(found: &consumer::Info, wanted: &SubjectPattern) -> Result<(), StoreError> {
    let filter = filter_of(found);
    if filter == wanted.as_str() {
        return Ok(());
    }
    Err(StoreError::OtherConsumer {
        stream: EDGE_STREAM.to_owned(),
        consumer: found.name.clone(),
        found: filter,
        wanted: wanted.to_string(),
    })
}

fn owner(info: &Info) -> Option<&str> {
    info.config.metadata.get(OWNER_METADATA).map(String::as_str)
}

fn check_owner(info: &Info, lattice: &LatticeName) -> Result<(), StoreError> {
    let owner = match owner(info) {
        Some(owner) if owner == lattice.as_str() => return Ok(()),
        Some(other) => format!("lattice {other}"),
        None => "nobody that we know: it was not made by a lattice".to_owned(),
    };
    Err(StoreError::Owned { stream: EDGE_STREAM.to_owned(), owner })
}
