//! What edge-processor does, by hand: the same readings, the same rules ([`lattice_core::sensor`]), the last value and the
//! counter in a bucket of the same kind, the same results and alerts with the same headers, the same order, the same
//! acknowledgement (confirmed by the server), and as many readings at once.
//!
//! Counters are written on condition of their revision, as the host does, behind a lock per counter: within one process
//! nobody has to lose a race.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use lattice_core::sensor::{self, ActorConfig, Arrival, Counter, Place};
use lattice_core::subject::EDGE_STREAM;
use tokio::sync::Mutex;

use super::{Error, ready};

/// What stands in the results as the node.
const NODE: &str = "native";
/// How often a counter is tried again whose revision was not the expected one.
const ATTEMPTS: u32 = 16;

/// What to process.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Server to connect to
    #[arg(long)]
    nats_url: String,
    /// Subject of the readings
    #[arg(long)]
    subject: String,
    /// Bucket of the last values and counters
    #[arg(long)]
    bucket: String,
    /// Take readings from the stream instead of from a subscription
    #[arg(long)]
    durable: bool,
    /// Readings at once
    #[arg(long)]
    concurrency: usize,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Error> {
    let client = async_nats::connect(&arguments.nats_url).await?;
    let context = jetstream::new(client.clone());
    let pipeline = Pipeline {
        bucket: context.get_key_value(&arguments.bucket).await?,
        client,
        counters: Counter::ALL.iter().map(|counter| (counter.key(), Mutex::new(()))).collect(),
        config: ActorConfig::default(),
    };
    if arguments.durable { pipeline.durable(&context, &arguments).await } else { pipeline.core(&arguments).await }
}

struct Pipeline {
    client: async_nats::Client,
    bucket: kv::Store,
    counters: BTreeMap<&'static str, Mutex<()>>,
    config: ActorConfig,
}

impl Pipeline {
    async fn core(&self, arguments: &Arguments) -> Result<(), Error> {
        let readings = self.client.queue_subscribe(arguments.subject.clone(), NODE.to_owned()).await?;
        self.client.flush().await?;
        ready(0)?;
        readings.map(Ok).try_for_each_concurrent(arguments.concurrency, |message| async move { self.process(&message).await }).await
    }

    async fn durable(&self, context: &jetstream::Context, arguments: &Arguments) -> Result<(), Error> {
        let config = pull::Config {
            durable_name: Some(NODE.to_owned()),
            filter_subject: arguments.subject.clone(),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let consumer: Consumer<pull::Config> = context.create_consumer_on_stream(config, EDGE_STREAM).await?;
        let readings = consumer.messages().await?;
        ready(0)?;
        let work = readings.map_err(Error::from).try_for_each_concurrent(arguments.concurrency, |message| async move {
            self.process(&message).await?;
            message.double_ack().await
        });
        work.await
    }

    /// One reading, in the order of the actor: value, counter, result, alert.
    async fn process(&self, message: &async_nats::Message) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let arrival = Arrival { subject: Some(&message.subject), body: &message.payload };
        let effects = sensor::process(arrival, &self.config, Place { node_id: NODE, now });
        if let Some((key, value)) = effects.store {
            self.bucket.put(key, value.into()).await?;
        }
        self.count(effects.count.key()).await?;
        for publication in effects.publish {
            let mut headers = HeaderMap::new();
            headers.insert("source-node", NODE);
            headers.insert("content-type", "application/json");
            self.client.publish_with_headers(publication.subject, headers, publication.body.into()).await?;
        }
        Ok(())
    }

    async fn count(&self, key: &'static str) -> Result<(), Error> {
        let turn = self.counters.get(key).ok_or("no such counter")?;
        let _turn = turn.lock().await;
        for _ in 0..ATTEMPTS {
            let (count, revision) = match self.bucket.entry(key).await? {
                Some(entry) => (std::str::from_utf8(&entry.value)?.parse::<u64>()?, entry.revision),
                None => (0, 0),
            };
            let next = Bytes::from(count.saturating_add(1).to_string());
            match self.bucket.update(key, next, revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(format!("counter {key} is always changed by others").into())
    }
}
