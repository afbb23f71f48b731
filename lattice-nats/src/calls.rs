//! Calls to actors, seen from the host that works on them; see [`lattice_core::wire::request`] for the headers.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use lattice_core::id::{ActorId, HostName};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::request::{CALL_ERROR, CALL_HOST_HEADER, CALL_OK, CALL_STATUS_HEADER, CALL_SUBJECT_HEADER, CallFailure};

use crate::error::{ApiError, StoreError};
use crate::lattice::Lattice;

/// A call that wants an answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// Subject that the actor shall see: the caller's choice, else the call's own.
    pub subject: String,
    /// Payload.
    pub body: Bytes,
    reply: async_nats::Subject,
}

impl Lattice {
    /// Calls to `actor`; the hosts that run it share them. What nobody waits for is left out.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn calls(&self, actor: &ActorId) -> Result<impl Stream<Item = Call> + Send + Unpin + use<>, StoreError> {
        let subject = subject::call(self.name(), actor);
        let subscribed = self.connection().client().queue_subscribe(subject.clone(), subject::call_queue(self.name(), actor)).await;
        let messages = subscribed
            .map_err(|error| StoreError::Nats { doing: format!("subscribing to {subject}"), source: ApiError::Other(error.to_string()) })?;
        self.connection().settle().await;
        Ok(messages.filter_map(|message| {
            let wanted =
                message.headers.as_ref().and_then(|headers| headers.get(CALL_SUBJECT_HEADER)).map(|value| value.as_str().to_owned());
            let subject = wanted.unwrap_or_else(|| message.subject.to_string());
            std::future::ready(message.reply.map(|reply| Call { subject, body: message.payload, reply }))
        }))
    }

    /// Answers a call in the name of `host`: with what the actor replied, or with why there is nothing.
    ///
    /// # Errors
    /// [`StoreError::Nats`]; the caller runs into its time-out then.
    pub async fn answer_call(&self, call: Call, host: &HostName, outcome: Result<Bytes, CallFailure>) -> Result<(), StoreError> {
        let (status, body) = match outcome {
            Ok(body) => (CALL_OK, body),
            Err(failure) => (CALL_ERROR, wire::encode(&failure).into()),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CALL_STATUS_HEADER, status);
        headers.insert(CALL_HOST_HEADER, host.as_str());
        let sent = self.connection().client().publish_with_headers(call.reply, headers, body).await;
        sent.map_err(|error| StoreError::Nats { doing: "answering a call".to_owned(), source: ApiError::Other(error.to_string()) })
    }
}
