//! An actor that fails through its own fault again and again takes no messages for a while: the shell around
//! [`Crashes`], shared by all inlets of an actor.
//!
//! **Invariant.** An actor that does not fail pays one look at a number for each message.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lattice_core::agent::crashes::Crashes;
use tokio::time::Instant;

use crate::runtime::InvokeError;

/// How one actor has fared lately.
#[derive(Debug)]
pub(crate) struct Supervision {
    started: Instant,
    /// Failures in a row, as reported.
    in_a_row: AtomicU32,
    rests: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    crashes: Crashes,
    until: Option<Instant>,
}

impl Supervision {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), in_a_row: AtomicU32::new(0), rests: AtomicBool::new(false), state: Mutex::default() })
    }

    /// Takes note of how a message went; how long the actor rests if it does from now on.
    pub(crate) fn note<T>(&self, outcome: &Result<T, InvokeError>) -> Option<Duration> {
        match outcome {
            Ok(_) if self.in_a_row.load(Ordering::Relaxed) == 0 => None,
            Ok(_) => {
                self.forget();
                None
            }
            Err(error) if is_own_fault(error) => {
                let now = Instant::now();
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let since = now.saturating_duration_since(self.started);
                let rest = state.crashes.handle_failure(since);
                self.in_a_row.store(state.crashes.count(since), Ordering::Relaxed);
                if let Some(rest) = rest {
                    state.until = Some(now + rest);
                    self.rests.store(true, Ordering::Relaxed);
                }
                rest
            }
            Err(_) => None,
        }
    }

    /// Starts anew, as after a success.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.crashes.handle_success();
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Until when the actor rests, if it does.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        if !self.rests.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.until = state.until.filter(|until| Instant::now() < *until);
        self.rests.store(state.until.is_some(), Ordering::Relaxed);
        state.until
    }

    /// Failures in a row.
    pub(crate) fn crashes(&self) -> u32 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.crashes.count(self.started.elapsed())
    }
}

/// Whether a failure is the actor's own: it broke, or did not come to an end.
fn is_own_fault(error: &InvokeError) -> bool {
    match error {
        InvokeError::Trap(_)
        | InvokeError::CpuLimit(_)
        | InvokeError::Deadline(_)
        | InvokeError::OutOfMemory(_)
        | InvokeError::Instantiate(_) => true,
        InvokeError::Guest(_)
        | InvokeError::Outage(_)
        | InvokeError::NoHandler(_)
        | InvokeError::Closed
        | InvokeError::NotStored(_)
        | InvokeError::Denied { .. } => false,
    }
}

/// Waits until a rest is over; for ever without one.
pub(crate) async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_actor_rests_after_failures_of_its_own() {
        let supervision = Supervision::new();
        let trap = || Err::<(), _>(InvokeError::Trap("x".to_owned()));
        for _ in 0..10 {
            assert_eq!(supervision.note(&Err::<(), _>(InvokeError::Guest("no".to_owned()))), None);
        }
        assert_eq!(supervision.crashes(), 0, "an answer is none");
        let rests: Vec<Option<u64>> = (0..5).map(|_| supervision.note(&trap()).map(|rest| rest.as_secs())).collect();
        assert_eq!(rests, [None, None, None, None, Some(1)]);
        let until = supervision.rests_until();
        assert!(until.is_some() && supervision.crashes() == 5);
        rested(until).await;
        assert_eq!(supervision.rests_until(), None);
        assert_eq!(supervision.note(&trap()), Some(Duration::from_secs(2)));
        supervision.note(&Ok(()));
        assert_eq!(supervision.crashes(), 0);
    }
}
