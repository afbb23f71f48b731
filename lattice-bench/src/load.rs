//! Load for rows with processes: requests with an answer each, and sensor readings with their results and alerts.
//!
//! **Invariants.** Every answer is checked: it came once, to the right request, with the right content, in order where that
//! is asked for. The last one is waited for, so that a round leaves nothing to the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use async_nats::jetstream;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use lattice_nats::Connection;

use crate::Error;
use crate::readings::reading;
use crate::rounds::Checks;

/// How long nothing may come before what is outstanding is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest request: its number must fit in.
const MIN_REQUEST_BYTES: usize = 16;

/// How fast to send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many a second, whatever comes back.
    Rate(u32),
    /// As fast as answers come, with so many outstanding.
    Window(usize),
}

impl Pace {
    fn ticks(self) -> tokio::time::Interval {
        let period = match self {
            Self::Rate(rate) => Duration::from_secs(1).checked_div(rate).unwrap_or(PATIENCE),
            Self::Window(_) => PATIENCE,
        };
        let mut ticks = tokio::time::interval(period.max(Duration::from_micros(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        ticks
    }

    fn has_room(self, outstanding: usize) -> bool {
        match self {
            Self::Rate(_) => false,
            Self::Window(window) => outstanding < window,
        }
    }
}

/// What a run of load gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// From the first message sent to the last answer.
    pub(crate) elapsed: Duration,
    /// Microseconds from each message to its answer.
    pub(crate) latencies_us: Vec<f64>,
    /// What was found.
    pub(crate) checks: Checks,
}

/// Asks and is answered.
pub(crate) struct Requests {
    client: async_nats::Client,
    inbox: String,
    answers: Subscriber,
    next: u64,
}

impl Requests {
    /// Listens for answers.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) async fn new(connection: &Connection) -> Result<Self, Error> {
        let client = connection.client().clone();
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        client.flush().await?;
        Ok(Self { client, inbox, answers, next: 0 })
    }

    /// Sends `count` requests of `bytes` bytes to `subjects` in turn; each is to be answered with its own payload, those of
    /// one subject in order if `ordered`.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) async fn run(
        &mut self,
        subjects: &[String],
        count: usize,
        bytes: usize,
        pace: Pace,
        ordered: bool,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut outstanding: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        let turns = u64::try_from(subjects.len())?;
        let mut to_send = subjects.iter().cycle().take(count).peekable();
        let (start, mut last_progress) = (Instant::now(), Instant::now());
        let mut ticks = pace.ticks();
        while to_send.peek().is_some() || !outstanding.is_empty() {
            let may_send = to_send.peek().is_some();
            tokio::select! {
                biased;
                Some(answer) = self.answers.next() => {
                    last_progress = Instant::now();
                    let number = answer.subject.rsplit('.').next().and_then(|last| last.parse::<u64>().ok());
                    match number.and_then(|number| Some((number, outstanding.remove(&number)?))) {
                        None => outcome.checks.doubled += 1,
                        Some((number, _)) if answer.payload != payload(number, bytes) => outcome.checks.wrong += 1,
                        Some((number, sent)) => {
                            let overtaken = newest.insert(number % turns, number).is_some_and(|newest| newest > number);
                            outcome.checks.right += u64::from(!(ordered && overtaken));
                            outcome.checks.wrong += u64::from(ordered && overtaken);
                            outcome.latencies_us.push(last_progress.duration_since(sent).as_secs_f64() * 1e6);
                        }
                    }
                }
                () = async {}, if may_send && pace.has_room(outstanding.len()) => {
                    outstanding.insert(self.next, Instant::now());
                    self.send(to_send.next(), bytes).await?;
                }
                _ = ticks.tick(), if may_send && matches!(pace, Pace::Rate(_)) => {
                    outstanding.insert(self.next, Instant::now());
                    self.send(to_send.next(), bytes).await?;
                    last_progress = Instant::now();
                }
                () = tokio::time::sleep_until((last_progress + PATIENCE).into()) => break,
            }
        }
        outcome.elapsed = last_progress.duration_since(start);
        outcome.checks.lost += u64::try_from(outstanding.len())?;
        Ok(outcome)
    }

