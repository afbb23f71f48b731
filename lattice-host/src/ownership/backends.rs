//! What the links of an actor with owners lead to: its bucket and the bus as a message of it sees them.
//!
//! Reads see first what the message itself has written, then what the stream's leader holds. Writes and messages are
//! collected by the [`Slot`]. Without a slot, as for HTTP requests, there is nothing to write with: everything is read only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lattice_core::fence::Publication;
use lattice_core::id::LatticeName;
use lattice_core::needs::Class;
use lattice_core::subject;
use lattice_nats::error::ApiError;
use lattice_nats::fenced::FencedBucket;
use provider_api::keyvalue::{Bucket, KeyPage, MAX_KEYS_PER_PAGE, add, check_key};
use provider_api::messaging::{Inbox, Message, Messaging, Subscription};
use provider_api::{CallError, ProviderError};

use super::slot::{Refused, Slot};
use crate::reason;
use crate::runtime::{Backend, BoundLink};

/// What the links of one actor with owners lead to.
#[derive(Clone)]
pub(crate) struct Fence {
    pub(crate) lattice: LatticeName,
    pub(crate) class: Class,
    pub(crate) bucket: FencedBucket,
    /// `None`: read only.
    pub(crate) slot: Option<Arc<Slot>>,
}

impl Fence {
    /// The link with this fence before its backend.
    pub(crate) fn around(&self, link: &BoundLink) -> BoundLink {
        let backend = match &link.backend {
            Backend::KeyValue(_) => Backend::KeyValue(Arc::new(FencedKeys(self.clone()))),
            Backend::Messaging(bus) => Backend::Messaging(Arc::new(FencedBus { fence: self.clone(), bus: bus.clone() })),
            // What other servers are asked for cannot be taken back: it is no part of what a fence is about.
            other @ (Backend::HttpServer | Backend::HttpClient(_) | Backend::Store(_)) => other.clone(),
        };
        BoundLink { spec: link.spec.clone(), backend }
    }

    fn check_size(&self, what: &'static str, size: usize) -> Result<(), CallError> {
        let (limit, wide) = (self.bucket.max_bytes(), |size: usize| u64::try_from(size).unwrap_or(u64::MAX));
        if size <= limit { Ok(()) } else { Err(CallError::TooLarge { what, size: wide(size), limit: wide(limit) }) }
    }

    fn slot(&self) -> Result<&Slot, CallError> {
        self.slot.as_deref().ok_or_else(|| refused(Refused::NoMessage))
    }
}

/// The bucket.
struct FencedKeys(Fence);

impl FencedKeys {
    /// The value of `key` as the message in hand sees it.
    async fn value(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        check_key(key)?;
        if let Some(written) = self.0.slot.as_ref().and_then(|slot| slot.written(key)) {
            return Ok(written.map(Bytes::from));
        }
        self.check_connected()?;
        let (entry, revision) = self.0.bucket.keys().entry_or_gap(key).await.map_err(call_error)?;
        if let Some(slot) = &self.0.slot {
            slot.saw(key, revision.0);
        }
        Ok(entry.map(|entry| entry.value))
    }

    fn write(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), CallError> {
        check_key(key)?;
        self.0.slot()?.write(key, value).map_err(refused)
    }

    fn check_connected(&self) -> Result<(), CallError> {
        if self.0.bucket.is_connected() { Ok(()) } else { Err(CallError::Unavailable("NATS is not connected".to_owned())) }
    }
}

#[async_trait]
impl Bucket for FencedKeys {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        self.value(key).await
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError> {
        self.0.check_size("value", value.len())?;
        self.write(key, Some(value.into()))
    }

    async fn delete(&self, key: &str) -> Result<(), CallError> {
        self.write(key, None)
    }

    /// What the message in hand has added comes at the end of the last page.
    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyPage, CallError> {
        self.check_connected()?;
        let page = self.0.bucket.keys().keys_page(cursor.unwrap_or(0), MAX_KEYS_PER_PAGE).await.map_err(call_error)?;
        let written = self.0.slot.as_ref().map(|slot| slot.written_keys()).unwrap_or_default();
        let mut keys: Vec<String> = page.keys.into_iter().filter(|key| written.get(key) != Some(&false)).collect();
        if page.next.is_none() {
            for (key, _) in written.into_iter().filter(|(_, is_there)| *is_there) {
                if self.0.bucket.keys().get(&key).await.map_err(call_error)?.is_none() {
                    keys.push(key);
                }
            }
        }
        Ok(KeyPage { keys, cursor: page.next })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        let value = self.value(key).await?;
        let sum = add(key, value.as_ref(), delta)?;
        self.write(key, Some(sum.to_string().into_bytes()))?;
        Ok(sum)
    }
}

/// The bus.
struct FencedBus {
    fence: Fence,
    bus: Arc<dyn Messaging>,
}

impl FencedBus {
    /// What goes past the outbox is for owners that stop by themselves, while they may act.
    fn directly(&self, what: &str) -> Result<(), CallError> {
        let slot = self.fence.slot()?;
        if self.fence.class != Class::Strict {
            let first = subject::OUTBOX_FIRST_TOKEN;
            return Err(CallError::Failed(format!(
                "{what}: an actor of class fenced only publishes, below `{first}.` and not what others consume durably"
            )));
        }
        if slot.gate().is_open() { Ok(()) } else { Err(refused(Refused::Closed)) }
    }
}

#[async_trait]
impl Messaging for FencedBus {
    fn max_payload(&self) -> usize {
        self.bus.max_payload()
    }

    async fn publish(&self, message: Message) -> Result<(), CallError> {
        let outbox = subject::outbox(&self.fence.lattice, self.fence.bucket.name(), &message.subject);
        if outbox.is_none() || message.reply_to.is_some() {
            self.directly(&message.subject)?;
            return self.bus.publish(message).await;
        }
        self.fence.check_size("message", message.body.len())?;
        let Message { subject, body, headers, .. } = message;
        self.fence.slot()?.publish(Publication { subject, headers, body: body.into() }).map_err(refused)
    }

    async fn request(&self, message: Message, timeout: Duration) -> Result<Message, CallError> {
        self.directly(&message.subject)?;
        self.bus.request(message, timeout).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Inbox>, ProviderError> {
        self.bus.subscribe(subscription).await
    }
}

fn refused(why: Refused) -> CallError {
    CallError::Failed(why.to_string())
}

fn call_error(error: lattice_nats::StoreError) -> CallError {
    use lattice_nats::StoreError as Nats;
    match error {
        Nats::Key { .. } => CallError::Invalid(error.to_string()),
        Nats::Nats { source: ApiError::TimedOut(after), .. } => CallError::TimedOut(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        Nats::Nats { ref source, .. } if source.is_outage() => CallError::Unavailable(reason::of(&error)),
        Nats::Missing { .. }
        | Nats::Weaker { .. }
        | Nats::Owned { .. }
        | Nats::OtherConsumer { .. }
        | Nats::TooLarge { .. }
        | Nats::Corrupt { .. }
        | Nats::Nats { .. } => CallError::Failed(reason::of(&error)),
    }
}
