//! Subscriptions at least once, from a durable pull consumer.
//!
//! **What is pulled.** While there is more in the stream: as many as can start now, without waiting, and the next ones as
//! soon as half the room is free. When nothing was left: one, waited for. So there are never more messages here or under
//! way than the caller has room for, a burst comes in batches, and a single message comes without a round trip.
//!
//! **What is never lost.** Everything that arrives waits in the subscription until [`Inbox::next`] takes it out; between
//! taking one out and returning it there is no wait that could be given up.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{StatusCode, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_nats::{Connection, ConnectionState, StoreError, streams};
use provider_api::messaging::{Delivery, Inbox};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::convert;
use crate::plain::DRAIN_TIMEOUT;
use crate::receipt::DurableReceipt;

/// Most messages of one pull; more would only wait here.
const MAX_PULL: usize = 256;
/// How long the server holds a pull that waits.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still holds one; after two missed ones it is taken for lost.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Patience with the answer to a pull that does not wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the server refused a pull for a reason that passes.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// An inbox over a durable consumer.
pub(crate) struct DurableInbox {
    connection: Connection,
    state: watch::Receiver<ConnectionState>,
    stream: String,
    consumer: String,
    phase: Phase,
    listener: Option<Listener>,
    /// Pulls that the server has not finished, in its order: either some that do not wait, or one that does.
    open: VecDeque<Pull>,
    /// Number of the last pull.
    pulls: u64,
    /// Whether the stream is believed to hold more, so that waiting is not needed.
    more: bool,
    pause_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
    Ended,
}

/// Where pulled messages arrive. One connection's: after it broke, another one is made, so that an old pull cannot
/// deliver on top of a new one.
struct Listener {
    subscriber: Subscriber,
    inbox: String,
    epoch: u64,
}

/// A pull that the server has not finished.
struct Pull {
    /// Where the server speaks about it.
    reply: String,
    /// Messages that may still come.
    left: usize,
    /// When silence means that it is lost.
    lost_at: Instant,
}

enum Received {
    Message(async_nats::Message),
    /// The connection came back: what was asked over the old one is void.
    Reconnected,
    /// Nothing was heard for too long.
    Silence,
    Closed,
}

impl DurableInbox {
    pub(crate) fn new(connection: Connection, stream: &str, consumer: &str) -> Self {
        Self {
            state: connection.state(),
            connection,
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            phase: Phase::Running,
            listener: None,
            open: VecDeque::new(),
            pulls: 0,
            more: true,
            pause_until: None,
        }
    }

    /// Room that is neither taken by messages here nor by ones that were asked for, if it is time to fill it.
    fn room(&self, free: usize) -> Option<usize> {
        let free = free.clamp(1, MAX_PULL);
        let coming = self.open.iter().fold(0_usize, |sum, pull| sum.saturating_add(pull.left));
        let worth_it = self.open.is_empty() || (self.more && coming.saturating_mul(2) <= free);
        (worth_it && coming < free).then(|| free - coming)
    }

    /// Makes sure that somebody listens and pulls up to `room` messages. False if that is not possible any more.
    async fn ask(&mut self, room: usize) -> bool {
        if let Some(until) = self.pause_until {
            tokio::time::sleep_until(until).await;
            self.pause_until = None;
        }
        if self.state.wait_for(|state| *state == ConnectionState::Connected).await.is_err() {
            return false;
        }
        let client = self.connection.client();
        let epoch = self.connection.epoch();
        if self.listener.as_ref().is_none_or(|listener| listener.epoch != epoch) {
            self.open.clear();
            let inbox = client.new_inbox();
            let Ok(subscriber) = client.subscribe(format!("{inbox}.*")).await else { return false };
            self.listener = Some(Listener { subscriber, inbox, epoch });
        }
        let Some(listener) = &self.listener else { return false };
        let number = self.pulls.wrapping_add(1);
        let reply = format!("{}.{number}", listener.inbox);
        let (left, body, patience) = if self.more {
            (room, json!({ "batch": room, "no_wait": true }), ANSWER_TIMEOUT)
        } else {
            (1, json!({ "batch": 1, "expires": nanos(PULL_EXPIRES), "idle_heartbeat": nanos(HEARTBEAT) }), HEARTBEAT * 2)
        };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        if client.publish_with_reply(subject, reply.clone(), Bytes::from(body.to_string())).await.is_err() {
            return false;
        }
        self.pulls = number;
        self.open.push_back(Pull { reply, left, lost_at: Instant::now() + patience });
        true
    }

    async fn receive(&mut self) -> Received {
        let (Some(listener), Some(pull)) = (&mut self.listener, self.open.front()) else { return Received::Silence };
        if self.phase == Phase::Draining {
            return match tokio::time::timeout(DRAIN_TIMEOUT, listener.subscriber.next()).await {
                Ok(Some(message)) => Received::Message(message),
                Ok(None) | Err(_) => Received::Closed,
            };
        }
        loop {
            tokio::select! {
                biased;
                message = listener.subscriber.next() => return message.map_or(Received::Closed, Received::Message),
                changed = self.state.changed() => match changed {
                    Ok(()) if self.connection.epoch() == listener.epoch => {}
                    Ok(()) => return Received::Reconnected,
                    Err(_) => return Received::Closed,
                },
                () = tokio::time::sleep_until(pull.lost_at) => return Received::Silence,
            }
        }
    }

