//! The control plane of one lattice on one connection: desired state, plan, requests to hosts, events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, Republish};
use async_nats::{HeaderMap, Request, Subscriber};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use lattice_core::desired::{Change, Desired};
use lattice_core::id::{HostId, LatticeName, Revision};
use lattice_core::plan::{Head, Plan, PlanState};
use lattice_core::subject::{self, Verb};
use lattice_core::wire::{self, assignment::Assignment, event::Event, report::HostReport};

use crate::api::{self, Lookup};
use crate::batch::{self, Part};
use crate::bucket;
use crate::connect::Connection;
use crate::error::{ApiError, AskError, CommitError, StoreError};
use crate::{safety, scan};

/// Changes of one key that desired state keeps, for `history` and `rollback`.
const DESIRED_HISTORY: i64 = 16;
/// Plans of one host that are kept.
const PLAN_HISTORY: i64 = 4;
/// Disk for desired state, in bytes; 10,000 hosts and their apps need a few.
const DESIRED_MAX_BYTES: i64 = 64 * 1024 * 1024;
/// Disk for the plan, in bytes: 10,000 assignments of some 2 KiB, four times.
const PLAN_MAX_BYTES: i64 = 128 * 1024 * 1024;
/// How long events are kept.
const EVENTS_MAX_AGE: Duration = Duration::from_secs(72 * 60 * 60);
/// Disk for events, in bytes.
const EVENTS_MAX_BYTES: i64 = 256 * 1024 * 1024;
/// After everybody expected has answered, others are waited for this long.
const QUIET: Duration = Duration::from_millis(100);
/// Most answers to one question.
const MAX_ANSWERS: usize = 16_384;

/// One lattice. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Lattice {
    connection: Connection,
    name: Arc<LatticeName>,
}

impl Lattice {
    /// The lattice `name` as seen over `connection`; nothing is sent.
    pub fn new(connection: Connection, name: LatticeName) -> Self {
        Self { connection, name: Arc::new(name) }
    }

    /// Its name.
    pub fn name(&self) -> &LatticeName {
        &self.name
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes what a lattice needs: buckets of desired state, verdicts, plan and policies, the streams of events and leases, the
    /// artifact store; in a cluster with three copies each. What is there already is checked and left alone.
    ///
    /// # Errors
    /// [`StoreError::Weaker`] names a stream that promises less than ours.
    pub async fn ensure(&self) -> Result<(), StoreError> {
        let mut copies = 1;
        for config in [self.desired_config(), self.verdict_config(), self.plan_config(), self.lease_config(), self.events_config()] {
            copies = safety::ensure(&self.connection, &config).await?.config.num_replicas;
        }
        self.ensure_policies().await?;
        self.ensure_artifacts(copies).await
    }

    /// Whether [`Lattice::ensure`] has made this lattice.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn exists(&self) -> Result<bool, StoreError> {
        let stream = subject::bucket_stream(&subject::desired_bucket(&self.name));
        let found = api::stream_info(&self.connection, &stream).await;
        Ok(found.map_err(StoreError::nats(format!("looking for lattice `{}`", self.name)))?.is_some())
    }

    /// Desired state, and the revision on which a change of it may be committed.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such lattice, [`StoreError::Corrupt`] names a key that makes no sense.
    pub async fn read_desired(&self) -> Result<(Desired, Revision), StoreError> {
        let (found, revision) = self.read_bucket(&subject::desired_bucket(&self.name)).await?;
        let mut desired = Desired::default();
        for (key, (value, _)) in found {
            desired.insert(&key, &value).map_err(|error| StoreError::Corrupt {
                what: format!("desired state of lattice `{}`", self.name),
                reason: error.to_string(),
            })?;
        }
        Ok((desired, revision))
    }

    /// Writes all of `changes` or none, if nobody has changed anything since `expected`. Returns the new revision.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if somebody has; [`CommitError::Unknown`] if the server did not say.
    pub async fn commit_desired(&self, changes: &[Change], expected: Revision) -> Result<Revision, CommitError> {
        if changes.is_empty() {
            return Ok(expected);
        }
        let bucket = subject::desired_bucket(&self.name);
        let parts: Vec<Part> = changes.iter().map(|change| part(&bucket, &change.key, change.value.clone(), None)).collect();
        batch::commit(&self.connection, &subject::bucket_stream(&bucket), &parts, Some(expected)).await
    }

    /// The plan with every host's part of it.
    ///
    /// # Errors
    /// As for [`Lattice::read_desired`].
    pub async fn read_plan(&self) -> Result<PlanState, StoreError> {
        let (found, _) = self.read_bucket(&subject::plan_bucket(&self.name)).await?;
        let mut state = PlanState::default();
        for (key, (value, revision)) in found {
            let inserted = state.insert(&key, &value, revision);
            inserted
                .map_err(|error| StoreError::Corrupt { what: format!("plan of lattice `{}`", self.name), reason: error.to_string() })?;
        }
        Ok(state)
    }

