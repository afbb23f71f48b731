//! Failovers of this replica's time: those under way, and how long they took.

use std::collections::{BTreeMap, VecDeque};

use super::course::{Course, Moved};
use super::stored::Stored;
use crate::id::{HostId, Incarnation};
use crate::inventory::Inventory;
use crate::liveness::HostView;
use crate::plan::{self, Plan};
use crate::scheduler::Millis;
use crate::wire::failover::Failover as Record;
use crate::wire::report::HostReport;
use crate::wire::verdict::{Standing, Verdict};

/// Measured times of which the median is what the next failover is expected to take.
const MEASURED: usize = 20;
/// Failovers that are followed at the same time; of more only the verdicts are kept.
const MAX_RUNNING: usize = 256;

/// Failovers under way, and what was measured.
#[derive(Debug, Default)]
pub(super) struct History {
    running: BTreeMap<HostId, Course>,
    /// The newest verdict of each host that was taken for gone.
    dead: BTreeMap<HostId, Incarnation>,
    /// Whether the verdicts were read once: those that were there before are not news.
    primed: bool,
    /// The host about which this replica has just stored a verdict.
    won: Option<HostId>,
    measured: VecDeque<u64>,
    total: u64,
    planned_at: Option<Millis>,
}

impl History {
    /// The verdict about to be noted was stored by this replica.
    pub(super) fn handle_won(&mut self, host: &HostId) {
        self.won = Some(host.clone());
    }

    /// All verdicts were read: from now on another one is news.
    pub(super) fn prime(&mut self) {
        self.primed = true;
    }

    /// A verdict as it is stored, about a host that stands like this here; whether the host was taken for gone by it just now.
    pub(super) fn handle_verdict(
        &mut self,
        verdict: &Verdict,
        view: Option<HostView<'_>>,
        stored: &Stored,
        reports: &BTreeMap<HostId, HostReport>,
        now: Millis,
    ) -> bool {
        let mine = self.won.take().as_ref() == Some(&verdict.host);
        if verdict.standing != Standing::Dead {
            self.dead.remove(&verdict.host);
            return false;
        }
        if self.dead.insert(verdict.host.clone(), verdict.incarnation.clone()).as_ref() == Some(&verdict.incarnation) || !self.primed {
            return false;
        }
        self.total = self.total.saturating_add(1);
        if self.running.len() < MAX_RUNNING || self.running.contains_key(&verdict.host) {
            let noticed = view.as_ref().and_then(|view| view.noticed).unwrap_or(now);
            let silent_ms = view.map_or(0, |view| noticed.saturating_sub(view.heard));
            let course = Course::new(verdict, noticed, silent_ms, mine, &stored.plan, reports, now);
            self.running.insert(verdict.host.clone(), course);
        }
        true
    }

    /// An assignment was committed.
    pub(super) fn handle_planned(&mut self, now: Millis) {
        self.planned_at.get_or_insert(now);
    }

    /// The plan as it stands now; what has moved since the last one, by each failover.
    pub(super) fn handle_plan(
        &mut self,
        stored: &Stored,
        reports: &BTreeMap<HostId, HostReport>,
        estimate: u64,
        now: Millis,
    ) -> Vec<Moved> {
        let at = self.planned_at.take().unwrap_or(now);
        self.running.values_mut().flat_map(|course| course.handle_plan(stored, reports, estimate, at)).collect()
    }

    /// A heartbeat, of a host that may have taken work.
    pub(super) fn handle_heartbeat(&mut self, report: &HostReport, now: Millis) {
        for course in self.running.values_mut() {
            if let Some(took) = course.handle_heartbeat(report, now) {
                self.measured.push_back(took);
                if self.measured.len() > MEASURED {
                    self.measured.pop_front();
                }
            }
        }
    }

    /// What was left behind by a failover of this replica, with the reasons; said once.
    pub(super) fn poll_left(&mut self, stored: &Stored, live: impl Fn() -> Vec<HostReport>, now: Millis) -> Option<Record> {
        let course = self.running.values_mut().find(|course| course.wants_reasons(now))?;
        if !course.holds_work(&stored.plan) {
            course.handle_reasons(None);
            return None;
        }
        let inventory = Inventory::new(live(), stored.plan.assignments.values());
        let plan: Plan = plan::plan(&stored.desired, stored.desired_revision, &inventory, &stored.verdicts, &stored.plan);
        course.handle_reasons(Some((&plan, &stored.plan)));
        let record = course.record();
        (!record.left_behind.is_empty()).then(|| record.clone())
    }

    /// A failover of this replica that has come further and is to be kept. Those that are over are forgotten here.
    pub(super) fn poll_record(&mut self, now: Millis) -> Option<Record> {
        let record = self.running.values_mut().find_map(Course::poll_record);
        if record.is_none() {
            self.running.retain(|_, course| !course.is_over(now));
        }
        record
    }

    /// Whether anything is under way.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Record> {
        self.running.values().map(Course::record)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Median of what was measured lately.
    pub(super) fn median_ms(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.measured.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}
