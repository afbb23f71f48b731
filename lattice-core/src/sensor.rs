//! What edge-processor does with a reading, without doing it: bytes in, [`Effects`] out.
//!
//! The actor's glue carries the effects out in the order in which they are listed: last value, counter, publications,
//! reply. A failure of one stops the rest and is the actor's error, so that a durable link delivers the reading again;
//! therefore values are overwritten and results published again, and a counter may count such a reading twice.
//!
//! **Invariants.** A malformed reading is never an error: it is counted and, when its region is known, published on
//! `edge.dead.<region>` with the reason, so that it cannot block the readings behind it. Every text of a sensor that
//! becomes part of a key or a subject is checked or escaped here.

mod dead_letter;
mod reading;
mod routes;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::dead_letter::{DeadLetter, Encoding, MAX_DEAD_PAYLOAD_BYTES, base64};
pub use self::reading::{MAX_DEVICE_ID_BYTES, MAX_READING_BYTES, MAX_READING_DEPTH, MAX_REASON_CHARS, Malformed, SensorData, device_key};
pub use self::routes::{Refusal, Route, route};
use crate::id::Region;
use crate::subject;

/// The variable in which a host tells an actor which node it runs on.
pub const NODE_ID_VARIABLE: &str = "WASMCLOUD_NODE_ID";
/// The node id of results where that variable is missing.
pub const UNKNOWN_NODE_ID: &str = "edge-unknown";

/// How bad a reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertLevel {
    /// Nothing to report.
    Normal,
    /// Too humid.
    Warning,
    /// Too hot.
    Critical,
}

impl fmt::Display for AlertLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// What comes out of a reading: published on `edge.result.<region>`, on `edge.alert.<region>`, and sent as reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessedResult {
    /// The device that measured.
    pub device_id: String,
    /// How bad it is.
    pub alert_level: AlertLevel,
    /// The reading's own timestamp; the time of processing, in seconds since 1970, if it has none.
    pub processed_at: u64,
    /// The node that processed it.
    pub node_id: String,
}

/// The last value of a device, as it lies in the bucket and is served over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastValue {
    /// The device that measured.
    pub device_id: String,
    /// Its temperature.
    pub temperature: f64,
    /// Its relative humidity, if it measures that.
    pub humidity: Option<f64>,
    /// The reading's own timestamp, if it has one.
    pub timestamp: Option<u64>,
    /// Its region.
    pub region: Region,
    /// How bad it is.
    pub alert_level: AlertLevel,
    /// As in [`ProcessedResult`].
    pub processed_at: u64,
    /// The node that processed it.
    pub node_id: String,
}

/// Thresholds, from the actor's configuration; read anew for each message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActorConfig {
    /// A temperature above it is critical.
    pub temp_threshold: f64,
    /// A humidity above it is a warning.
    pub humidity_threshold: f64,
    /// Whether anything but a normal level is also published as an alert.
    pub alert_enabled: bool,
}

impl Default for ActorConfig {
    fn default() -> Self {
        Self { temp_threshold: 85.0, humidity_threshold: 90.0, alert_enabled: true }
    }
}

/// A configuration value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config value {key}=`{value}` {reason}")]
pub struct InvalidConfig {
    /// Which value.
    pub key: &'static str,
    /// What it is set to, escaped and cut so that it can be shown.
    pub value: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl ActorConfig {
    /// Takes the values it knows from `pairs` and defaults for the missing ones; the last of equal keys counts.
    ///
    /// # Errors
    /// [`InvalidConfig`] names the first value that is no finite number, or neither `true` nor `false`.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            match key.as_ref() {
                "temp_threshold" => config.temp_threshold = threshold("temp_threshold", value)?,
                "humidity_threshold" => config.humidity_threshold = threshold("humidity_threshold", value)?,
                "alert_enabled" => config.alert_enabled = switch("alert_enabled", value)?,
                _ => {}
            }
        }
        Ok(config)
    }
}

fn threshold(key: &'static str, value: &str) -> Result<f64, InvalidConfig> {
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err(invalid_config(key, value, "is no finite number")),
    }
}

fn switch(key: &'static str, value: &str) -> Result<bool, InvalidConfig> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid_config(key, value, "is neither `true` nor `false`")),
    }
}

fn invalid_config(key: &'static str, value: &str, reason: &'static str) -> InvalidConfig {
    InvalidConfig { key, value: value.chars().take(80).flat_map(char::escape_debug).collect(), reason }
}

/// What is counted. The keys have a single part, so that none can be a device's, which has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Readings of a level.
    Level(AlertLevel),
    /// Readings that nobody could work with.
    Malformed,
}

impl Counter {
    /// All counters, in the order in which they are shown.
    pub const ALL: [Self; 4] =
        [Self::Level(AlertLevel::Critical), Self::Level(AlertLevel::Warning), Self::Level(AlertLevel::Normal), Self::Malformed];

    /// Its key in the bucket.
    pub fn key(self) -> &'static str {
        match self {
            Self::Level(AlertLevel::Critical) => "_stats-critical",
            Self::Level(AlertLevel::Warning) => "_stats-warning",
            Self::Level(AlertLevel::Normal) => "_stats-normal",
            Self::Malformed => "_stats-malformed",
        }
    }
}

