//! Settling a durable message.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Request, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use lattice_nats::Connection;
use provider_api::CallError;
use provider_api::messaging::Receipt;

/// Patience with the server's confirmation: below its ack-wait, after which the message comes again anyway.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest reason that is sent along, in bytes.
const MAX_REASON_BYTES: usize = 200;

/// Settles one delivery of one message.
#[derive(Debug)]
pub(crate) struct DurableReceipt {
    pub(crate) connection: Connection,
    /// Where the server takes the settlement of this delivery.
    pub(crate) settle_on: Subject,
    pub(crate) sequence: u64,
    pub(crate) delivered: u64,
    /// The connection that brought the message.
    pub(crate) epoch: u64,
}

#[async_trait]
impl Receipt for DurableReceipt {
    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }

    async fn in_progress(&self) -> Result<(), CallError> {
        let sent = self.connection.client().publish(self.settle_on.clone(), Bytes::from_static(b"+WPI")).await;
        sent.map_err(|_| CallError::Unavailable("the connection to NATS is closed".to_owned()))
    }

    async fn ack(&self) -> Result<(), CallError> {
        // What the actor published meanwhile may have gone down with a connection that broke; a confirmed
        // acknowledgement over the same connection proves that it arrived before.
        if self.connection.epoch() != self.epoch {
            return Err(CallError::Failed("the connection broke since the message was delivered; it comes again".to_owned()));
        }
        self.settle(Bytes::from_static(b"+ACK")).await
    }

    async fn retry_after(&self, delay: Duration) -> Result<(), CallError> {
        self.settle(Bytes::from(format!("-NAK {{\"delay\": {}}}", delay.as_nanos()))).await
    }

    async fn terminate(&self, reason: &str) -> Result<(), CallError> {
        let mut reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        self.settle(Bytes::from(format!("+TERM {reason}"))).await
    }
}

impl DurableReceipt {
    /// Sends a settlement and waits until the server confirms it.
    async fn settle(&self, verdict: Bytes) -> Result<(), CallError> {
        if !self.connection.is_connected() {
            return Err(CallError::Unavailable("NATS is not connected".to_owned()));
        }
        let request = Request::new().payload(verdict).timeout(Some(CONFIRM_TIMEOUT));
        match self.connection.client().send_request(self.settle_on.clone(), request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::TimedOut => CallError::TimedOut(u64::try_from(CONFIRM_TIMEOUT.as_millis()).unwrap_or(u64::MAX)),
                RequestErrorKind::NoResponders => CallError::Failed("the consumer of this message is gone".to_owned()),
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                    CallError::Failed(error.to_string())
                }
            }),
        }
    }
}