    /// One host's part of the plan, never older than what was committed before; `None` if there is none.
    ///
    /// # Errors
    /// As for [`Lattice::read_desired`].
    pub async fn read_assignment(&self, host: &HostId) -> Result<Option<Assignment>, StoreError> {
        let key = subject::assignment_key(host);
        let Some(message) = self.read_plan_key(&key).await? else {
            return Ok(None);
        };
        let assignment: Assignment = self.decode(&key, &message)?;
        if assignment.host != *host {
            return Err(self.corrupt_plan(&key, "it is for another host".to_owned()));
        }
        Ok(Some(assignment))
    }

    /// The newest plan in few words, never older than what was committed before.
    ///
    /// # Errors
    /// As for [`Lattice::read_desired`].
    pub async fn read_head(&self) -> Result<Option<Head>, StoreError> {
        let message = self.read_plan_key(subject::PLAN_HEAD_KEY).await?;
        message.map(|message| self.decode(subject::PLAN_HEAD_KEY, &message)).transpose()
    }

    /// Writes a plan whole or not at all, if the head's revision still is `head_revision` (0: there is no head). Returns
    /// the head's new revision.
    ///
    /// # Errors
    /// As for [`Lattice::commit_desired`].
    pub async fn commit_plan(&self, plan: &Plan, head_revision: Revision) -> Result<Revision, CommitError> {
        let bucket = subject::plan_bucket(&self.name);
        let assignments = plan
            .changed
            .iter()
            .map(|(host, assignment)| part(&bucket, &subject::assignment_key(host), Some(wire::encode(assignment)), None));
        let head = part(&bucket, subject::PLAN_HEAD_KEY, Some(wire::encode(&plan.head)), Some(head_revision));
        let parts: Vec<Part> = assignments.chain([head]).collect();
        batch::commit(&self.connection, &subject::bucket_stream(&bucket), &parts, None).await
    }

    /// Asks one host. Reading only: changes go through desired state.
    ///
    /// # Errors
    /// [`AskError::Nobody`] at once if the host is not connected.
    pub async fn ask(&self, host: &HostId, verb: Verb, body: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        self.request(subject::request(&self.name, host, verb), body, timeout).await
    }

    /// Asks whoever listens on `subject`.
    ///
    /// # Errors
    /// [`AskError::Nobody`] at once if nobody does.
    pub async fn request(&self, subject: String, body: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        use async_nats::client::RequestErrorKind as Kind;
        let request = Request::new().payload(body).timeout(Some(timeout));
        let answer = self.connection.client().send_request(subject.clone(), request).await;
        answer.map(|message| message.payload).map_err(|error| match error.kind() {
            Kind::NoResponders => AskError::Nobody { subject },
            Kind::TimedOut => AskError::TimedOut { subject, after: timeout },
            Kind::InvalidSubject | Kind::MaxPayloadExceeded | Kind::Other => AskError::Failed { subject, reason: error.to_string() },
        })
    }

    /// Asks every host and collects the answers: until everybody in `expect` has answered and it was quiet for a moment,
    /// or `window` is over. Nobody at all is an empty list.
    ///
    /// # Errors
    /// [`AskError::Failed`] if the question could not be sent.
    pub async fn ask_all(&self, verb: Verb, body: Bytes, expect: &BTreeSet<HostId>, window: Duration) -> Result<Vec<Bytes>, AskError> {
        let subject = subject::request_all(&self.name, verb);
        let failed = |error: String| AskError::Failed { subject: subject.clone(), reason: error };
        let client = self.connection.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
        client.publish_with_reply(subject.clone(), inbox, body).await.map_err(|error| failed(error.to_string()))?;

        let end = tokio::time::Instant::now() + window;
        let mut missing = expect.clone();
        // Answers that do not say which host they are from; each host answers once, so they can be counted.
        let mut unnamed = 0;
        let mut collected = Vec::new();
        while collected.len() < MAX_ANSWERS {
            let wait_until =
                if missing.len() <= unnamed && !collected.is_empty() { end.min(tokio::time::Instant::now() + QUIET) } else { end };
            let Ok(Some(message)) = tokio::time::timeout_at(wait_until, answers.next()).await else { break };
            if message.status.is_some() {
                break; // Nobody listens.
            }
            match sender(&message.payload) {
                Some(host) => drop(missing.remove(&host)),
                None => unnamed += 1,
            }
            collected.push(message.payload);
        }
        Ok(collected)
    }