/// How many readings there were of each kind, as served over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Too hot.
    pub critical: u64,
    /// Too humid.
    pub warning: u64,
    /// Fine.
    pub normal: u64,
    /// Unusable.
    pub malformed: u64,
}

impl Stats {
    /// Puts a counter's stored value (a decimal number) in its place.
    ///
    /// # Errors
    /// The stored bytes are no decimal number: somebody else wrote that key.
    pub fn set(&mut self, counter: Counter, stored: &[u8]) -> Result<(), ForeignCounter> {
        let number = std::str::from_utf8(stored).ok().and_then(|text| text.trim().parse().ok());
        let number = number.ok_or(ForeignCounter { key: counter.key() })?;
        match counter {
            Counter::Level(AlertLevel::Critical) => self.critical = number,
            Counter::Level(AlertLevel::Warning) => self.warning = number,
            Counter::Level(AlertLevel::Normal) => self.normal = number,
            Counter::Malformed => self.malformed = number,
        }
        Ok(())
    }
}

/// A counter's key holds something that is no counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key} holds no decimal number")]
pub struct ForeignCounter {
    /// The key.
    pub key: &'static str,
}

/// A reading on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The subject it came on, `edge.sensor.<region>`; `None` over HTTP.
    pub subject: Option<&'a str>,
    /// Its bytes.
    pub body: &'a [u8],
}

/// Where and when it is processed.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node.
    pub node_id: &'a str,
    /// Seconds since 1970.
    pub now: u64,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// On which subject.
    pub subject: String,
    /// JSON.
    pub body: Vec<u8>,
}

/// What is to be done about a reading, in this order.
#[derive(Debug)]
pub struct Effects {
    /// Key and value to store.
    pub store: Option<(String, Vec<u8>)>,
    /// The counter to raise by one.
    pub count: Counter,
    /// What to publish.
    pub publish: Vec<Publication>,
    /// The result for whoever waits for it, or what is wrong with the reading.
    pub outcome: Result<ProcessedResult, Malformed>,
}

impl Effects {
    /// The JSON for whoever waits for an answer: the result, or `{"error": …}`.
    pub fn answer(&self) -> Vec<u8> {
        match &self.outcome {
            Ok(result) => to_json(result),
            Err(malformed) => error_json("malformed", &malformed.reason()),
        }
    }
}

/// Decides what is to be done about a reading.
pub fn process(arrival: Arrival<'_>, config: &ActorConfig, place: Place<'_>) -> Effects {
    let region_hint = arrival.subject.and_then(subject::region_of);
    match reading::read(arrival.body, region_hint) {
        Ok(reading) => accepted(reading, config, place),
        Err(malformed) => refused(arrival, region_hint, malformed),
    }
}

/// The level of a reading: a temperature above its threshold beats a humidity above its own.
pub fn decide(data: &SensorData, config: &ActorConfig) -> AlertLevel {
    if data.temperature > config.temp_threshold {
        AlertLevel::Critical
    } else if data.humidity.is_some_and(|humidity| humidity > config.humidity_threshold) {
        AlertLevel::Warning
    } else {
        AlertLevel::Normal
    }
}

fn accepted(reading: reading::Checked, config: &ActorConfig, place: Place<'_>) -> Effects {
    let reading::Checked { data, region, key } = reading;
    let alert_level = decide(&data, config);
    let result = ProcessedResult {
        device_id: data.device_id.clone(),
        alert_level,
        processed_at: data.timestamp.unwrap_or(place.now),
        node_id: place.node_id.to_owned(),
    };
    let body = to_json(&result);
    let mut publish = vec![Publication { subject: subject::results(region.as_str()), body: body.clone() }];
    if config.alert_enabled && alert_level != AlertLevel::Normal {
        publish.push(Publication { subject: subject::alerts(region.as_str()), body });
    }
    let last = LastValue {
        device_id: data.device_id,
        temperature: data.temperature,
        humidity: data.humidity,
        timestamp: data.timestamp,
        region,
        alert_level,
        processed_at: result.processed_at,
        node_id: result.node_id.clone(),
    };
    Effects { store: Some((key, to_json(&last))), count: Counter::Level(alert_level), publish, outcome: Ok(result) }
}

/// A reading from a subject goes to the dead letters of that subject's region. One that came over HTTP does not: whoever
/// sent it is told at once, and its region is not to be trusted.
fn refused(arrival: Arrival<'_>, region: Option<&str>, malformed: Malformed) -> Effects {
    let publish = arrival.subject.zip(region).map(|(subject, region)| Publication {
        subject: subject::dead_letters(region),
        body: to_json(&DeadLetter::new(&malformed, subject, arrival.body)),
    });
    Effects { store: None, count: Counter::Malformed, publish: publish.into_iter().collect(), outcome: Err(malformed) }
}

/// `{"error": {"code", "message"}}`, the shape of every error that the actor sends.
pub fn error_json(code: &str, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        code: &'a str,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: Body<'a>,
    }
    to_json(&Envelope { error: Body { code, message } })
}

/// JSON of a plain struct, which always encodes; an impossible failure gives an empty body.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
