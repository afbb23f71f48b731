//! Policies before the plan: a host complies before it follows.
//!
//! A host that was away may find a plan that a policy of the meantime forbids in part. So a plan waits until the policies
//! were read over the same connection, but not for ever: where they cannot be read, those that the host knows count.

use std::time::Duration;

use crate::timing::OFFLINE_START_AFTER;

/// Holds back a plan, `P`, while the policies are not known.
#[derive(Debug)]
pub struct PlanGate<P> {
    /// Whether anybody may sign policies for this host.
    awaited: bool,
    connected_at: Option<Duration>,
    /// Whether the policies were read since then.
    read: bool,
    waiting: Option<P>,
}

impl<P> PlanGate<P> {
    /// Without a connection. Where nobody may sign policies no plan waits for them.
    pub fn new(awaited: bool) -> Self {
        Self { awaited, connected_at: None, read: false, waiting: None }
    }

    /// The connection is there: what was read over another one says nothing of what came since.
    pub fn handle_connected(&mut self, now: Duration) {
        (self.connected_at, self.read) = (Some(now), false);
    }

    /// The connection has gone. The plan that waited, if there is one: what the host has kept counts more, since this one would
    /// be read again.
    pub fn handle_disconnected(&mut self) -> Option<P> {
        (self.connected_at, self.read) = (None, false);
        self.waiting.take()
    }

    /// The policies were read. Without a connection that is news of a former one.
    pub fn handle_policies_read(&mut self) {
        self.read |= self.connected_at.is_some();
    }

    /// A plan from the store, in place of one that waits; given back if it need not wait.
    pub fn handle_plan(&mut self, plan: P, now: Duration) -> Option<P> {
        self.waiting = Some(plan);
        self.poll(now)
    }

    /// The plan that waited and need not wait any more.
    pub fn poll(&mut self, now: Duration) -> Option<P> {
        let waits = self.waits_until().is_some_and(|until| now < until);
        if waits { None } else { self.waiting.take() }
    }

    /// When [`PlanGate::poll`] gives the plan that waits, whatever comes.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.waiting.as_ref().and(self.waits_until())
    }

    fn waits_until(&self) -> Option<Duration> {
        let from = self.connected_at.filter(|_| self.awaited && !self.read)?;
        Some(from.saturating_add(OFFLINE_START_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn connected() -> PlanGate<u32> {
        let mut gate = PlanGate::new(true);
        gate.handle_connected(NOW);
        gate
    }

    #[test]
    fn a_plan_waits_for_the_policies() {
        let mut gate = connected();
        assert_eq!((gate.handle_plan(1, NOW), gate.poll_timeout()), (None, Some(NOW + OFFLINE_START_AFTER)));
        assert_eq!(gate.handle_plan(2, NOW), None, "the newest one");
        gate.handle_policies_read();
        assert_eq!((gate.poll(NOW), gate.poll(NOW), gate.poll_timeout()), (Some(2), None, None));
        assert_eq!(gate.handle_plan(3, NOW), Some(3), "known is known");
    }

    #[test]
    fn where_they_cannot_be_read_it_waits_no_longer_than_a_host_without_a_network() {
        let mut gate = connected();
        assert_eq!(gate.handle_plan(1, NOW), None);
        let end = NOW + OFFLINE_START_AFTER;
        assert_eq!((gate.poll(end - Duration::from_millis(1)), gate.poll(end)), (None, Some(1)));
        assert_eq!(gate.handle_plan(2, end), Some(2));
    }

    #[test]
    fn each_connection_begins_anew() {
        let mut gate = connected();
        gate.handle_policies_read();
        assert_eq!(gate.handle_disconnected(), None);
        // The answer to what was asked before.
        gate.handle_policies_read();
        gate.handle_connected(NOW);
        assert_eq!(gate.handle_plan(1, NOW), None);
        assert_eq!((gate.handle_disconnected(), gate.poll_timeout()), (Some(1), None), "it is handed out for what it is worth");
        assert_eq!(gate.poll(NOW), None);
    }

    #[test]
    fn nothing_waits_where_nobody_signs_policies_or_nobody_can_be_asked() {
        let mut gate = PlanGate::new(false);
        gate.handle_connected(NOW);
        assert_eq!(gate.handle_plan(1, NOW), Some(1));
        assert_eq!(PlanGate::new(true).handle_plan(1, NOW), Some(1));
    }
}
