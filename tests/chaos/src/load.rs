//! Sensors: readings into the stream at a steady rate, and a record of which of them the server has acknowledged.
//!
//! **Invariants.** A reading counts as acknowledged only after the stream confirmed it. One of which nothing was heard is
//! published again with the same message id; if it never is confirmed it may be applied or not, both are right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use e2e::until;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How long a confirmation is waited for before the same reading is sent again.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts after a refusal.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long readings are tried again after the load has stopped.
const LAST_TRIES: Duration = Duration::from_secs(20);
/// Readings that wait for a confirmation at once; while there are so many no new ones are made.
const OUTSTANDING: usize = 2_000;
/// Devices of each stream.
const DEVICES: u64 = 4;

/// Where a reading goes, and what shall be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// An actor of class `shared` on several hosts.
    Shared,
    /// The first slot of a `fenced` actor.
    Fenced0,
    /// The second one.
    Fenced1,
    /// A `strict` actor.
    Strict,
    /// An actor on a host that has nothing to do with the fault.
    Bystander,
}

impl Stream {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Shared, Self::Fenced0, Self::Fenced1, Self::Strict, Self::Bystander];

    /// Last token of its subject.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Fenced0 => "f0",
            Self::Fenced1 => "f1",
            Self::Strict => "strict",
            Self::Bystander => "by",
        }
    }

    /// What `ledger` shall do.
    fn verb(self) -> &'static str {
        match self {
            Self::Shared | Self::Bystander => "set",
            Self::Fenced0 | Self::Fenced1 => "append",
            Self::Strict => "tick",
        }
    }

    /// Its share of the load in thousandths. A `tick` takes a second, so there are few.
    fn share(self) -> u64 {
        match self {
            Self::Shared => 380,
            Self::Fenced0 | Self::Fenced1 | Self::Bystander => 200,
            Self::Strict => 20,
        }
    }

    /// The slot of the fenced actor, if it is one.
    pub(crate) fn slot(self) -> Option<u32> {
        match self {
            Self::Fenced0 => Some(0),
            Self::Fenced1 => Some(1),
            Self::Shared | Self::Strict | Self::Bystander => None,
        }
    }
}

/// A reading: device and number.
pub(crate) type Id = (String, u64);

/// What was acknowledged, by stream.
pub(crate) type Acknowledged = BTreeMap<Stream, BTreeSet<Id>>;

/// Sensors at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    begun: Instant,
}

struct Shared {
    jetstream: jetstream::Context,
    room: Arc<Semaphore>,
    stopping: AtomicBool,
    given_up: AtomicBool,
    acknowledged: Mutex<Acknowledged>,
}

impl Load {
    /// Begins to send `rate` readings a second.
    pub(crate) fn start(runtime: &Handle, client: async_nats::Client, rate: u32) -> Self {
        let _guard = runtime.enter();
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(CONFIRMED_WITHIN);
        let shared = Arc::new(Shared {
            jetstream,
            room: Arc::new(Semaphore::new(OUTSTANDING)),
            stopping: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            acknowledged: Mutex::default(),
        });
        runtime.spawn(shared.clone().publish(rate));
        Self { shared, begun: Instant::now() }
    }

    /// When it began.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// What has been acknowledged so far.
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        self.shared.lock().clone()
    }

    /// Sends nothing new and waits until every reading is confirmed or given up.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let end = Instant::now() + LAST_TRIES;
        until("every reading is confirmed or given up", &mut || {
            if Instant::now() > end {
                self.shared.given_up.store(true, Ordering::Release);
            }
            (self.shared.room.available_permits() == OUTSTANDING).then_some(())
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(self: Arc<Self>, rate: u32) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut credit: BTreeMap<Stream, u64> = BTreeMap::new();
        let mut numbers: BTreeMap<Stream, u64> = BTreeMap::new();
        while !self.stopping.load(Ordering::Acquire) {
            ticks.tick().await;
            let Ok(room) = self.room.clone().try_acquire_owned() else { continue };
            for stream in Stream::ALL {
                *credit.entry(stream).or_default() += stream.share();
            }
            // Whoever has waited longest for his share.
            let Some((stream, credit)) = credit.iter_mut().max_by_key(|(_, credit)| **credit) else { continue };
            *credit = credit.saturating_sub(1_000);
            let number = numbers.entry(*stream).or_default();
            *number += 1;
            let reading = (*stream, *number);
            let this = self.clone();
            tokio::spawn(async move {
                this.confirm(reading).await;
                drop(room);
            });
        }
    }

    async fn confirm(&self, (stream, number): (Stream, u64)) {
        let token = stream.token();
        let device = format!("{token}-{}", number % DEVICES);
        let payload = format!("{} {device} {number}", stream.verb());
        while !self.given_up.load(Ordering::Acquire) {
            let publish =
                jetstream::message::PublishMessage::build().message_id(format!("{device}.{number}")).payload(payload.clone().into());
            let confirmed = async { self.jetstream.send_publish(format!("edge.sensor.{token}"), publish).await?.await };
            if matches!(tokio::time::timeout(CONFIRMED_WITHIN, confirmed).await, Ok(Ok(_))) {
                self.lock().entry(stream).or_default().insert((device, number));
                return;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}
