//! CPU time that the code of one actor takes, all calls together.
//!
//! The clock of a thread's CPU time costs a system call, which is too much for every poll of a call that takes microseconds.
//! So the time of each poll is taken by the wall, and at most once in [`SAMPLE_INTERVAL`] by the thread's clock as well: what
//! the sampled polls cost in truth tells how much of the wall's time was work. A poll that is longer than the interval is
//! always sampled, and so is every poll of an actor that has little to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// At least so long lies between the beginnings of two polls that are measured by the thread's clock.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// What an actor's calls have cost so far.
#[derive(Debug)]
pub(crate) struct Usage {
    born: Instant,
    thread_clock: bool,
    /// When the last sample began, in nanoseconds since `born`.
    sampled_at: AtomicU64,
    wall: AtomicU64,
    sampled_wall: AtomicU64,
    sampled_cpu: AtomicU64,
}

impl Default for Usage {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { born: Instant::now(), thread_clock: true, sampled_at: zero(), wall: zero(), sampled_wall: zero(), sampled_cpu: zero() }
    }
}

/// The thread's CPU time when a sampled poll began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(Duration);

/// Totals in nanoseconds; the difference of two of them is what a window cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTime {
    wall: u64,
    sampled_wall: u64,
    sampled_cpu: u64,
}

impl Usage {
    /// Nothing yet; `thread_clock` says whether polls are sampled by the thread's clock.
    pub(crate) fn new(thread_clock: bool) -> Self {
        Self { thread_clock, ..Self::default() }
    }

    /// A reading, if this poll is one to be sampled. It begins `since` nanoseconds after `start`.
    pub(crate) fn reading(&self, start: Instant, since: u64) -> Option<Reading> {
        if !self.thread_clock {
            return None;
        }
        let now = nanos(start.saturating_duration_since(self.born)).saturating_add(since);
        let last = self.sampled_at.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < nanos(SAMPLE_INTERVAL) {
            return None;
        }
        self.sampled_at.store(now.max(1), Ordering::Relaxed);
        Some(Reading(thread_time()))
    }

    /// Adds a poll that took `wall`, on the thread that took the reading.
    pub(crate) fn add(&self, wall: Duration, reading: Option<Reading>) {
        let wall = nanos(wall);
        self.wall.fetch_add(wall, Ordering::Relaxed);
        if let Some(Reading(before)) = reading {
            // The two clocks are not read at the same moment.
            let cpu = nanos(thread_time().saturating_sub(before)).min(wall);
            self.sampled_wall.fetch_add(wall, Ordering::Relaxed);
            self.sampled_cpu.fetch_add(cpu, Ordering::Relaxed);
        }
    }

    /// Adds a poll of which the thread's clock is known.
    pub(crate) fn add_cpu(&self, cpu: Duration) {
        let cpu = nanos(cpu);
        for sum in [&self.wall, &self.sampled_wall, &self.sampled_cpu] {
            sum.fetch_add(cpu, Ordering::Relaxed);
        }
    }

    pub(crate) fn cpu(&self) -> CpuTime {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        CpuTime { wall: load(&self.wall), sampled_wall: load(&self.sampled_wall), sampled_cpu: load(&self.sampled_cpu) }
    }
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            wall: self.wall.saturating_add(other.wall),
            sampled_wall: self.sampled_wall.saturating_add(other.sampled_wall),
            sampled_cpu: self.sampled_cpu.saturating_add(other.sampled_cpu),
        }
    }

    /// CPU time since `earlier`.
    pub fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.saturating_sub(earlier.wall);
        let (sampled, cpu) = (self.sampled_wall.saturating_sub(earlier.sampled_wall), self.sampled_cpu.saturating_sub(earlier.sampled_cpu));
        if sampled == 0 {
            return Duration::from_nanos(wall);
        }
        let scaled = u128::from(wall).saturating_mul(u128::from(cpu)) / u128::from(sampled);
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)).saturating_add(Duration::from_nanos(part(time.tv_nsec)))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_sleep_within_a_poll_is_not() {
        let usage = Usage::default();
        let start = Instant::now();
        let reading = usage.reading(start, 0);
        assert!(reading.is_some(), "the first poll is sampled");
        while thread_time().saturating_sub(reading.unwrap().0) < Duration::from_millis(20) {}
        std::thread::sleep(Duration::from_millis(60));
        usage.add(start.elapsed(), reading);
        let cpu = usage.cpu().since(CpuTime::default());
        assert!((Duration::from_millis(20)..Duration::from_millis(60)).contains(&cpu), "{cpu:?}");
    }

    #[test]
    fn what_is_not_sampled_is_scaled() {
        let usage = Usage::default();
        let start = Instant::now();
        assert!(usage.reading(start, 1).is_some());
        assert!(usage.reading(start, 2).is_none(), "not twice in the interval");
        assert!(usage.reading(start, 1 + nanos(SAMPLE_INTERVAL)).is_some());
        let at = |wall, sampled_wall, sampled_cpu| CpuTime { wall, sampled_wall, sampled_cpu };
        assert_eq!(at(1100, 200, 150).since(at(100, 100, 100)), Duration::from_nanos(500));
        assert_eq!(at(1100, 100, 100).since(at(100, 100, 100)), Duration::from_nanos(1000));
        assert_eq!(at(0, 0, 0).since(at(100, 100, 100)), Duration::ZERO, "after a restart of the count");
        assert_eq!(at(1, 2, 3).plus(at(4, 5, 6)), at(5, 7, 9));
    }
}
