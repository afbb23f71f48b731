//! When a plan is followed: after the policies, and from the disk where the store does not answer.
//!
//! A host that was away may find a plan that a policy of the meantime forbids in part. So a plan waits until the policies
//! were read over the same connection, but not for ever: where they cannot be read, those that the host knows count. The plan
//! of last time, which the host has kept, is followed when the store has not given a newer one in that time.

use std::time::Duration;

use crate::timing::OFFLINE_START_AFTER;

/// Where a plan that is to be followed comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the store.
    Store,
    /// From the host's own disk.
    Disk,
}

/// Holds back a plan, `P`, until it may be followed.
#[derive(Debug)]
pub struct PlanGate<P> {
    /// Whether anybody may sign policies for this host.
    awaited: bool,
    started_at: Duration,
    connected_at: Option<Duration>,
    /// Whether the policies were read since then.
    read: bool,
    waiting: Option<(P, Origin)>,
}

impl<P> PlanGate<P> {
    /// At the start of a host that has `kept` a plan. Where nobody may sign policies no plan waits for them.
    pub fn new(awaited: bool, kept: Option<P>, now: Duration) -> Self {
        let waiting = kept.map(|plan| (plan, Origin::Disk));
        Self { awaited, started_at: now, connected_at: None, read: false, waiting }
    }

    /// The connection is there: what was read over another one says nothing of what came since.
    pub fn handle_connected(&mut self, now: Duration) {
        (self.connected_at, self.read) = (Some(now), false);
    }

    /// The connection has gone. A plan that waits is worth no more than one from the disk: it would be read again.
    pub fn handle_disconnected(&mut self) {
        (self.connected_at, self.read) = (None, false);
    }

    /// The policies were read. Without a connection that is news of a former one.
    pub fn handle_policies_read(&mut self) {
        self.read |= self.connected_at.is_some();
    }

    /// A plan from the store, in place of one that waits: the store's word counts more than what was kept.
    pub fn handle_plan(&mut self, plan: P) {
        self.waiting = Some((plan, Origin::Store));
    }

    /// The plan that is to be followed now.
    pub fn poll(&mut self, now: Duration) -> Option<(P, Origin)> {
        if self.poll_timeout()? <= now { self.waiting.take() } else { None }
    }

    /// When [`PlanGate::poll`] gives the plan that waits, whatever comes.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let (_, origin) = self.waiting.as_ref()?;
        let policies = self.connected_at.filter(|_| self.awaited && !self.read);
        let store = (*origin == Origin::Disk || self.connected_at.is_none()).then_some(self.started_at);
        let patience = |from: Option<Duration>| from.map_or(Duration::ZERO, |from| from.saturating_add(OFFLINE_START_AFTER));
        Some(patience(policies).max(patience(store)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);
    const MOMENT: Duration = Duration::from_millis(1);

    fn store<P>(plan: P) -> Option<(P, Origin)> {
        Some((plan, Origin::Store))
    }

    fn disk<P>(plan: P) -> Option<(P, Origin)> {
        Some((plan, Origin::Disk))
    }

    fn connected() -> PlanGate<u32> {
        let mut gate = PlanGate::new(true, None, START);
        gate.handle_connected(START);
        gate
    }

    #[test]
    fn a_plan_waits_for_the_policies() {
        let mut gate = connected();
        assert_eq!(gate.poll_timeout(), None);
        gate.handle_plan(1);
        assert_eq!((gate.poll(START), gate.poll_timeout()), (None, Some(START + OFFLINE_START_AFTER)));
        gate.handle_plan(2);
        gate.handle_policies_read();
        assert_eq!((gate.poll(START), gate.poll(START), gate.poll_timeout()), (store(2), None, None), "the newest one, once");
        gate.handle_plan(3);
        assert_eq!(gate.poll(START), store(3), "known is known");
    }

    #[test]
    fn where_they_cannot_be_read_it_waits_no_longer_than_a_host_without_a_network() {
        let mut gate = connected();
        gate.handle_plan(1);
        let end = START + OFFLINE_START_AFTER;
        assert_eq!((gate.poll(end - MOMENT), gate.poll(end)), (None, store(1)));
        gate.handle_plan(2);
        assert_eq!(gate.poll(end), store(2));
    }

    #[test]
    fn each_connection_begins_anew() {
        let mut gate = connected();
        gate.handle_policies_read();
        gate.handle_disconnected();
        // The answer to what was asked before.
        gate.handle_policies_read();
        let later = START + OFFLINE_START_AFTER * 2;
        gate.handle_connected(later);
        gate.handle_plan(1);
        assert_eq!((gate.poll(later), gate.poll_timeout()), (None, Some(later + OFFLINE_START_AFTER)));
        gate.handle_disconnected();
        assert_eq!(gate.poll(later), store(1), "it is followed for what it is worth");
    }

    #[test]
    fn nothing_waits_where_nobody_signs_policies() {
        let mut gate = PlanGate::new(false, None, START);
        gate.handle_connected(START);
        gate.handle_plan(1);
        assert_eq!(gate.poll(START), store(1));
    }

    #[test]
    fn without_a_store_the_plan_of_last_time_is_followed() {
        let mut gate = PlanGate::new(true, Some(1), START);
        let end = START + OFFLINE_START_AFTER;
        assert_eq!((gate.poll_timeout(), gate.poll(end - MOMENT), gate.poll(end), gate.poll(end)), (Some(end), None, disk(1), None));
        // Also over a connection, but not before the policies.
        for awaited in [true, false] {
            let mut gate = PlanGate::new(awaited, Some(1), START);
            gate.handle_connected(end - MOMENT);
            let until = if awaited { end - MOMENT + OFFLINE_START_AFTER } else { end };
            assert_eq!((gate.poll(until - MOMENT), gate.poll(until)), (None, disk(1)));
        }
    }

    #[test]
    fn what_the_store_says_counts_more_than_what_was_kept() {
        let mut gate = PlanGate::new(true, Some(1), START);
        gate.handle_connected(START);
        gate.handle_plan(2);
        gate.handle_disconnected();
        let end = START + OFFLINE_START_AFTER;
        assert_eq!((gate.poll(end - MOMENT), gate.poll(end), gate.poll(end)), (None, store(2), None));
    }
}
