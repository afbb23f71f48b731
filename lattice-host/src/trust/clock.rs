//! The time that the validity of claims and policies is judged by: the shell around [`lattice_core::trust::clock`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lattice_core::trust::clock::{Reading, Time};

use crate::clock;

/// No build of this program is older: 2025-01-01, in seconds since 1970.
const NEVER_BEFORE_S: u64 = 1_735_689_600;

/// When this program was built, as whoever built it has said, in seconds since 1970. Some builds say 1970 or 1980.
fn built_s(said: Option<&str>) -> u64 {
    said.and_then(|text| text.parse().ok()).unwrap_or(NEVER_BEFORE_S).max(NEVER_BEFORE_S)
}

/// Shared by whoever judges.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The machine's clock, in seconds since 1970.
    wall: fn() -> u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A time that has passed, and when that was known.
    floor: (u64, Instant),
    /// What the server's clock said, and when.
    server: Option<(u64, Instant)>,
}

impl Clock {
    /// The machine's clock, held against a time that is known to have passed.
    pub(crate) fn new(floor_s: u64) -> Self {
        Self::reading(|| clock::now_ms() / 1000, floor_s)
    }

    /// The same with another clock.
    pub(crate) fn reading(wall: fn() -> u64, floor_s: u64) -> Self {
        Self { wall, state: Mutex::new(State { floor: (floor_s, Instant::now()), server: None }) }
    }

    /// The time, as far as it can be relied on.
    pub(crate) fn now(&self) -> Time {
        Time::of(&self.lock().look((self.wall)()).0)
    }

    /// Takes note of what the server's clock says.
    pub(crate) fn hear_server(&self, now_s: u64) {
        self.lock().server = Some((now_s, Instant::now()));
    }

    /// Raises the floor by what has passed, and to the time at which something was signed that has been verified. Returns it.
    pub(crate) fn advance(&self, signed_s: Option<u64>) -> u64 {
        // Held from the look on, so that nobody raises it in between.
        let mut state = self.lock();
        let (reading, passed) = state.look((self.wall)());
        // What has passed is in the reading already.
        let floor = reading.next_floor(0, signed_s);
        state.floor = (floor, state.floor.1.checked_add(passed).unwrap_or(state.floor.1));
        floor
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is known of the time, and how long ago the floor was.
    fn look(&self, wall_s: u64) -> (Reading, Duration) {
        let now = Instant::now();
        let since = |at: Instant| now.saturating_duration_since(at);
        let later = |(at_s, at): (u64, Instant)| at_s.saturating_add(since(at).as_secs());
        let passed = Duration::from_secs(since(self.floor.1).as_secs());
        let built_s = built_s(option_env!("SOURCE_DATE_EPOCH"));
        (Reading { wall_s, built_s, floor_s: later(self.floor), server_s: self.server.map(later) }, passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::trust::clock::Standing;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn a_clock_that_is_years_behind() {
        let clock = Clock::reading(|| 0, NOW);
        let time = clock.now();
        assert_eq!((time.exact, time.clock), (false, Standing::Behind));
        assert!((NOW..NOW + 5).contains(&time.now_s));
        clock.hear_server(NOW + 1000);
        assert!(clock.now().exact && clock.now().now_s >= NOW + 1000);
        // What the server says is no proof for a clock that is far from it: the floor stays.
        assert!(clock.advance(None) < NOW + 5);
    }

    #[test]
    fn a_clock_that_is_years_ahead() {
        const AHEAD: u64 = NOW + 10 * 365 * 86_400;
        let clock = Clock::reading(|| AHEAD, NOW);
        assert_eq!(clock.now().now_s, AHEAD, "nobody says otherwise");
        clock.hear_server(NOW + 60);
        let time = clock.now();
        assert_eq!((time.exact, time.clock), (true, Standing::Apart));
        assert!(time.now_s < NOW + 100);
        assert!(clock.advance(None) < NOW + 100, "the floor never follows the machine's clock");
    }

    #[test]
    fn no_build_is_older_than_the_program() {
        assert_eq!(built_s(None), NEVER_BEFORE_S);
        assert_eq!(built_s(Some("315532800")), NEVER_BEFORE_S, "1980");
        assert_eq!(built_s(Some("yesterday")), NEVER_BEFORE_S);
        assert_eq!(built_s(Some("1795000000")), NOW);
    }

    #[test]
    fn the_floor_rises_with_what_was_verified() {
        let clock = Clock::reading(|| NOW, NOW - 1000);
        assert_eq!(clock.advance(Some(NOW - 10)), NOW - 10);
        assert_eq!(clock.advance(Some(NOW - 500)), NOW - 10, "it never falls");
    }
    #[test]
    fn time_goes_on_since_it_was_said() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let clock = Clock::reading(|| 0, NOW);
        clock.lock().floor.1 = ago(10);
        assert!(clock.now().now_s >= NOW + 10, "as long as the host runs");
        clock.hear_server(NOW + 1000);
        clock.lock().server.as_mut().unwrap().1 = ago(20);
        assert!(clock.now().now_s >= NOW + 1020, "since the server said it");
    }
}
