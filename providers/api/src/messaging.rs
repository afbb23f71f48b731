//! Messaging backends: publish, request, and three ways to be handed messages (DESIGN section 5).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{CallError, ProviderError};

/// A message as an actor sees it, plus the headers that the host adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Subject it is or was published on.
    pub subject: String,
    /// Payload, at most the server's `max_payload`.
    pub body: Bytes,
    /// Where an answer goes, if one is wanted.
    pub reply_to: Option<String>,
    /// Headers in order; names are ASCII, values hold no CR or LF.
    pub headers: Vec<(String, String)>,
}

/// How messages are handed to an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// At most once, one member of the queue group gets each message.
    Core {
        /// Subject pattern.
        subject: String,
        /// Queue group, the same on all hosts.
        queue: String,
    },
    /// At most once, every subscriber gets each message.
    Broadcast {
        /// Subject pattern.
        subject: String,
    },
    /// At least once, from a durable pull consumer that already exists.
    Durable {
        /// Stream that holds the messages.
        stream: String,
        /// Name of the durable consumer.
        consumer: String,
    },
}

/// A messaging service.
#[async_trait]
pub trait Messaging: Send + Sync {
    /// Largest message in bytes (headers and payload) that the server takes now.
    fn max_payload(&self) -> usize;

    /// Publishes and returns when the message was handed to the connection (at most once).
    async fn publish(&self, message: Message) -> Result<(), CallError>;

    /// Publishes and waits for the first answer.
    ///
    /// # Errors
    /// [`CallError::NoResponder`] at once if nobody listens, [`CallError::TimedOut`] after `timeout`.
    async fn request(&self, message: Message, timeout: Duration) -> Result<Message, CallError>;

    /// Starts to take messages.
    ///
    /// # Errors
    /// [`ProviderError::Missing`] if the stream or consumer of a durable subscription does not exist.
    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Inbox>, ProviderError>;
}

/// Where a subscription's messages come out. Dropping it ends the subscription; what was not settled is delivered again
/// later if the subscription is durable.
#[async_trait]
pub trait Inbox: Send {
    /// Waits for the next message, at most `free` of which may be outstanding after this call returns: a durable
    /// backend never pulls more than can start at once. With `free` 0 it asks for nothing and hands out only what it had
    /// asked for before: whoever has no room now takes those and keeps them alive until there is.
    ///
    /// Returns `None` when the subscription has ended for good (the consumer was deleted, the connection was closed).
    /// Cancel safe: a message that was taken from the server is not lost when the future is dropped.
    async fn next(&mut self, free: usize) -> Option<Delivery>;

    /// Stops taking new messages; [`Inbox::next`] hands out what is already here, then returns `None`.
    async fn drain(&mut self);
}

/// One message and the way to settle it.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Present for durable subscriptions: must be settled. `None`: at most once, nothing to settle.
    pub receipt: Option<Box<dyn Receipt>>,
}

/// The obligation that comes with a durable message. The holder keeps it alive while the message waits or is worked on,
/// and settles it exactly once. Dropped without settling, the message comes again after the server's ack-wait.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// Position in the stream; the same for each redelivery of one message.
    fn sequence(&self) -> u64;
    /// How often the server has delivered it, this time included (1 the first time).
    fn delivered(&self) -> u64;
    /// Tells the server that work goes on, so that it does not deliver again. Called each second.
    async fn in_progress(&self) -> Result<(), CallError>;
    /// Done: returns when the server has confirmed (double ack).
    async fn ack(&self) -> Result<(), CallError>;
    /// Not now: deliver again after `delay`.
    async fn retry_after(&self, delay: Duration) -> Result<(), CallError>;
    /// Never again.
    async fn terminate(&self, reason: &str) -> Result<(), CallError>;
}
