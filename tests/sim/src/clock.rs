//! Time: the world's own, and what hosts take for it.

use std::time::Duration;

/// Milliseconds of the world since it began.
pub type Millis = u64;

/// Least and most per-mille of the true rate at which a host's clock runs.
pub const RATES: (u64, u64) = (950, 1050);

/// A host's clocks. The monotonic one counts through pauses (`CLOCK_BOOTTIME`) and has a rate of its own; the one for people
/// also jumps.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    rate: u64,
    wall_offset: i64,
}

impl Clock {
    /// A clock at `rate` per-mille of the true rate.
    pub fn new(rate: u64) -> Self {
        Self { rate, wall_offset: 1_700_000_000_000 }
    }

    /// What the monotonic clock shows.
    pub fn now(&self, at: Millis) -> Duration {
        Duration::from_millis(self.now_ms(at))
    }

    /// The same in milliseconds.
    pub fn now_ms(&self, at: Millis) -> u64 {
        at * self.rate / 1000
    }

    /// First moment at which the monotonic clock shows `local` or later.
    pub fn when(&self, local: Duration) -> Millis {
        let local = u64::try_from(local.as_millis()).unwrap_or(u64::MAX / 2000);
        (local * 1000).div_ceil(self.rate)
    }

    /// What people see.
    pub fn wall_ms(&self, at: Millis) -> u64 {
        u64::try_from(self.wall_offset + at as i64).unwrap_or(0)
    }

    /// The clock for people is set; nothing may depend on it.
    pub fn jump(&mut self, by: i64) {
        self.wall_offset += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_moment() {
        for rate in [950, 1000, 1050] {
            let clock = Clock::new(rate);
            for local in [0, 1, 17, 999, 13_000] {
                let at = clock.when(Duration::from_millis(local));
                assert!(clock.now_ms(at) >= local && (at == 0 || clock.now_ms(at - 1) < local), "{rate} {local}");
            }
        }
    }
}
