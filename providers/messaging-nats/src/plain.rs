//! Subscriptions at most once: one member of a queue group gets each message, or everybody does.

use std::time::Duration;

use async_nats::Subscriber;
use async_trait::async_trait;
use futures::StreamExt as _;
use provider_api::messaging::{Delivery, Inbox};

use crate::convert;

/// How long the rest of an ended subscription is waited for; it is under way already or never comes.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// An inbox over a core subscription. What is not taken in time waits in the subscription's bounded queue; what does not
/// fit is dropped by the client, counted and logged by the connection.
pub(crate) struct PlainInbox {
    subscriber: Subscriber,
    draining: bool,
}

impl PlainInbox {
    pub(crate) fn new(subscriber: Subscriber) -> Self {
        Self { subscriber, draining: false }
    }
}

#[async_trait]
impl Inbox for PlainInbox {
    async fn next(&mut self, _free: usize) -> Option<Delivery> {
        loop {
            let message = if self.draining {
                tokio::time::timeout(DRAIN_TIMEOUT, self.subscriber.next()).await.ok()??
            } else {
                self.subscriber.next().await?
            };
            if message.status.is_none() {
                return Some(Delivery { message: convert::incoming(message), receipt: None });
            }
        }
    }

    async fn drain(&mut self) {
        self.draining = true;
        // Fails only if the connection is closed, and then the subscription has ended anyway.
        let _ = self.subscriber.drain().await;
    }
}
