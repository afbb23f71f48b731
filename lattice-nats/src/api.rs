//! The few JetStream calls that everything here is made of, with one error type.

use std::time::Duration;

use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DirectGetErrorKind, RawMessageErrorKind};
use async_nats::jetstream::{self, stream};
use async_nats::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{API_TIMEOUT, Connection};
use crate::error::ApiError;

/// JetStream's number for a stream that does not exist.
pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
/// A stream of that name exists with another configuration.
pub(crate) const STREAM_NAME_IN_USE: u64 = 10058;
/// A cluster has no leader at the moment.
pub(crate) const CLUSTER_NOT_AVAILABLE: u64 = 10008;
/// JetStream of this server is off: not started yet, or stopped by a disk that cannot be written.
pub(crate) const JETSTREAM_NOT_ENABLED: u64 = 10076;
/// A cluster has no room for so many copies: too few servers, or too little of what is asked for on them.
pub(crate) const NO_SUITABLE_PEERS: u64 = 10005;
/// A server that is in no cluster keeps one copy.
pub(crate) const COPIES_NEED_A_CLUSTER: u64 = 10074;
/// A consumer that does not exist.
pub(crate) const CONSUMER_NOT_FOUND: u64 = 10014;

/// Which message of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lookup<'a> {
    /// The newest on a subject.
    Last(&'a str),
    /// The one at a position.
    At(u64),
    /// The first on a subject at a position or after it.
    NextOn(&'a str, u64),
}

/// The body of a request without parameters: an empty object, which the server takes everywhere.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

/// One request to the JetStream API, `subject` without its prefix.
pub(crate) async fn call<Q, T>(connection: &Connection, subject: &str, body: &Q) -> Result<T, ApiError>
where
    Q: Serialize + Sync,
    T: DeserializeOwned,
{
    let request = connection.jetstream().request(subject.to_owned(), body);
    let answer = answered(connection, &format!("$JS.API.{subject}"), request).await?;
    let response: Response<T> = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => ApiError::NoResponders,
        RequestErrorKind::TimedOut => silence(connection, API_TIMEOUT),
        RequestErrorKind::InvalidSubject | RequestErrorKind::Other => ApiError::Other(error.to_string()),
    })?;
    match response {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } => Err(refused(&error)),
    }
}

