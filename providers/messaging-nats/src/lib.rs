//! Messaging over NATS: publish, request, and subscriptions of three kinds.
//!
//! **Invariants.** Nothing is handed to a client that is not connected, so that nothing arrives late. A durable message is
//! taken from the server only when it can start at once, is acknowledged only over the connection that brought it, and
//! is never lost when a wait is given up.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

mod convert;
mod durable;
mod plain;
mod receipt;

use std::time::Duration;

use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_trait::async_trait;
use lattice_nats::{Connection, StoreError, streams};
use provider_api::messaging::{Inbox, Message, Messaging, Subscription};
use provider_api::{CallError, ProviderError};

use crate::convert::Outgoing;
use crate::durable::DurableInbox;
use crate::plain::PlainInbox;

/// The provider on one connection; a link to another cluster has one of its own.
#[derive(Debug, Clone)]
pub struct MessagingNats {
    connection: Connection,
}

impl MessagingNats {
    /// The provider on `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn outgoing(&self, message: Message) -> Result<Outgoing, CallError> {
        let outgoing = Outgoing::check(message, self.max_payload())?;
        if self.connection.is_connected() { Ok(outgoing) } else { Err(CallError::Unavailable("NATS is not connected".to_owned())) }
    }
}

#[async_trait]
impl Messaging for MessagingNats {
    fn max_payload(&self) -> usize {
        self.connection.client().max_payload()
    }

    async fn publish(&self, message: Message) -> Result<(), CallError> {
        let Outgoing { subject, reply, headers, payload } = self.outgoing(message)?;
        let client = self.connection.client();
        let sent = match (reply, headers) {
            (None, None) => client.publish(subject, payload).await,
            (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
            (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
            (Some(reply), Some(headers)) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
        };
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::InvalidSubject => CallError::Invalid(error.to_string()),
            PublishErrorKind::Send => CallError::Unavailable("the connection to NATS is closed".to_owned()),
            PublishErrorKind::MaxPayloadExceeded => CallError::Failed(error.to_string()),
        })
    }

    async fn request(&self, message: Message, timeout: Duration) -> Result<Message, CallError> {
        let Outgoing { subject, headers, payload, .. } = self.outgoing(message)?;
        let request = async_nats::Request::new().payload(payload).headers(headers.unwrap_or_default()).timeout(Some(timeout));
        match self.connection.client().send_request(subject.clone(), request).await {
            Ok(answer) => Ok(convert::incoming(answer)),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => CallError::NoResponder(subject),
                RequestErrorKind::TimedOut => CallError::TimedOut(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
                RequestErrorKind::InvalidSubject => CallError::Invalid(error.to_string()),
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => CallError::Failed(error.to_string()),
            }),
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Inbox>, ProviderError> {
        let client = self.connection.client();
        let failed =
            |subject: &str, error: async_nats::SubscribeError| ProviderError::backend(format!("subscribing to `{subject}`"), error);
        let subscriber = match subscription {
            Subscription::Core { subject, queue } => {
                client.queue_subscribe(subject.clone(), queue).await.map_err(|error| failed(&subject, error))?
            }
            Subscription::Broadcast { subject } => client.subscribe(subject.clone()).await.map_err(|error| failed(&subject, error))?,
            Subscription::Durable { stream, consumer } => {
                convert::check_name("stream", &stream)?;
                convert::check_name("consumer", &consumer)?;
                streams::find_consumer(&self.connection, &stream, &consumer).await.map_err(|error| match error {
                    StoreError::Missing { what, name } => ProviderError::Missing { what, name },
                    error @ (StoreError::Weaker { .. }
                    | StoreError::Owned { .. }
                    | StoreError::OtherConsumer { .. }
                    | StoreError::TooLarge { .. }
                    | StoreError::Corrupt { .. }
                    | StoreError::Key { .. }
                    | StoreError::Nats { .. }) => ProviderError::backend(format!("opening consumer `{consumer}`"), error),
                })?;
                return Ok(Box::new(DurableInbox::new(self.connection.clone(), &stream, &consumer)));
            }
        };
        // What is published once this returns is received, whoever publishes it.
        self.connection.settle().await;
        Ok(Box::new(PlainInbox::new(subscriber)))
    }
}
