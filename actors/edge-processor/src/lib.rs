//! edge-processor: readings in, results and alerts out.
//!
//! Only glue: every decision is in [`lattice_core::sensor`], which says what to store, count, publish and answer; this
//! crate does it through the host's interfaces. Messages arrive here, HTTP requests in [`http`].
//!
//! **Invariants.** Configuration is read for each reading, so a change counts from the next one. Whatever the host
//! refuses is the call's error and nothing after it is tried; the order is value, counter, result, alert, reply.

#[cfg(not(any(feature = "config-draft", feature = "config-rc1")))]
compile_error!("choose a draft of wasi:config: feature `config-draft` or `config-rc1`");
#[cfg(all(feature = "config-draft", feature = "config-rc1"))]
compile_error!("`config-draft` and `config-rc1` exclude each other: build with --no-default-features");

mod http;

#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    #[cfg(feature = "config-draft")]
    wit_bindgen::generate!({ path: "../../wit", world: "edge-processor-config-draft", generate_all });
    #[cfg(feature = "config-rc1")]
    wit_bindgen::generate!({ path: "../../wit", world: "edge-processor-config-rc1", generate_all });

    #[cfg(feature = "config-draft")]
    pub(crate) use self::wasi::config0_2_0_draft::store as config;
    #[cfg(feature = "config-rc1")]
    pub(crate) use self::wasi::config0_2_0_rc_1::store as config;

    use super::EdgeProcessor;
    export!(EdgeProcessor);
}

use std::time::{SystemTime, UNIX_EPOCH};

use bindings::config;
use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::wasi::keyvalue::atomics::increment;
use bindings::wasi::keyvalue::store::{self, Bucket};
use bindings::wasmcloud::messaging::consumer;
use lattice_core::sensor::{self, ActorConfig, Arrival, Counter, Effects, Place, Stats};
use wasmcloud_component::warn;

/// The bucket that a link binds to a real one.
const BUCKET: &str = "default";
/// Context of our log lines.
const LOG: &str = "edge-processor";

struct EdgeProcessor;

impl Guest for EdgeProcessor {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let effects = process(Arrival { subject: Some(&message.subject), body: &message.body })?;
        if let Err(malformed) = &effects.outcome {
            warn!(context: LOG, "malformed reading on {}: {}", message.subject, malformed.reason());
        }
        match &message.reply_to {
            Some(reply_to) => publish(reply_to, effects.answer()),
            None => Ok(()),
        }
    }
}

/// Processes a reading and carries out everything but the answer to whoever waits for one.
fn process(arrival: Arrival<'_>) -> Result<Effects, String> {
    let node_id = std::env::var(sensor::NODE_ID_VARIABLE);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let place = Place { node_id: node_id.as_deref().unwrap_or(sensor::UNKNOWN_NODE_ID), now };
    let mut effects = sensor::process(arrival, &config()?, place);

    let bucket = open()?;
    if let Some((key, value)) = effects.store.take() {
        bucket.set(&key, &value).map_err(|error| failed("set", &key, error))?;
    }
    let counter = effects.count.key();
    increment(&bucket, counter, 1).map_err(|error| failed("increment", counter, error))?;
    for publication in std::mem::take(&mut effects.publish) {
        publish(&publication.subject, publication.body)?;
    }
    Ok(effects)
}

/// The stored last value of the device with this key.
fn last_value(key: &str) -> Result<Option<Vec<u8>>, String> {
    open()?.get(key).map_err(|error| failed("get", key, error))
}

/// The counters; one that was never raised is 0.
fn stats() -> Result<Stats, String> {
    let bucket = open()?;
    let mut stats = Stats::default();
    for counter in Counter::ALL {
        let stored = bucket.get(counter.key()).map_err(|error| failed("get", counter.key(), error))?;
        if let Some(stored) = stored {
            stats.set(counter, &stored).map_err(|error| error.to_string())?;
        }
    }
    Ok(stats)
}

fn config() -> Result<ActorConfig, String> {
    let pairs = config::get_all().map_err(|error| match error {
        config::Error::Upstream(reason) | config::Error::Io(reason) => format!("config: {reason}"),
    })?;
    ActorConfig::from_pairs(pairs).map_err(|error| error.to_string())
}

fn open() -> Result<Bucket, String> {
    store::open(BUCKET).map_err(|error| failed("open", BUCKET, error))
}

fn publish(subject: &str, body: Vec<u8>) -> Result<(), String> {
    let message = BrokerMessage { subject: subject.to_owned(), body, reply_to: None };
    consumer::publish(&message).map_err(|reason| format!("publish on {subject}: {reason}"))
}

fn failed(call: &str, key: &str, error: store::Error) -> String {
    let reason = match error {
        store::Error::NoSuchStore => "no such bucket",
        store::Error::AccessDenied => "access denied",
        store::Error::Other(ref reason) => reason,
    };
    format!("keyvalue {call} {key}: {reason}")
}