    /// Forgets what was asked; what still comes of it is not listened to and comes again later.
    fn start_over(&mut self) {
        self.listener = None;
        self.open.clear();
        self.more = true;
    }

    fn deliver(&mut self, message: async_nats::Message) -> Option<Delivery> {
        let epoch = self.listener.as_ref()?.epoch;
        let message = jetstream::Message { message, context: self.connection.jetstream().clone() };
        let (sequence, delivered, pending) = {
            let info = message.info().ok()?;
            (info.stream_sequence, info.delivered, info.pending)
        };
        self.more = pending > 0;
        // The server serves pulls in the order in which they came.
        if let Some(pull) = self.open.front_mut() {
            pull.left = pull.left.saturating_sub(1);
            pull.lost_at = pull.lost_at.max(Instant::now() + ANSWER_TIMEOUT);
        }
        self.open.pop_front_if(|pull| pull.left == 0);
        let mut message = convert::incoming(message.message);
        // The reply subject of a durable message is the server's, not a sender's.
        let settle_on = message.reply_to.take()?.into();
        let delivered = u64::try_from(delivered).unwrap_or(1);
        let receipt = DurableReceipt { connection: self.connection.clone(), settle_on, sequence, delivered, epoch };
        Some(Delivery { message, receipt: Some(Box::new(receipt)) })
    }

    /// What the server says about a pull.
    async fn on_status(&mut self, status: StatusCode, message: &async_nats::Message) {
        let Some(index) = self.open.iter().position(|pull| pull.reply == message.subject.as_str()) else { return };
        if status == StatusCode::IDLE_HEARTBEAT {
            if let Some(pull) = self.open.get_mut(index) {
                pull.lost_at = Instant::now() + HEARTBEAT * 2;
            }
            return;
        }
        self.open.remove(index);
        self.more = false;
        let words = message.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        match status {
            StatusCode::NOT_FOUND | StatusCode::TIMEOUT => {}
            StatusCode::REQUEST_TERMINATED if words.contains("consumer deleted") || words.contains("push based") => {
                tracing::info!(stream = self.stream, consumer = self.consumer, "subscription ended: {words}");
                self.phase = Phase::Ended;
            }
            // Enough is outstanding already: the next pull waits for an acknowledgement.
            StatusCode::REQUEST_TERMINATED if words.contains("maxackpending") => {}
            StatusCode::NO_RESPONDERS => self.look_for_consumer().await,
            other => {
                tracing::debug!(stream = self.stream, consumer = self.consumer, "pull refused: {other} {words}");
                self.pause_until = Some(Instant::now() + REFUSED_PAUSE);
            }
        }
    }

    /// Nobody answers for the consumer: either it is gone for good, or JetStream is not up yet.
    async fn look_for_consumer(&mut self) {
        self.pause_until = Some(Instant::now() + REFUSED_PAUSE);
        match streams::find_consumer(&self.connection, &self.stream, &self.consumer).await {
            Err(StoreError::Missing { what, name }) => {
                tracing::info!("subscription ended: {what} `{name}` does not exist any more");
                self.phase = Phase::Ended;
            }
            Ok(()) => {}
            Err(error) => tracing::debug!(consumer = self.consumer, "cannot look for the consumer: {error}"),
        }
    }
}

#[async_trait]
impl Inbox for DurableInbox {
    async fn next(&mut self, free: usize) -> Option<Delivery> {
        loop {
            match self.phase {
                Phase::Ended => return None,
                // Nothing was asked for, so nothing comes.
                Phase::Draining if self.open.is_empty() => {
                    self.phase = Phase::Ended;
                    continue;
                }
                // Nothing is on its way and nothing may be asked for: whoever waits gives up as soon as there is room.
                Phase::Running if free == 0 && self.open.is_empty() => std::future::pending().await,
                Phase::Running => {
                    if free > 0
                        && let Some(room) = self.room(free)
                        && !self.ask(room).await
                    {
                        self.phase = Phase::Ended;
                        continue;
                    }
                }
                Phase::Draining => {}
            }
            match self.receive().await {
                Received::Message(message) => match message.status {
                    Some(status) => self.on_status(status, &message).await,
                    None => {
                        if let Some(delivery) = self.deliver(message) {
                            return Some(delivery);
                        }
                    }
                },
                Received::Reconnected | Received::Silence => self.start_over(),
                Received::Closed => self.phase = Phase::Ended,
            }
        }
    }

    async fn drain(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
        }
        if let Some(listener) = &mut self.listener {
            // Fails only if the connection is closed, and then the subscription has ended anyway.
            let _ = listener.subscriber.drain().await;
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
