//! The course of one failover: what a host had, who took it, and when each step was done.

use std::collections::{BTreeMap, BTreeSet};

use super::stored::Stored;
use crate::id::{ActorId, Generation, HostId, HostName};
use crate::plan::{Plan, PlanState};
use crate::scheduler::Millis;
use crate::wire::failover::{Failover as Record, FailoverPlan, FailoverSteps};
use crate::wire::report::{ComponentState, HostReport};
use crate::wire::verdict::Verdict;

/// How long a failover is followed at most.
const FOLLOW_MS: Millis = 120_000;
/// What still stands in the plan of a host so long after it was taken for gone has found no other place.
const LEFT_AFTER_MS: Millis = 2_000;

/// One failover under way.
#[derive(Debug)]
pub(super) struct Course {
    record: Record,
    /// Whether this replica stored the verdict, so that it keeps the record and says what happens.
    mine: bool,
    noticed: Millis,
    decided: Millis,
    /// What each host held of the actors of the failed one.
    before: BTreeMap<ActorId, BTreeMap<HostId, u32>>,
    /// Plan that was looked at last.
    generation: Generation,
    taken: BTreeMap<(ActorId, HostId), Taken>,
    /// Whether the record has changed since it was kept.
    changed: bool,
    reasons_known: bool,
}

/// An actor on a host that took it.
#[derive(Debug)]
struct Taken {
    /// Assignment that gave it.
    generation: Generation,
    /// Messages that the actor had handled there before.
    handled: u64,
    runs: bool,
    /// It is one of lattice's own: what it does is no result that anybody waits for.
    system: bool,
}

/// Actors that moved to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) record: Record,
    pub(super) mine: bool,
    pub(super) plan: FailoverPlan,
    pub(super) host: HostId,
}

