//! The bus as a sensor, a dashboard or a stock tool sees it: a client of its own, in calls that wait.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Message;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::until;

/// How long a server that is there may take to confirm something.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// How long a server is waited for that may not be there, or may refuse without a word.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// A client of the server. It connects again by itself when the server was away.
pub struct Bus {
    runtime: Runtime,
    client: async_nats::Client,
}

impl Bus {
    /// Connects; waits for a server that is not there yet.
    pub fn open(url: &str) -> Self {
        Self::connect(url, async_nats::ConnectOptions::new())
    }

    /// Connects as the user whose seed is in a file.
    pub fn open_with_key(url: &str, seed: &Path) -> Self {
        let seed = std::fs::read_to_string(seed).expect("a seed");
        Self::connect(url, async_nats::ConnectOptions::with_nkey(seed.trim().to_owned()))
    }

    fn connect(url: &str, options: async_nats::ConnectOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let options = options
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_attempts| Duration::from_millis(50))
            .subscription_capacity(1 << 20);
        let client = runtime.block_on(options.connect(url)).expect("options that make sense");
        Self { runtime, client }
    }

    /// Publishes and waits until the server has it.
    pub fn publish(&self, subject: &str, payload: impl AsRef<[u8]>) {
        self.runtime.block_on(async {
            self.client.publish(subject.to_owned(), payload.as_ref().to_vec().into()).await.expect("published");
            self.client.flush().await.expect("flushed");
        });
    }

    /// The same, with a subject for answers.
    pub fn publish_with_reply(&self, subject: &str, reply: &str, payload: impl AsRef<[u8]>) {
        self.runtime.block_on(async {
            let payload = payload.as_ref().to_vec().into();
            self.client.publish_with_reply(subject.to_owned(), reply.to_owned(), payload).await.expect("published");
            self.client.flush().await.expect("flushed");
        });
    }

    /// Publishes into a stream and returns the position that the server acknowledged.
    #[track_caller]
    pub fn store(&self, subject: &str, payload: impl AsRef<[u8]>) -> u64 {
        self.store_within(CONFIRMED_WITHIN, subject, payload.as_ref()).expect("stored")
    }

    /// The same where the server may be away or may refuse.
    ///
    /// # Errors
    /// The server did not acknowledge it in time; it may be stored or not.
    pub fn try_store(&self, subject: &str, payload: impl AsRef<[u8]>) -> Result<u64, String> {
        self.store_within(ANSWERED_WITHIN, subject, payload.as_ref())
    }

    fn store_within(&self, patience: Duration, subject: &str, payload: &[u8]) -> Result<u64, String> {
        self.runtime.block_on(async {
            let jetstream = async_nats::jetstream::new(self.client.clone());
            let stored = async {
                let sent = jetstream.publish(subject.to_owned(), payload.to_vec().into()).await.map_err(|error| error.to_string())?;
                sent.await.map(|ack| ack.sequence).map_err(|error| error.to_string())
            };
            tokio::time::timeout(patience, stored).await.map_err(|error| error.to_string())?
        })
    }

    /// Publishes and waits for an answer.
    ///
    /// # Errors
    /// Nobody listens, or nobody answered in time.
    pub fn request(&self, subject: &str, payload: impl AsRef<[u8]>, timeout: Duration) -> Result<Message, String> {
        let request = async_nats::Request::new().payload(payload.as_ref().to_vec().into()).timeout(Some(timeout));
        self.runtime.block_on(self.client.send_request(subject.to_owned(), request)).map_err(|error| error.to_string())
    }

    /// Listens from now on.
    pub fn hear(&self, subject: &str) -> Heard {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let heard = Heard { subject: subject.to_owned(), messages: messages.clone() };
        let mut subscription = self.runtime.block_on(self.client.subscribe(subject.to_owned())).expect("subscribed");
        self.runtime.block_on(self.client.flush()).expect("the server knows");
        self.runtime.spawn(async move {
            while let Some(message) = subscription.next().await {
                messages.lock().expect("nobody panics here").push(message);
            }
        });
        heard
    }

    /// Makes a stream that keeps what is published on `subjects`, so that nothing is missed while this client is away.
    pub fn keep(&self, stream: &str, subjects: &[&str]) {
        let config = async_nats::jetstream::stream::Config {
            name: stream.to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            ..Default::default()
        };
        let made = self.runtime.block_on(async { async_nats::jetstream::new(self.client.clone()).create_stream(config).await });
        made.expect("a stream");
    }

    /// All messages of a stream so far, oldest first.
    pub fn kept(&self, stream: &str) -> Vec<Message> {
        self.runtime.block_on(async {
            let stream = async_nats::jetstream::new(self.client.clone()).get_stream(stream).await.expect("the stream");
            let info = stream.get_info().await.expect("its state");
            let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
            let messages = stream.create_consumer(config).await.expect("a consumer").messages().await.expect("messages");
            let count = usize::try_from(info.state.messages).expect("few");
            messages.take(count).map(|message| message.expect("a message").message.clone()).collect().await
        })
    }
}

/// What was heard on a subject since somebody began to listen.
pub struct Heard {
    subject: String,
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Heard {
    /// All messages so far.
    pub fn all(&self) -> Vec<Message> {
        self.messages.lock().expect("nobody panics here").clone()
    }

    /// The payloads of all messages so far, as JSON; what is none is left out.
    pub fn json(&self) -> Vec<Value> {
        self.all().iter().filter_map(|message| serde_json::from_slice(&message.payload).ok()).collect()
    }

    /// Waits for a message that `fits`.
    #[track_caller]
    pub fn first(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{what} on {}", self.subject), &mut || self.json().into_iter().find(&fits))
    }

    /// Waits for the message about a device.
    #[track_caller]
    pub fn of_device(&self, device: &str) -> Value {
        self.first(device, |value| value["device_id"] == device)
    }

    /// Waits until there are `count` messages.
    #[track_caller]
    pub fn count(&self, count: usize) -> Vec<Message> {
        until(&format!("{count} messages on {}", self.subject), &mut || Some(self.all()).filter(|all| all.len() >= count))
    }
}
