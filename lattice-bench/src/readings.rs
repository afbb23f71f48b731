//! Sensors: readings in, results and alerts out, each one checked against the article's rules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Devices that take turns; each reading of one device has a timestamp of its own.
const DEVICES: u32 = 50;
/// First timestamp, the one of the article's reading.
const FIRST_TIMESTAMP: u64 = 1_718_668_800;
/// Results that are outstanding at most; beyond it publishing waits, so that a stuck actor is seen and not buried.
const MAX_OUTSTANDING: usize = 4096;

/// Largest latency that is told apart, in microseconds; more counts as this much.
const MAX_LATENCY_US: u64 = 60_000_000;

/// What to publish, where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Server to publish on
    #[arg(long, env = "LATTICE_NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// Credentials: a .creds file or an nkey seed
    #[arg(long, env = "LATTICE_CREDS")]
    creds: Option<PathBuf>,
    /// Region of the sensors
    #[arg(long, default_value = "ap-east-1")]
    region: String,
    /// How many readings
    #[arg(long, default_value_t = 500)]
    count: u32,
    /// Readings per second; 0 for as fast as the server takes them
    #[arg(long, default_value_t = 250)]
    rate: u32,
    /// Publish without waiting for the stream's acknowledgement (for a link with core delivery)
    #[arg(long)]
    core: bool,
    /// Seconds to wait for the last result
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What went in and what came out.
#[derive(Debug, Serialize)]
struct Summary {
    readings: u64,
    results: u64,
    alerts: u64,
    lost: u64,
    doubled: u64,
    wrong: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{lost} results lost, {doubled} doubled, {wrong} wrong, {alerts} alerts instead of {expected}")]
    Incorrect { lost: u64, doubled: u64, wrong: u64, alerts: u64, expected: u64 },
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Publishes, waits, checks, prints.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Error> {
    let connection = lattice_nats::connect(&lattice_nats::ConnectOptions {
        creds: arguments.creds.clone(),
        ..lattice_nats::ConnectOptions::new(&arguments.nats_url, "lattice-bench")
    })
    .await?;
    let client = connection.client().clone();
    let mut results = stamped(client.subscribe(format!("edge.result.{}", arguments.region)).await?);
    let mut alerts = client.subscribe(format!("edge.alert.{}", arguments.region)).await?;
    client.flush().await?;

    let mut tally = Tally::new()?;
    let mut next = 0;
    let mut pace = tokio::time::interval(period(arguments.rate));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut last_progress = Instant::now();
    let patience = Duration::from_secs(arguments.patience);
    while next < arguments.count || !tally.is_complete() {
        let may_publish = next < arguments.count && tally.outstanding.len() < MAX_OUTSTANDING;
        tokio::select! {
            biased;
            Some((arrived, payload)) = results.recv() => {
                tally.take_result(arrived, &payload);
                last_progress = Instant::now();
            }
            Some(_) = alerts.next() => {
                tally.alerts += 1;
                last_progress = Instant::now();
            }
            _ = pace.tick(), if may_publish => {
                publish(&client, arguments, next, &mut tally).await?;
                next += 1;
                last_progress = Instant::now();
            }
            () = tokio::time::sleep_until((last_progress + patience).into()) => break,
        }
    }
    print(&tally, arguments.json);
    tally.verdict()
}

/// Notes when each message arrives, while the publisher may be waiting for an acknowledgement.
fn stamped(mut subscriber: async_nats::Subscriber) -> tokio::sync::mpsc::Receiver<(Instant, bytes::Bytes)> {
    let (sender, receiver) = tokio::sync::mpsc::channel(MAX_OUTSTANDING);
    tokio::spawn(async move {
        while let Some(message) = subscriber.next().await {
            if sender.send((Instant::now(), message.payload)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn period(rate: u32) -> Duration {
    Duration::from_secs(1).checked_div(rate).unwrap_or(Duration::from_nanos(1))
}

/// The n-th reading: of every ten, one is too hot and one too humid.
pub(crate) fn reading(number: u32, region: &str) -> (String, u64, serde_json::Value, &'static str) {
    let device = format!("sensor-{:03}", number % DEVICES);
    let timestamp = FIRST_TIMESTAMP + u64::from(number / DEVICES);
    let (temperature, humidity, level) = match number % 10 {
        0 => (92.5, 78.3, "critical"),
        5 => (41.0, 94.2, "warning"),
        _ => (20.0 + f64::from(number % 40), 55.0, "normal"),
    };
    let body = serde_json::json!({
        "device_id": device, "temperature": temperature, "humidity": humidity, "timestamp": timestamp, "region": region,
    });
    (device, timestamp, body, level)
}

async fn publish(client: &async_nats::Client, arguments: &Arguments, number: u32, tally: &mut Tally) -> Result<(), Error> {
    let (device, timestamp, body, level) = reading(number, &arguments.region);
    let subject = format!("edge.sensor.{}", arguments.region);
    let payload = serde_json::to_vec(&body)?;
    tally.outstanding.insert((device, timestamp), (Instant::now(), level));
    tally.expected_alerts += u64::from(level != "normal");
    if arguments.core {
        client.publish(subject, payload.into()).await?;
    } else {
        jetstream::new(client.clone()).publish(subject, payload.into()).await?.await?;
    }
    tally.readings += 1;
    Ok(())
}

struct Tally {
    readings: u64,
    results: u64,
    alerts: u64,
    expected_alerts: u64,
    doubled: u64,
    wrong: u64,
    outstanding: BTreeMap<(String, u64), (Instant, &'static str)>,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            readings: 0,
            results: 0,
            alerts: 0,
            expected_alerts: 0,
            doubled: 0,
            wrong: 0,
            outstanding: BTreeMap::new(),
            latency_us: Histogram::new_with_max(MAX_LATENCY_US, 3)?,
        })
    }

    fn is_complete(&self) -> bool {
        self.outstanding.is_empty() && self.alerts >= self.expected_alerts
    }

    fn take_result(&mut self, arrived: Instant, payload: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Result {
            device_id: String,
            alert_level: String,
            processed_at: u64,
        }
        let Ok(result) = serde_json::from_slice::<Result>(payload) else {
            self.wrong += 1;
            return;
        };
        self.results += 1;
        match self.outstanding.remove(&(result.device_id, result.processed_at)) {
            None => self.doubled += 1,
            Some((_, level)) if level != result.alert_level => self.wrong += 1,
            Some((published, _)) => {
                let micros = u64::try_from(arrived.saturating_duration_since(published).as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(micros);
            }
        }
    }

    fn verdict(&self) -> Result<(), Error> {
        let lost = self.outstanding.len() as u64;
        if lost + self.doubled + self.wrong == 0 && self.alerts == self.expected_alerts {
            return Ok(());
        }
        let (doubled, wrong, alerts, expected) = (self.doubled, self.wrong, self.alerts, self.expected_alerts);
        Err(RunError::Incorrect { lost, doubled, wrong, alerts, expected }.into())
    }

    fn summary(&self) -> Summary {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Summary {
            readings: self.readings,
            results: self.results,
            alerts: self.alerts,
            lost: self.outstanding.len() as u64,
            doubled: self.doubled,
            wrong: self.wrong,
            p50_ms: ms(self.latency_us.value_at_quantile(0.5)),
            p99_ms: ms(self.latency_us.value_at_quantile(0.99)),
            max_ms: ms(self.latency_us.max()),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the data of this program")]
fn print(tally: &Tally, json: bool) {
    let summary = tally.summary();
    if json {
        println!("{}", serde_json::to_string(&summary).unwrap_or_default());
        return;
    }
    println!("readings in   {:>8}", summary.readings);
    println!("results out   {:>8}   {} lost, {} doubled, {} wrong", summary.results, summary.lost, summary.doubled, summary.wrong);
    println!("alerts        {:>8}", summary.alerts);
    println!("publish to result   p50 {:.2} ms   p99 {:.2} ms   max {:.2} ms", summary.p50_ms, summary.p99_ms, summary.max_ms);
}