impl Course {
    /// The failover of the host that `verdict` takes for gone.
    pub(super) fn new(
        verdict: &Verdict,
        noticed: Millis,
        silent_ms: u64,
        mine: bool,
        plan: &PlanState,
        reports: &BTreeMap<HostId, HostReport>,
        now: Millis,
    ) -> Self {
        let share = plan.assignments.get(&verdict.host);
        let actors = share.into_iter().flat_map(|share| share.components.keys());
        let before = actors.map(|actor| (actor.clone(), plan.shares_of(actor))).collect();
        let decided_ms = mine.then(|| now.saturating_sub(noticed));
        let record = Record {
            host: verdict.host.clone(),
            name: reports.get(&verdict.host).map_or_else(|| verdict.name.clone(), |report| report.name.clone()),
            region: verdict.region.clone(),
            incarnation: verdict.incarnation.clone(),
            evidence: verdict.evidence,
            reason: verdict.reason.clone(),
            at_ms: verdict.at_ms.saturating_sub(now.saturating_sub(noticed)),
            by: verdict.by.clone(),
            steps: FailoverSteps { silent_ms, decided_ms, ..FailoverSteps::default() },
            generation: None,
            plans: Vec::new(),
            left_behind: BTreeMap::new(),
        };
        let generation = plan.generation();
        let taken = BTreeMap::new();
        Self { record, mine, noticed, decided: now, before, generation, taken, changed: true, reasons_known: false }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// A plan after the failure, heard of at `at`: what has moved by it.
    pub(super) fn handle_plan(&mut self, stored: &Stored, reports: &BTreeMap<HostId, HostReport>, estimate: u64, at: Millis) -> Vec<Moved> {
        let generation = stored.plan.generation();
        // The parts of one plan may be read one after the other; what was taken before is known by `taken`.
        if generation < self.generation {
            return Vec::new();
        }
        self.generation = generation;
        let mut moved: BTreeMap<HostId, BTreeSet<ActorId>> = BTreeMap::new();
        for (actor, before) in &self.before {
            let shares = stored.plan.shares_of(actor);
            let held = |shares: &BTreeMap<HostId, u32>, host| shares.get(host).copied().unwrap_or_default();
            if held(&shares, &self.record.host) >= held(before, &self.record.host) {
                continue;
            }
            for (host, now) in shares.iter().filter(|(host, _)| **host != self.record.host) {
                if *now > held(before, host) && !self.taken.contains_key(&(actor.clone(), host.clone())) {
                    moved.entry(host.clone()).or_default().insert(actor.clone());
                }
            }
        }
        moved.into_iter().map(|(host, actors)| self.take(host, actors, stored, reports, estimate, at)).collect()
    }

    fn take(
        &mut self,
        host: HostId,
        actors: BTreeSet<ActorId>,
        stored: &Stored,
        reports: &BTreeMap<HostId, HostReport>,
        estimate: u64,
        at: Millis,
    ) -> Moved {
        let generation = stored.plan.assignments.get(&host).map_or(self.generation, |share| share.generation);
        let report = reports.get(&host);
        for actor in &actors {
            let handled = report.and_then(|report| report.components.get(actor)).map_or(0, |component| component.handled);
            let system = stored.desired.components.get(actor).is_some_and(|spec| spec.system.is_some());
            self.taken.insert((actor.clone(), host.clone()), Taken { generation, handled, runs: false, system });
        }
        let priority = |actor| stored.desired.components.get(actor).map(|spec| spec.needs.priority);
        let planned = stored.plan.assignments.get(&host).and_then(|share| share.host_name.as_ref());
        let name = report.map(|report| &report.name).or(planned).map_or_else(|| host.to_string(), HostName::to_string);
        let plan = FailoverPlan {
            failed_node: self.record.name.to_string(),
            target_node: name,
            priority: actors.iter().filter_map(priority).max().unwrap_or_default(),
            actor_ids: actors.into_iter().collect(),
            estimated_downtime_ms: estimate,
        };
        self.record.plans.push(plan.clone());
        self.record.generation.get_or_insert(generation);
        self.record.steps.planned_ms.get_or_insert(at.saturating_sub(self.noticed));
        (self.record.steps.applied_ms, self.changed) = (None, true);
        Moved { record: self.record.clone(), mine: self.mine, plan, host }
    }

    /// A heartbeat; the time to the first result in milliseconds, if it tells of that.
    pub(super) fn handle_heartbeat(&mut self, report: &HostReport, now: Millis) -> Option<u64> {
        let since = now.saturating_sub(self.noticed);
        let mut result = false;
        for ((actor, _), taken) in self.taken.iter_mut().filter(|((_, host), _)| *host == report.id) {
            let Some(component) = report.components.get(actor) else { continue };
            taken.runs |= report.applied_generation >= taken.generation && component.state == ComponentState::Running;
            result |= !taken.system && component.handled > taken.handled;
        }
        let steps = &mut self.record.steps;
        let users = self.taken.values().any(|taken| !taken.system);
        let all_run = self.taken.values().filter(|taken| taken.system != users).all(|taken| taken.runs);
        if steps.applied_ms.is_none() && !self.taken.is_empty() && all_run {
            steps.applied_ms = Some(since);
            self.changed = true;
        }
        if steps.first_result_ms.is_some() || !result {
            return None;
        }
        steps.first_result_ms = Some(since);
        self.changed = true;
        Some(since)
    }

    /// Whether it is time to ask why some of its work is where it was.
    pub(super) fn wants_reasons(&self, now: Millis) -> bool {
        self.mine && !self.reasons_known && now.saturating_sub(self.decided) >= LEFT_AFTER_MS
    }

    /// Whether the plan still gives the failed host any of its work.
    pub(super) fn holds_work(&self, plan: &PlanState) -> bool {
        let share = plan.assignments.get(&self.record.host);
        share.is_some_and(|share| self.before.keys().any(|actor| share.components.contains_key(actor)))
    }

    /// What a plan says of the work that is where it was; none if there is none.
    pub(super) fn handle_reasons(&mut self, reasons: Option<(&Plan, &PlanState)>) {
        self.reasons_known = true;
        let Some((plan, state)) = reasons else { return };
        let share = state.assignments.get(&self.record.host);
        let still = share.into_iter().flat_map(|share| share.components.keys()).filter(|actor| self.before.contains_key(*actor));
        let trouble = |actor: &ActorId| {
            let problem = plan.troubles.get(actor)?.problem(actor);
            let reasons = if problem.causes.is_empty() { vec![problem.message] } else { problem.causes };
            Some((actor.clone(), reasons))
        };
        self.record.left_behind = still.filter_map(trouble).collect();
        self.changed |= !self.record.left_behind.is_empty();
    }

    /// The record, if it is to be kept and has changed since.
    pub(super) fn poll_record(&mut self) -> Option<Record> {
        (self.mine && std::mem::take(&mut self.changed)).then(|| self.record.clone())
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        let steps = &self.record.steps;
        let awaits_result = steps.first_result_ms.is_none() && self.taken.values().any(|taken| !taken.system);
        let done = steps.applied_ms.is_some() && !awaits_result && (self.reasons_known || !self.mine);
        done || self.before.is_empty() || now.saturating_sub(self.decided) >= FOLLOW_MS
    }
}