/// A stream's configuration and state; `None` if there is no such stream.
pub(crate) async fn stream_info(connection: &Connection, stream: &str) -> Result<Option<stream::Info>, ApiError> {
    match call(connection, &format!("STREAM.INFO.{stream}"), &Nothing {}).await {
        Ok(info) => Ok(Some(info)),
        Err(ApiError::Refused { code: STREAM_NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Publishes to a stream and waits for its acknowledgement.
pub(crate) async fn publish(connection: &Connection, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<PublishAck, ApiError> {
    let answer = send(connection, subject, headers, payload, API_TIMEOUT).await?;
    parse_ack(&answer)
}

/// Publishes to a stream and returns its answer as it is; the answer to the first part of a batch is empty.
pub(crate) async fn send(
    connection: &Connection,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    use async_nats::client::RequestErrorKind as Kind;
    let request = Request::new().payload(payload).timeout(Some(timeout));
    // A message without headers is smaller, and the server has less to read.
    let request = if headers.is_empty() { request } else { request.headers(headers) };
    let answer = answered(connection, subject, connection.client().send_request(subject.to_owned(), request)).await?;
    let answer = answer.map_err(|error| match error.kind() {
        Kind::NoResponders => ApiError::NoResponders,
        Kind::TimedOut => silence(connection, timeout),
        Kind::MaxPayloadExceeded => ApiError::TooLarge { limit: connection.client().max_payload() },
        Kind::InvalidSubject | Kind::Other => ApiError::Other(error.to_string()),
    })?;
    Ok(answer.payload)
}

/// Reads a publish acknowledgement.
pub(crate) fn parse_ack(answer: &[u8]) -> Result<PublishAck, ApiError> {
    match serde_json::from_slice::<Response<PublishAck>>(answer) {
        Ok(Response::Ok(ack)) => Ok(ack),
        Ok(Response::Err { error }) => Err(refused(&error)),
        Err(error) => Err(ApiError::Other(format!("unreadable acknowledgement: {error}"))),
    }
}

/// A message from the stream's leader: never older than what was acknowledged before.
pub(crate) async fn leader_get(connection: &Connection, stream: &str, lookup: Lookup<'_>) -> Result<Option<StreamMessage>, ApiError> {
    let stream = connection.jetstream().get_stream_no_info(stream).await.map_err(|error| ApiError::Other(error.to_string()))?;
    let builder = stream.raw_message_builder();
    let builder = match lookup {
        Lookup::Last(subject) => builder.last_by_subject(subject),
        Lookup::At(sequence) => builder.sequence(sequence),
        Lookup::NextOn(subject, sequence) => builder.next_by_subject(subject).sequence(sequence),
    };
    match builder.send().await {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(error) => Err(refused(&error)),
            RawMessageErrorKind::InvalidSubject | RawMessageErrorKind::Other => Err(unclear(connection, &error)),
        },
    }
}

/// The newest message on a subject from any replica: fast, and perhaps a moment behind the leader.
pub(crate) async fn direct_get(connection: &Connection, stream: &str, subject: &str) -> Result<Option<StreamMessage>, ApiError> {
    let stream = connection.jetstream().get_stream_no_info(stream).await.map_err(|error| ApiError::Other(error.to_string()))?;
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            DirectGetErrorKind::NotFound => Ok(None),
            DirectGetErrorKind::TimedOut => Err(silence(connection, API_TIMEOUT)),
            DirectGetErrorKind::ErrorResponse(StatusCode::NO_RESPONDERS, _) => Err(ApiError::NoResponders),
            DirectGetErrorKind::ErrorResponse(status, text) => Err(ApiError::Other(format!("{status}: {text}"))),
            DirectGetErrorKind::InvalidSubject | DirectGetErrorKind::Request | DirectGetErrorKind::Other => {
                Err(unclear(connection, &error))
            }
        },
    }
}

/// The server's refusal as our error.
pub(crate) fn refused(error: &jetstream::Error) -> ApiError {
    let text = error.to_string();
    // The library prints `<description> (code <status>, error code <code>)`; people need the words only.
    let description = text.split_once(" (code ").map_or(text.as_str(), |(words, _)| words).to_owned();
    ApiError::Refused { code: error.error_code().0, description }
}

/// The answer to a request on `subject`. A refusal comes aside while the request itself stays without an answer, and so
/// does the end of the connection; both are waited for as well.
async fn answered<F: Future>(connection: &Connection, subject: &str, request: F) -> Result<F::Output, ApiError> {
    tokio::select! {
        // Listening comes before asking.
        biased;
        () = connection.denied(subject) => Err(ApiError::Denied { subject: subject.to_owned() }),
        () = connection.broken() => Err(ApiError::Disconnected),
        answer = request => Ok(answer),
    }
}

fn silence(connection: &Connection, after: Duration) -> ApiError {
    if connection.is_connected() { ApiError::TimedOut(after) } else { ApiError::Disconnected }
}

/// Finds the reason that the library buried in the sources of an error.
fn unclear(connection: &Connection, error: &(dyn std::error::Error + 'static)) -> ApiError {
    use async_nats::client::RequestErrorKind as Kind;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(request) = error.downcast_ref::<jetstream::context::RequestError>() {
            match request.kind() {
                RequestErrorKind::NoResponders => return ApiError::NoResponders,
                RequestErrorKind::TimedOut => return silence(connection, API_TIMEOUT),
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {}
            }
        }
        if let Some(request) = error.downcast_ref::<async_nats::RequestError>() {
            match request.kind() {
                Kind::NoResponders => return ApiError::NoResponders,
                Kind::TimedOut => return silence(connection, API_TIMEOUT),
                Kind::InvalidSubject | Kind::MaxPayloadExceeded | Kind::Other => {}
            }
        }
        next = error.source();
    }
    ApiError::Other(error.to_string())
}
