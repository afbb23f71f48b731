//! The replica's time: it passes with the heartbeats of its own host.
//!
//! A replica is driven by messages alone. Where a deadline is near it asks its own host for a heartbeat at that time, which
//! comes through the same queue as everybody else's: whatever waited there was heard before.
//!
//! **Invariants.** Whoever was busy for long hears what has come in meanwhile before anybody else is judged. At most one
//! heartbeat is asked for at a time, unless an earlier one is needed; none for a time that one has come for. What stays due,
//! because it cannot be done, asks no more often than each [`MIN_GAP_MS`].

use crate::id::HostId;
use crate::scheduler::Millis;

/// Shortest time from one heartbeat of the own host to the next that is asked for.
const MIN_GAP_MS: Millis = 10;
/// For so long after a heartbeat of the own host anybody is judged by what was heard before it.
const FRESH_MS: Millis = 100;

/// The own host's heartbeats.
#[derive(Debug)]
pub(super) struct Ticks {
    own: Option<HostId>,
    /// When the last one came.
    at: Millis,
    /// When one that was asked for should come.
    asked: Option<Millis>,
}

impl Ticks {
    pub(super) fn new(now: Millis) -> Self {
        Self { own: None, at: now, asked: None }
    }

    /// A heartbeat of the own host.
    pub(super) fn handle_heartbeat(&mut self, own: &HostId, now: Millis) {
        if self.own.as_ref() != Some(own) {
            self.own = Some(own.clone());
        }
        // The host keeps one time only: who else asked it for an earlier one has taken the place of this.
        (self.at, self.asked) = (now, None);
    }

    /// The time up to which everything was heard, for whoever has a host of its own; none if that is too long ago.
    pub(super) fn heard_until(&self, now: Millis) -> Option<Millis> {
        if self.own.is_none() {
            return Some(now);
        }
        (now.saturating_sub(self.at) <= FRESH_MS).then_some(self.at)
    }

    /// The own host, and in how many milliseconds it should send a heartbeat, if something is due in `left` and no heartbeat
    /// is on its way by then. One that has not come after `patience` more is asked for again.
    pub(super) fn poll(&mut self, left: Millis, patience: Millis, now: Millis) -> Option<(HostId, Millis)> {
        let own = self.own.as_ref()?;
        let due = now.saturating_add(left);
        if due <= self.at {
            return None;
        }
        let wanted = due.max(self.at.saturating_add(MIN_GAP_MS));
        if self.asked.is_some_and(|asked| asked <= wanted && now < asked.saturating_add(patience)) {
            return None;
        }
        let after = wanted.saturating_sub(now);
        self.asked = Some(now.saturating_add(after));
        Some((own.clone(), after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::host_id;

    fn ticks() -> Ticks {
        let mut ticks = Ticks::new(0);
        assert_eq!(ticks.poll(50, 500, 0), None, "nobody to ask is known");
        assert_eq!(ticks.heard_until(7), Some(7));
        ticks.handle_heartbeat(&host_id(0), 1_000);
        assert_eq!(ticks.heard_until(1_100), Some(1_000));
        assert_eq!(ticks.heard_until(1_101), None, "much may wait by now");
        ticks
    }

    #[test]
    fn one_for_each_deadline() {
        let mut ticks = ticks();
        assert_eq!(ticks.poll(100, 500, 1_000), Some((host_id(0), 100)));
        assert_eq!(ticks.poll(60, 500, 1_040), None, "it is on its way");
        ticks.handle_heartbeat(&host_id(0), 1_050);
        assert_eq!(ticks.poll(50, 500, 1_050), Some((host_id(0), 50)), "one in between is not it, and may have taken its place");
        assert_eq!(ticks.poll(20, 500, 1_060), Some((host_id(0), 20)), "something is due earlier");
        ticks.handle_heartbeat(&host_id(0), 1_081);
        assert_eq!(ticks.poll(19, 500, 1_081), Some((host_id(0), 19)));
        ticks.handle_heartbeat(&host_id(0), 1_101);
        assert_eq!(ticks.poll(0, 500, 1_101), None, "it has come for all that is due by now");
    }

    #[test]
    fn a_lost_one_is_asked_for_again() {
        let mut ticks = ticks();
        assert_eq!(ticks.poll(100, 500, 1_000), Some((host_id(0), 100)));
        assert_eq!(ticks.poll(0, 500, 1_599), None);
        assert_eq!(ticks.poll(0, 500, 1_600), Some((host_id(0), 0)));
    }

    #[test]
    fn what_stays_due_asks_now_and_then() {
        let mut ticks = ticks();
        let mut asked = Vec::new();
        for now in 1_001..1_041 {
            asked.extend(ticks.poll(0, 500, now).map(|(_, after)| now + after));
            if asked.last() == Some(&now) {
                ticks.handle_heartbeat(&host_id(0), now);
            }
        }
        assert_eq!(asked, [1_010, 1_020, 1_030, 1_040]);
    }
}