    /// Stores an event and returns when the server has it.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn publish_event(&self, event: &Event) -> Result<(), StoreError> {
        let subject = subject::event(&self.name, &event.region, &event.host, event.kind.token());
        let stored = api::publish(&self.connection, &subject, HeaderMap::new(), wire::encode(event).into()).await;
        stored.map(drop).map_err(StoreError::nats(format!("storing event `{}`", event.kind.token())))
    }

    /// Events from now on. What cannot be read is left out.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn subscribe_events(&self) -> Result<impl Stream<Item = Event> + Send + Unpin + use<>, StoreError> {
        let messages = self.subscribe(subject::events(&self.name)).await?;
        Ok(messages.filter_map(|message| std::future::ready(wire::decode(&message.payload).ok())))
    }

    /// A core subscription: what is published once this returns is received. What is not read fast enough is dropped and
    /// counted.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, StoreError> {
        let subscribed = self.connection.client().subscribe(subject.clone()).await;
        let subscriber = subscribed
            .map_err(|error| StoreError::Nats { doing: format!("subscribing to {subject}"), source: ApiError::Other(error.to_string()) })?;
        self.connection.settle().await;
        Ok(subscriber)
    }

    /// A core subscription in a queue group: one of its members gets each message.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn subscribe_in(&self, subject: String, queue: String) -> Result<Subscriber, StoreError> {
        let subscribed = self.connection.client().queue_subscribe(subject.clone(), queue).await;
        let subscriber = subscribed
            .map_err(|error| StoreError::Nats { doing: format!("subscribing to {subject}"), source: ApiError::Other(error.to_string()) })?;
        self.connection.settle().await;
        Ok(subscriber)
    }

    fn desired_config(&self) -> Config {
        let (source, destination) = subject::desired_republish(&self.name);
        let config = safety::bucket_config(&subject::desired_bucket(&self.name), DESIRED_HISTORY, DESIRED_MAX_BYTES);
        Config { republish: Some(Republish { source, destination, headers_only: false }), ..config }
    }

    fn plan_config(&self) -> Config {
        let (source, destination) = subject::plan_republish(&self.name);
        let config = safety::bucket_config(&subject::plan_bucket(&self.name), PLAN_HISTORY, PLAN_MAX_BYTES);
        // A host is told that there is something new and reads it itself.
        Config { republish: Some(Republish { source, destination, headers_only: true }), ..config }
    }

    fn events_config(&self) -> Config {
        safety::log_config(&subject::events_stream(&self.name), &[&subject::events(&self.name)], EVENTS_MAX_AGE, EVENTS_MAX_BYTES)
    }

    /// All keys of a bucket of the control plane with value and revision, and the stream's revision before.
    pub(crate) async fn read_bucket(&self, bucket: &str) -> Result<(BTreeMap<String, (Bytes, Revision)>, Revision), StoreError> {
        let (found, revision) =
            scan::snapshot(&self.connection, &subject::bucket_stream(bucket), &subject::bucket_key(bucket, ">")).await?;
        let prefix = subject::bucket_key(bucket, "");
        let alive = found.into_iter().filter(|(_, message)| !bucket::is_deleted(&message.headers));
        let keys = alive.filter_map(|(subject, message)| {
            Some((subject.strip_prefix(&prefix)?.to_owned(), (message.payload, Revision(message.sequence))))
        });
        Ok((keys.collect(), revision))
    }

    async fn read_plan_key(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let bucket = subject::plan_bucket(&self.name);
        let (stream, subject) = (subject::bucket_stream(&bucket), subject::bucket_key(&bucket, key));
        let found = api::leader_get(&self.connection, &stream, Lookup::Last(&subject))
            .await
            .map_err(StoreError::nats(format!("reading `{key}` of the plan")))?;
        Ok(found.filter(|message| !bucket::is_deleted(&message.headers)).map(|message| message.payload))
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        wire::decode(value).map_err(|error| self.corrupt_plan(key, error.to_string()))
    }

    fn corrupt_plan(&self, key: &str, reason: String) -> StoreError {
        let key: String = key.chars().take(160).flat_map(char::escape_debug).collect();
        StoreError::Corrupt { what: format!("key `{key}` of the plan of lattice `{}`", self.name), reason }
    }
}

fn part(bucket: &str, key: &str, value: Option<Vec<u8>>, expected: Option<Revision>) -> Part {
    let headers = if value.is_some() { HeaderMap::new() } else { bucket::deletion() };
    Part::new(subject::bucket_key(bucket, key), headers, value.unwrap_or_default().into(), expected)
}

/// The host that an answer is from, if it is a report.
fn sender(answer: &[u8]) -> Option<HostId> {
    wire::decode::<HostReport>(answer).ok().map(|report| report.id)
}
