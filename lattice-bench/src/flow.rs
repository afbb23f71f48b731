//! A steady flow of readings into the stream, and who answers them: for rows in which hosts come and go meanwhile.
//!
//! **Invariants.** A reading counts as sent once the server has confirmed it. Results of a message that was handed out twice
//! come twice; that is no fault of an actor of class `shared`, so doubles are counted apart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lattice_nats::Connection;
use tokio::task::JoinHandle;

use crate::Error;
use crate::rounds::Checks;

/// Last token of the subjects of readings and results.
pub(crate) const TOKEN: &str = "flow";
/// Readings whose confirmation is outstanding at most; the rest of the pace is made up for later.
const OUTSTANDING: usize = 4_000;
/// For how long no result may come while some are missing: what a dead host held comes again within five seconds.
const LAST_RESULTS: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The flow. Dropped, it stops.
pub(crate) struct Flow {
    state: Arc<Mutex<State>>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct State {
    /// By number of the reading: whether it was confirmed, and how often its result came.
    readings: Vec<(bool, u32)>,
    stopping: bool,
    finished: bool,
    wrong: u64,
    last_node: Option<String>,
    watch: Option<Watch>,
}

/// What is watched for after a host has failed.
struct Watch {
    failed: String,
    since: Instant,
    last: Instant,
    longest: Duration,
    elsewhere: Option<Instant>,
}

/// What a watch has seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    /// From the failure to the first result of another host.
    pub(crate) first_elsewhere: Duration,
    /// Longest time without any result since the failure, as the one who waits for results sees it.
    pub(crate) longest: Duration,
}

impl Flow {
    /// Sends `rate` readings a second to [`TOKEN`] from now on.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) async fn start(connection: &Connection, rate: u32) -> Result<Self, Error> {
        let results = connection.client().subscribe(format!("edge.result.{TOKEN}")).await?;
        connection.client().flush().await?;
        let state = Arc::new(Mutex::new(State::default()));
        let sending = tokio::spawn(send(connection.jetstream().clone(), rate, state.clone()));
        let hearing = tokio::spawn(hear(results, state.clone()));
        Ok(Self { state, tasks: [sending, hearing] })
    }

    /// The node of the last result, waited for.
    ///
    /// # Errors
    /// None comes.
    pub(crate) async fn node(&self, patience: Duration) -> Result<String, Error> {
        self.until(patience, "a result", |state| state.last_node.clone()).await
    }

    /// From now on `failed` is taken for gone.
    pub(crate) fn watch(&self, failed: &str) {
        let now = Instant::now();
        let failed = failed.to_owned();
        self.lock().watch = Some(Watch { failed, since: now, last: now, longest: Duration::ZERO, elsewhere: None });
    }

    /// Waits for the first result of another host.
    ///
    /// # Errors
    /// None comes.
    pub(crate) async fn gap(&self, patience: Duration) -> Result<Gap, Error> {
        let seen = |state: &State| {
            let watch = state.watch.as_ref()?;
            Some(Gap { first_elsewhere: watch.elsewhere?.saturating_duration_since(watch.since), longest: watch.longest })
        };
        self.until(patience, "a result of another host", seen).await
    }

    /// Stops, waits for what is outstanding, and counts.
    ///
    /// # Errors
    /// The sender does not come to its end.
    pub(crate) async fn finish(self) -> Result<(Checks, u64), Error> {
        self.lock().stopping = true;
        self.until(LAST_RESULTS, "the last confirmation", |state| state.finished.then_some(())).await?;
        let lost = self.outlast().await;
        let state = self.lock();
        let right = state.readings.iter().filter(|(confirmed, results)| *confirmed && *results > 0).count();
        let again = state.readings.iter().map(|(_, results)| u64::from(results.saturating_sub(1))).sum();
        Ok((Checks { right: u64::try_from(right)?, lost, wrong: state.wrong, doubled: 0 }, again))
    }

    /// Waits for as long as missing results come. Returns how many never did.
    async fn outlast(&self) -> u64 {
        let mut missing = self.lock().missing();
        while missing > 0 {
            let fewer = |state: &State| Some(state.missing()).filter(|left| *left < missing);
            match self.until(LAST_RESULTS, "a result", fewer).await {
                Ok(left) => missing = left,
                Err(_) => break,
            }
        }
        missing
    }

    async fn until<T>(&self, patience: Duration, what: &str, look: impl Fn(&State) -> Option<T>) -> Result<T, Error> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(found) = look(&self.lock()) {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(format!("not within {} s: {what}", patience.as_secs()).into())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn missing(&self) -> u64 {
        let missing = self.readings.iter().filter(|(confirmed, results)| *confirmed && *results == 0).count();
        u64::try_from(missing).unwrap_or(u64::MAX)
    }

    fn take(&mut self, payload: &[u8], at: Instant) -> Option<()> {
        let mut words = std::str::from_utf8(payload).ok()?.split(' ');
        let (_device, number, node) = (words.next()?, words.next()?.parse::<usize>().ok()?, words.next()?);
        self.readings.get_mut(number)?.1 += 1;
        if self.last_node.as_deref() != Some(node) {
            self.last_node = Some(node.to_owned());
        }
        if let Some(watch) = &mut self.watch {
            watch.longest = watch.longest.max(at.saturating_duration_since(watch.last));
            watch.last = at;
            // What the failed host had sent before still arrives.
            if watch.failed != node {
                watch.elsewhere.get_or_insert(at);
            }
        }
        Some(())
    }
}

async fn hear(mut results: async_nats::Subscriber, state: Arc<Mutex<State>>) {
    while let Some(result) = results.next().await {
        let mut state = lock(&state);
        if state.take(&result.payload, Instant::now()).is_none() {
            state.wrong += 1;
        }
    }
}

async fn send(stream: async_nats::jetstream::Context, rate: u32, state: Arc<Mutex<State>>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1).checked_div(rate).unwrap_or(LOOK_AGAIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut confirmations: FuturesUnordered<BoxFuture<'static, (usize, bool)>> = FuturesUnordered::new();
    loop {
        let stopping = lock(&state).stopping;
        if stopping && confirmations.is_empty() {
            lock(&state).finished = true;
            return;
        }
        tokio::select! {
            Some((number, confirmed)) = confirmations.next() => {
                if let Some(reading) = lock(&state).readings.get_mut(number) {
                    reading.0 = confirmed;
                }
            }
            _ = ticks.tick(), if !stopping && confirmations.len() < OUTSTANDING => {
                let number = {
                    let mut state = lock(&state);
                    state.readings.push((false, 0));
                    state.readings.len() - 1
                };
                confirmations.push(Box::pin(confirm(stream.clone(), number)));
            }
        }
    }
}

/// Publishes a reading and says whether the stream has it.
async fn confirm(stream: async_nats::jetstream::Context, number: usize) -> (usize, bool) {
    match stream.publish(format!("edge.sensor.{TOKEN}"), format!("say flow {number}").into()).await {
        Ok(confirmation) => (number, confirmation.await.is_ok()),
        Err(_) => (number, false),
    }
}
