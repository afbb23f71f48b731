//! `wasmcloud:messaging/consumer`: publish and request over the messaging links, and the reply to the message in hand.
//!
//! A subject goes through the first link that lets the actor publish on it. The reply subject of the message in hand is
//! allowed for that message only, wherever it came from; the actor sees no other inbox and can name none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::contract::Contract;
use lattice_core::policy::rules::Point;
use lattice_core::subject::{check_subject, is_reserved};
use provider_api::CallError;
use provider_api::messaging::{Message, Messaging};

use crate::runtime::bindings::host::wasmcloud::messaging::types::BrokerMessage;
use crate::runtime::bindings::host::wasmcloud::messaging::{consumer, types};
use crate::runtime::links::{Link, LinkCallError, Links};
use crate::runtime::state::{Identity, ReplyRoute, State, Task};

/// Where clients listen for replies.
const INBOX_PREFIX: &str = "_INBOX.";
/// Header with the name of the node that a message was published on.
const SOURCE_NODE: &str = "source-node";
/// Header with the kind of content.
const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Largest reply that is handed to a caller in bytes; what the bus takes by default.
const MAX_CAPTURED_BYTES: usize = 1024 * 1024;

type Answer<T> = wasmtime::Result<Result<T, String>>;

impl types::Host for State {}

impl consumer::Host for State {
    async fn request(&mut self, subject: String, body: Vec<u8>, timeout_ms: u32) -> Answer<BrokerMessage> {
        Ok(self.consumer().ask(subject, body.into(), timeout_ms).await)
    }

    async fn publish(&mut self, message: BrokerMessage) -> Answer<()> {
        let message = Message { subject: message.subject, body: message.body.into(), reply_to: message.reply_to, headers: Vec::new() };
        Ok(self.consumer().send(message).await)
    }
}

/// What one call needs of the instance's state.
struct Consumer<'a> {
    identity: &'a Identity,
    links: &'a Links,
    task: &'a mut Task,
}

impl State {
    fn consumer(&mut self) -> Consumer<'_> {
        Consumer { identity: &self.identity, links: &self.around.links, task: &mut self.task }
    }
}

impl<'a> Consumer<'a> {
    async fn ask(&mut self, subject: String, body: Bytes, timeout_ms: u32) -> Result<BrokerMessage, String> {
        self.permitted()?;
        let (link, backend) = self.link_for("request", &subject)?;
        check_size(&body, backend.max_payload())?;
        let timeout = link.timeout().min(Duration::from_millis(u64::from(timeout_ms)));
        let message = self.outgoing(Message { subject, body, reply_to: None, headers: Vec::new() });
        let answer = self.task.send(link, || backend.request(message.clone(), timeout)).await.map_err(text)?;
        Ok(BrokerMessage { subject: answer.subject, body: answer.body.into(), reply_to: None })
    }

    async fn send(&mut self, message: Message) -> Result<(), String> {
        self.permitted()?;
        if self.task.reply_to.as_deref() == Some(message.subject.as_str()) {
            return self.reply(message).await;
        }
        if let Some(reply_to) = &message.reply_to {
            // Whoever answers publishes there with rights of its own.
            self.link_for("publish", reply_to)?;
        }
        let (link, backend) = self.link_for("publish", &message.subject)?;
        check_size(&message.body, backend.max_payload())?;
        let message = self.outgoing(message);
        self.task.send(link, || backend.publish(message.clone())).await.map_err(text)
    }

    async fn reply(&mut self, message: Message) -> Result<(), String> {
        let message = self.outgoing(Message { reply_to: None, ..message });
        match &self.task.route {
            ReplyRoute::None => Err(self.denied("this message takes no reply")),
            ReplyRoute::Capture => {
                check_size(&message.body, MAX_CAPTURED_BYTES)?;
                self.task.reply = Some(message);
                Ok(())
            }
            ReplyRoute::Publish(backend) => {
                check_size(&message.body, backend.max_payload())?;
                let left = self.task.deadline.saturating_duration_since(tokio::time::Instant::now());
                match tokio::time::timeout(left, backend.publish(message)).await {
                    Ok(published) => published.map_err(|error| error.to_string()),
                    Err(_elapsed) => Err(LinkCallError::TimedOut(left.as_millis()).to_string()),
                }
            }
        }
    }

    /// Whether policy lets the actor send anything, replies too. That it does not is no fault of the message in hand.
    fn permitted(&mut self) -> Result<(), String> {
        self.identity.shield.check(Point::MessagingConsumer).map_err(|denied| {
            self.task.met_outage = true;
            self.denied(&denied.to_string())
        })
    }

    /// The link that lets this actor do `operation` on `subject`.
    fn link_for(&self, operation: &str, subject: &str) -> Result<(&'a Arc<Link>, &'a Arc<dyn Messaging>), String> {
        check_subject(subject).map_err(|error| error.to_string())?;
        let links: &'a Links = self.links;
        let covering = links.messaging().find(|(link, settings, _)| settings.may_publish(subject) && link.spec.settings.permits(operation));
        match covering {
            Some((link, _, backend)) => Ok((link, backend)),
            None => Err(self.denied(&format!("no link lets this actor {operation} on `{subject}`"))),
        }
    }

    fn denied(&self, what: &str) -> String {
        let contract = Contract::Messaging.as_str();
        self.identity.log.denied(contract, what);
        format!("capability denied: {contract}: {what}")
    }

    /// The message with the headers that the host adds.
    fn outgoing(&self, mut message: Message) -> Message {
        message.headers =
            vec![(SOURCE_NODE.to_owned(), self.identity.node.clone()), (CONTENT_TYPE.to_owned(), content_type(&message.body).to_owned())];
        message
    }
}

/// Whether a reply may go to a subject that somebody put into a message: somebody's inbox, or any subject that is not the
/// control plane's or the server's.
pub(crate) fn may_reply(subject: &str) -> bool {
    check_subject(subject).is_ok() && (subject.starts_with(INBOX_PREFIX) || !is_reserved(subject))
}

fn check_size(body: &Bytes, limit: usize) -> Result<(), String> {
    if body.len() <= limit {
        return Ok(());
    }
    let bytes = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    Err(CallError::TooLarge { what: "message", size: bytes(body.len()), limit: bytes(limit) }.to_string())
}

fn text(error: LinkCallError) -> String {
    error.to_string()
}

/// Objects and arrays are taken for JSON by their first byte; nothing here depends on their being well-formed.
fn content_type(body: &[u8]) -> &'static str {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => JSON,
        _ => BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_replies_may_go() {
        let check = |subject: &str, expected: bool| assert_eq!(may_reply(subject), expected, "{subject}");
        check("_INBOX.abc.1", true);
        check("edge.ack.NEDGE01", true);
        for forged in ["$JS.API.STREAM.DELETE.edge-events", "$SYS.x", "lat.default.call.x", "cloud.cmd.x", "_INBOX", "_INBOX.>", "a b", ""]
        {
            check(forged, false);
        }
    }

    #[test]
    fn content_types() {
        let check = |body: &[u8], expected: &str| assert_eq!(content_type(body), expected, "{body:?}");
        check(b"{}", JSON);
        check(b" \n[1]", JSON);
        check(b"", BYTES);
        check(b"\xff", BYTES);
    }
}
