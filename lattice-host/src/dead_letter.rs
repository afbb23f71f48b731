//! Durable messages that were given up: a record in the event stream, and a copy on `edge.dead.<region>`.

use std::collections::BTreeMap;
use std::sync::Arc;

use lattice_core::id::ActorId;
use lattice_core::sensor::{DeadLetter as Rejected, base64};
use lattice_core::subject;
use lattice_core::wire::event::EventKind;
use lattice_nats::{Lattice, StoreError};
use provider_api::CallError;
use provider_api::messaging::{Message, Messaging, Receipt, Subscription};

use crate::recorder::Recorder;

/// Largest payload that is kept with the record, in bytes: it grows by a third and must stay below the server's limit.
const MAX_PAYLOAD_BYTES: usize = 512 * 1024;
/// Header that says what the copy's body is.
const CONTENT_TYPE: &str = "content-type";

/// Why a dead letter is not out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLetterError {
    /// The record is not confirmed.
    #[error("record")]
    Record(#[from] StoreError),
    /// The copy could not be sent.
    #[error("copy on {subject}: {source}")]
    Copy { subject: String, source: CallError },
}

/// One message that was given up.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    message: String,
    details: BTreeMap<String, String>,
    copy: Option<Message>,
}

impl DeadLetter {
    /// The letter about `message`, which `actor` answered with failures, the last one for `reason`.
    pub(crate) fn new(actor: &ActorId, subscription: &Subscription, message: &Message, receipt: &dyn Receipt, reason: &str) -> Self {
        let sequence = receipt.sequence().to_string();
        let (stream, consumer) = match subscription {
            Subscription::Durable { stream, consumer } => (stream.as_str(), consumer.as_str()),
            Subscription::Core { .. } | Subscription::Broadcast { .. } => ("", ""),
        };
        let size = message.body.len().to_string();
        let mut details: BTreeMap<String, String> = [
            ("actor", actor.as_str()),
            ("subject", &message.subject),
            ("stream", stream),
            ("consumer", consumer),
            ("sequence", &sequence),
            ("reason", reason),
            ("size", &size),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let payload = match message.body.len() {
            0..=MAX_PAYLOAD_BYTES => ("payload_base64", base64(&message.body)),
            _ => ("payload_omitted", format!("more than {MAX_PAYLOAD_BYTES} bytes; the stream has it under its sequence")),
        };
        details.insert(payload.0.to_owned(), payload.1);
        let copy = subject::region_of(&message.subject).map(|region| Message {
            subject: subject::dead_letters(region),
            // Readers of these subjects find the same form as for what an actor itself rejects.
            body: serde_json::to_vec(&Rejected::because(reason.to_owned(), &message.subject, &message.body)).unwrap_or_default().into(),
            reply_to: None,
            headers: vec![(CONTENT_TYPE.to_owned(), "application/json".to_owned())],
        });
        let message = format!("{actor} failed on message {sequence} of {stream} ({}): {reason}", message.subject);
        Self { message, details, copy }
    }
}

/// Where dead letters go. Clones share the connection.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    pub(crate) lattice: Lattice,
    pub(crate) recorder: Recorder,
    pub(crate) bus: Arc<dyn Messaging>,
}

impl DeadLetters {
    /// Records the letter and sends the copy; returns when the server has confirmed the record.
    ///
    /// # Errors
    /// [`DeadLetterError`]; the message must be kept then.
    pub(crate) async fn publish(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let event = self.recorder.event(EventKind::DeadLetter, letter.message.clone(), letter.details.clone());
        self.lattice.publish_event(&event).await?;
        let Some(copy) = letter.copy.clone() else { return Ok(()) };
        let subject = copy.subject.clone();
        self.bus.publish(copy).await.map_err(|source| DeadLetterError::Copy { subject, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use std::time::Duration;

    struct At(u64);

    #[async_trait]
    impl Receipt for At {
        fn sequence(&self) -> u64 {
            self.0
        }
        fn delivered(&self) -> u64 {
            1
        }
        async fn in_progress(&self) -> Result<(), CallError> {
            Ok(())
        }
        async fn ack(&self) -> Result<(), CallError> {
            Ok(())
        }
        async fn retry_after(&self, _delay: Duration) -> Result<(), CallError> {
            Ok(())
        }
        async fn terminate(&self, _reason: &str) -> Result<(), CallError> {
            Ok(())
        }
    }

    fn letter(subject: &str, bytes: usize) -> DeadLetter {
        let message = Message { subject: subject.into(), body: Bytes::from(vec![b'x'; bytes]), reply_to: None, headers: Vec::new() };
        let subscription = Subscription::Durable { stream: "edge-events".into(), consumer: "c".into() };
        DeadLetter::new(&ActorId::new("a").unwrap(), &subscription, &message, &At(7), "it\nfailed")
    }

    #[test]
    fn the_copy_goes_to_the_region_of_the_message() {
        let letter = letter("edge.sensor.eu.x", 3);
        let copy = letter.copy.unwrap();
        assert_eq!(copy.subject, "edge.dead.eu");
        let body: Rejected = serde_json::from_slice(&copy.body).unwrap();
        assert_eq!((body.reason.as_str(), body.subject.as_str(), body.payload.as_str()), ("it\nfailed", "edge.sensor.eu.x", "xxx"));
        assert_eq!(letter.details.get("payload_base64").map(String::as_str), Some("eHh4"));
        assert_eq!(letter.details.get("sequence").map(String::as_str), Some("7"));
    }

    #[test]
    fn a_large_payload_is_left_to_the_stream() {
        let letter = letter("site.a", MAX_PAYLOAD_BYTES + 1);
        assert!(letter.copy.is_none());
        assert!(letter.details.contains_key("payload_omitted") && !letter.details.contains_key("payload_base64"));
    }
}