    async fn send(&mut self, subject: Option<&String>, bytes: usize) -> Result<(), Error> {
        let Some(subject) = subject else { return Ok(()) };
        let reply = format!("{}.{}", self.inbox, self.next);
        self.client.publish_with_reply(subject.clone(), reply, payload(self.next, bytes)).await?;
        self.next += 1;
        Ok(())
    }

    /// Asks until somebody answers.
    ///
    /// # Errors
    /// Nobody does for too long.
    pub(crate) async fn until_answered(&mut self, subjects: &[String], patience: Duration) -> Result<(), Error> {
        let end = Instant::now() + patience;
        for subject in subjects {
            let asked = async || {
                let request = async_nats::Request::new().payload(Bytes::from_static(b"?")).timeout(Some(patience));
                self.client.send_request(subject.clone(), request).await
            };
            // Nobody listens yet: the server says so at once.
            while asked().await.is_err() {
                if Instant::now() > end {
                    return Err(format!("nobody answers on {subject}").into());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }
}

/// Bytes that belong to this request alone.
fn payload(number: u64, bytes: usize) -> Bytes {
    let mut text = format!("{number:016x}").into_bytes();
    text.resize(bytes.max(MIN_REQUEST_BYTES), b'a' + u8::try_from(number % 26).unwrap_or(0));
    text.into()
}

/// Sensors of one region, and whoever reads what comes of their readings.
pub(crate) struct Sensors {
    client: async_nats::Client,
    /// Readings go into the stream and are sent once the server confirms them.
    stream: Option<jetstream::Context>,
    region: String,
    results: Subscriber,
    alerts: Subscriber,
    next: u32,
}

impl Sensors {
    /// Listens for results and alerts of `region`.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) async fn new(connection: &Connection, region: &str, durable: bool) -> Result<Self, Error> {
        let client = connection.client().clone();
        let results = client.subscribe(format!("edge.result.{region}")).await?;
        let alerts = client.subscribe(format!("edge.alert.{region}")).await?;
        client.flush().await?;
        let stream = durable.then(|| connection.jetstream().clone());
        Ok(Self { client, stream, region: region.to_owned(), results, alerts, next: 0 })
    }

    /// Sends `count` readings and takes their results and alerts.
    ///
    /// # Errors
    /// The connection is closed, or the stream does not take a reading.
    pub(crate) async fn run(&mut self, count: u32, pace: Pace) -> Result<Outcome, Error> {
        let mut tally = Tally::default();
        let mut confirmations = FuturesUnordered::new();
        let end = self.next + count;
        let (start, mut last_progress) = (Instant::now(), Instant::now());
        let mut ticks = pace.ticks();
        while self.next < end || !tally.is_complete() || !confirmations.is_empty() {
            let may_send = self.next < end;
            let send = tokio::select! {
                biased;
                Some(result) = self.results.next() => {
                    last_progress = Instant::now();
                    tally.result(last_progress, &result.payload);
                    false
                }
                Some(alert) = self.alerts.next() => {
                    last_progress = Instant::now();
                    tally.alert(&alert.payload);
                    false
                }
                Some(confirmed) = confirmations.next() => confirmed?,
                () = async {}, if may_send && pace.has_room(tally.outstanding.len()) => true,
                _ = ticks.tick(), if may_send && matches!(pace, Pace::Rate(_)) => {
                    last_progress = Instant::now();
                    true
                }
                () = tokio::time::sleep_until((last_progress + PATIENCE).into()) => break,
            };
            if send {
                let (device, timestamp, body, level) = reading(self.next, &self.region);
                let (subject, payload) = (format!("edge.sensor.{}", self.region), serde_json::to_vec(&body)?);
                tally.sent(device, timestamp, level);
                match &self.stream {
                    None => self.client.publish(subject, payload.into()).await?,
                    Some(stream) => {
                        let confirmation = stream.publish(subject, payload.into()).await?;
                        confirmations.push(confirmation.into_future().map(|stored| stored.map(|_| false)));
                    }
                }
                self.next += 1;
            }
        }
        Ok(tally.outcome(last_progress.duration_since(start)))
    }
}

/// What a result or an alert says, as far as it can be checked.
#[derive(serde::Deserialize)]
struct Said {
    device_id: String,
    alert_level: String,
    processed_at: u64,
}

/// What is outstanding, and what was found. A reading is known by device and timestamp.
#[derive(Default)]
struct Tally {
    outstanding: BTreeMap<(String, u64), (Instant, &'static str)>,
    alerts: BTreeMap<(String, u64), &'static str>,
    outcome: Outcome,
}

impl Tally {
    fn sent(&mut self, device: String, timestamp: u64, level: &'static str) {
        if level != "normal" {
            self.alerts.insert((device.clone(), timestamp), level);
        }
        self.outstanding.insert((device, timestamp), (Instant::now(), level));
    }

    fn is_complete(&self) -> bool {
        self.outstanding.is_empty() && self.alerts.is_empty()
    }

    fn result(&mut self, arrived: Instant, payload: &[u8]) {
        let checks = &mut self.outcome.checks;
        let Ok(said) = serde_json::from_slice::<Said>(payload) else {
            checks.wrong += 1;
            return;
        };
        match self.outstanding.remove(&(said.device_id, said.processed_at)) {
            None => checks.doubled += 1,
            Some((_, level)) if level != said.alert_level => checks.wrong += 1,
            Some((sent, _)) => {
                checks.right += 1;
                self.outcome.latencies_us.push(arrived.duration_since(sent).as_secs_f64() * 1e6);
            }
        }
    }

    fn alert(&mut self, payload: &[u8]) {
        let checks = &mut self.outcome.checks;
        let Ok(said) = serde_json::from_slice::<Said>(payload) else {
            checks.wrong += 1;
            return;
        };
        match self.alerts.remove(&(said.device_id, said.processed_at)) {
            None => checks.doubled += 1,
            Some(level) if level != said.alert_level => checks.wrong += 1,
            Some(_) => checks.right += 1,
        }
    }

    fn outcome(mut self, elapsed: Duration) -> Outcome {
        let lost = self.outstanding.len().saturating_add(self.alerts.len());
        self.outcome.checks.lost += u64::try_from(lost).unwrap_or(u64::MAX);
        self.outcome.elapsed = elapsed;
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_is_found() {
        let said = |device: &str, at: u64, level: &str| {
            serde_json::to_vec(&serde_json::json!({"device_id": device, "alert_level": level, "processed_at": at})).unwrap()
        };
        let mut tally = Tally::default();
        for (at, level) in [(1, "normal"), (2, "critical"), (3, "normal"), (4, "warning")] {
            tally.sent("a".to_owned(), at, level);
        }
        tally.result(Instant::now(), &said("a", 1, "normal"));
        tally.result(Instant::now(), &said("a", 1, "normal"));
        tally.result(Instant::now(), &said("a", 2, "normal"));
        tally.result(Instant::now(), b"nonsense");
        tally.alert(&said("a", 2, "critical"));
        let outcome = tally.outcome(Duration::ZERO);
        assert_eq!(outcome.checks, Checks { right: 2, lost: 3, doubled: 1, wrong: 2 });
        assert_eq!(outcome.latencies_us.len(), 1);
    }

    #[test]
    fn requests_differ() {
        assert_eq!(payload(3, 128).len(), 128);
        assert_ne!(payload(3, 128), payload(4, 128));
        assert_eq!(payload(3, 0).len(), MIN_REQUEST_BYTES);
    }
}
