//! Guest CPU time of one call.
//!
//! A future is measured while it is polled: then the guest runs, or a host function that does not wait. Time between two
//! polls belongs to whoever the guest waits for and is not counted. The clock on the wall is good enough where polls are
//! short, and costs no system call; threads of the lane, which stand behind others, are asked for their own CPU time. A
//! guest that does not give way is interrupted by the epoch ([`super::engine::Ticker`]) and asks the same meter whether it
//! may go on. What a call cost is added to the actor's [`Usage`], too.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::engine::EPOCH_TICK;
use super::lane;
use super::usage::{Reading, Usage};

/// Longest a single poll can have kept the guest running, epochs being what they are. The rest of a longer poll is time in
/// which the thread did not run, and must not be held against the guest.
const LONGEST_SLICE: Duration = Duration::from_millis(2 * EPOCH_TICK.as_millis() as u64);

/// A guest that has run for less in this poll came back from waiting and need not give way.
const SHORT_SLICE: Duration = Duration::from_millis(EPOCH_TICK.as_millis() as u64 / 2);

/// The budget of one call, shared between the future that measures and the interrupt that asks.
#[derive(Debug)]
pub(crate) struct Meter {
    born: Instant,
    budget: Duration,
    /// Nanoseconds of finished polls.
    spent: AtomicU64,
    /// Start of the current poll, as [`Meter::now`] tells it.
    polled_at: AtomicU64,
    /// What all calls of the actor cost.
    usage: Arc<Usage>,
}

/// What an interrupted guest may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on at once.
    Continue,
    /// Let others run first.
    GiveWay,
    /// End: the budget is used up.
    Stop,
}

/// The guest has used up its CPU time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("CPU limit reached: more than {} ms", .0.as_millis())]
pub(crate) struct CpuExhausted(pub(crate) Duration);

impl Meter {
    pub(crate) fn new(budget: Duration, usage: Arc<Usage>) -> Arc<Self> {
        Arc::new(Self { born: Instant::now(), budget, spent: AtomicU64::new(0), polled_at: AtomicU64::new(0), usage })
    }

    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Guest time until now.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// To be asked from within a poll.
    pub(crate) fn judge(&self) -> Verdict {
        let slice = self.slice();
        if self.spent() + slice >= self.budget {
            Verdict::Stop
        } else if slice < SHORT_SLICE {
            Verdict::Continue
        } else {
            Verdict::GiveWay
        }
    }

    fn slice(&self) -> Duration {
        self.since_poll().min(LONGEST_SLICE)
    }

    fn since_poll(&self) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(self.polled_at.load(Ordering::Relaxed)))
    }

    /// Nanoseconds since some moment; the same for as long as a poll lasts.
    fn now(&self) -> u64 {
        let time = if lane::is_here() { lane::thread_time() } else { self.born.elapsed() };
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }

    fn poll_begins(&self) -> Option<Reading> {
        let now = self.now();
        self.polled_at.store(now, Ordering::Relaxed);
        // There the time is CPU time already.
        if lane::is_here() { None } else { self.usage.reading(self.born, now) }
    }

    fn poll_ends(&self, reading: Option<Reading>) {
        let wall = self.since_poll();
        let slice = u64::try_from(wall.min(LONGEST_SLICE).as_nanos()).unwrap_or(u64::MAX);
        self.spent.fetch_add(slice, Ordering::Relaxed);
        if lane::is_here() {
            self.usage.add_cpu(wall);
        } else {
            self.usage.add(wall, reading);
        }
    }

    /// Runs `future` and counts what it costs.
    pub(crate) async fn measure<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            let reading = self.poll_begins();
            let polled = future.as_mut().poll(context);
            self.poll_ends(reading);
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {}
    }

    #[test]
    fn waiting_is_free() {
        let budget = Duration::from_millis(100);
        let meter = Meter::new(budget, Arc::default());
        meter.poll_begins();
        meter.poll_ends(None);
        spin(2 * budget);
        meter.poll_begins();
        // Not `Continue` for certain: a busy machine may hold this thread up right here, for a slice at most.
        assert_ne!(meter.judge(), Verdict::Stop);
        meter.poll_ends(None);
        assert!(meter.spent() < budget, "{:?}", meter.spent());
    }

    #[test]
    fn working_is_not() {
        let meter = Meter::new(Duration::from_millis(30), Arc::default());
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Verdict::Stop) {
            meter.poll_begins();
            spin(EPOCH_TICK);
            verdicts.push(meter.judge());
            meter.poll_ends(None);
        }
        assert!(verdicts.len() <= 3, "{verdicts:?}");
        assert!(verdicts.iter().rev().skip(1).all(|verdict| *verdict == Verdict::GiveWay));
    }

    #[test]
    fn a_thread_that_did_not_run_costs_the_guest_no_more_than_a_slice() {
        let meter = Meter::new(Duration::from_secs(1), Arc::default());
        meter.poll_begins();
        spin(3 * LONGEST_SLICE);
        meter.poll_ends(None);
        assert_eq!(meter.spent(), LONGEST_SLICE);
    }
}
