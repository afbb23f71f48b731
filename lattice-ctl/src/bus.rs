//! Messages on the bus for `pub`, `sub` and `call`: published, requested, subscribed to, with headers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::subject::{EDGE_STREAM_SUBJECTS, SubjectPattern};
use lattice_nats::Connection;
use serde::Serialize;

use crate::problems;

/// Status that the server answers a request with if nobody subscribes to its subject.
const NO_RESPONDERS: u16 = 503;

/// A message as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where it was published.
    pub(crate) subject: String,
    /// Its payload.
    pub(crate) payload: Bytes,
    /// Its headers; of several values of one name the first.
    pub(crate) headers: BTreeMap<String, String>,
    /// Where an answer is expected.
    pub(crate) reply: Option<String>,
    /// The server says that nobody listens.
    pub(crate) nobody: bool,
}

/// Headers to send, in order.
pub(crate) type Headers = [(String, String)];

/// What a stream said to a published message.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stored {
    /// The stream.
    pub(crate) stream: String,
    /// Position in it.
    pub(crate) sequence: u64,
}

/// Turns the client library's message into ours; a macro, because lattice-ctl does not name that library.
macro_rules! message {
    () => {
        |message| Message {
            subject: message.subject.to_string(),
            headers: message
                .headers
                .iter()
                .flat_map(|headers| headers.iter())
                .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
                .collect(),
            reply: message.reply.as_ref().map(ToString::to_string),
            nobody: message.status.is_some_and(|status| status.as_u16() == NO_RESPONDERS),
            payload: message.payload,
        }
    };
}

/// Headers in the client library's form; a macro for the same reason.
macro_rules! header_map {
    ($headers:expr) => {{
        let mut pairs = Vec::with_capacity($headers.len());
        for (name, value) in $headers {
            let invalid = || problems::usage(format!("header `{}` has a name or value that NATS does not take", name.escape_debug()));
            pairs.push((name.parse().map_err(|_| invalid())?, value.parse().map_err(|_| invalid())?));
        }
        pairs.into_iter().collect()
    }};
}

/// Checks a payload against what the server takes.
///
/// # Errors
/// Names both sizes.
pub(crate) fn check_size(connection: &Connection, payload: &Bytes) -> Result<(), Problem> {
    let limit = connection.client().max_payload();
    if payload.len() <= limit {
        return Ok(());
    }
    let message = format!("the payload has {} bytes, the server takes at most {limit}", payload.len());
    Err(Problem::new(ErrorCode::Usage, message).hint("put large data into a bucket or an object store and send its name"))
}

/// Publishes and returns when the server has it.
///
/// # Errors
/// If the connection breaks.
pub(crate) async fn publish(connection: &Connection, subject: &str, headers: &Headers, payload: Bytes) -> Result<(), Problem> {
    let client = connection.client();
    let headers = header_map!(headers);
    let sent = client.publish_with_headers(subject.to_owned(), headers, payload).await;
    sent.map_err(|error| problems::failed(&format!("publishing on {subject}"), &error))?;
    client.flush().await.map_err(|error| problems::failed(&format!("publishing on {subject}"), &error))
}

/// Publishes to the stream that captures `subject` and waits until it has it.
///
/// # Errors
/// If no stream captures it, or the stream does not answer.
pub(crate) async fn store(connection: &Connection, subject: &str, headers: &Headers, payload: Bytes) -> Result<Stored, Problem> {
    let headers = header_map!(headers);
    let failed = |error: &(dyn std::error::Error + 'static)| problems::failed(&format!("storing a message on {subject}"), error);
    let sent = connection.jetstream().publish_with_headers(subject.to_owned(), headers, payload).await;
    let ack = sent
        .map_err(|error| failed(&error))?
        .await
        .map_err(|error| failed(&error).hint("does a stream capture that subject? `lattice-ctl stream ensure`"))?;
    Ok(Stored { stream: ack.stream, sequence: ack.sequence })
}

/// Whether the public stream captures `subject`.
pub(crate) fn is_captured(subject: &str) -> bool {
    EDGE_STREAM_SUBJECTS.into_iter().any(|pattern| SubjectPattern::new(pattern).is_ok_and(|pattern| pattern.matches(subject)))
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Somebody answered.
    Message(Message),
    /// Nobody listens there.
    Nobody,
    /// Somebody may listen, but nobody answered in time.
    Late,
}

/// Asks and waits for one answer.
///
/// # Errors
/// `NATS: subscription timeout: …` if nobody listens or answers in time.
pub(crate) async fn request(
    connection: &Connection,
    subject: &str,
    headers: &Headers,
    payload: Bytes,
    patience: Duration,
) -> Result<Message, Problem> {
    match ask(connection, subject, headers, payload, patience).await? {
        Answer::Message(message) => Ok(message),
        Answer::Nobody | Answer::Late => Err(Problem::nats_timeout(subject)),
    }
}

/// Asks and waits for one answer, or for the word that nobody listens.
///
/// # Errors
/// If the connection breaks.
pub(crate) async fn ask(
    connection: &Connection,
    subject: &str,
    headers: &Headers,
    payload: Bytes,
    patience: Duration,
) -> Result<Answer, Problem> {
    let client = connection.client();
    let failed = |error: &(dyn std::error::Error + 'static)| problems::failed(&format!("asking on {subject}"), error);
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
    let headers = header_map!(headers);
    let sent = client.publish_with_reply_and_headers(subject.to_owned(), inbox, headers, payload).await;
    sent.map_err(|error| failed(&error))?;
    let answer = tokio::time::timeout(patience, answers.next()).await.ok().flatten();
    Ok(match answer.map(message!()) {
        Some(answer) if answer.nobody => Answer::Nobody,
        Some(answer) => Answer::Message(answer),
        None => Answer::Late,
    })
}

/// Messages on `subject`, which may be a pattern, from now on; returns when the subscription is in force.
///
/// # Errors
/// If the connection breaks.
pub(crate) async fn subscribe(connection: &Connection, subject: &str) -> Result<BoxStream<'static, Message>, Problem> {
    let client = connection.client();
    let failed = |error: &(dyn std::error::Error + 'static)| problems::failed(&format!("subscribing to {subject}"), error);
    let messages = client.subscribe(subject.to_owned()).await.map_err(|error| failed(&error))?;
    client.flush().await.map_err(|error| failed(&error))?;
    Ok(messages.map(message!()).boxed())
}
