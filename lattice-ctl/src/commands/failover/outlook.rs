//! Where the work of a host goes when the host is taken for gone: pure, from one view of the lattice.

use std::collections::BTreeMap;

use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, Generation, HostId, Incarnation};
use lattice_core::liveness::FailoverSettings;
use lattice_core::plan::{self, PlanState};
use lattice_core::wire::event::EventKind;
use lattice_core::wire::failover::{FailoverPlan, FailoverStatus};
use lattice_nats::events::EventQuery;
use serde::Serialize;

use crate::connection::Session;
use crate::error::Outcome;
use crate::standing;
use crate::view::View;

/// What a failover moves, and what it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Outlook {
    /// The host's name.
    pub(super) host: String,
    /// The plan that it starts from.
    pub(super) generation: Generation,
    /// One for each host that takes something over.
    pub(super) plans: Vec<FailoverPlan>,
    /// Each actor that moves somewhere.
    pub(super) moves: Vec<Move>,
    /// Actors that find no other place, with the reason of each host that was rejected.
    pub(super) left_behind: BTreeMap<ActorId, Vec<String>>,
    /// Actors that belong to the host and never move, with the reason.
    pub(super) staying: BTreeMap<ActorId, String>,
}

/// Instances of an actor that a host gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Move {
    pub(super) actor: ActorId,
    pub(super) to: String,
    pub(super) instances: u32,
    /// Why there.
    pub(super) reason: String,
}

impl Outlook {
    /// What happens if `host` is gone, and its lease with it.
    pub(super) fn of(view: &View, host: &HostId, downtime_ms: u64) -> Self {
        let plan = plan::plan_without(&view.desired, view.revision, &view.inventory, &view.verdicts, &view.plan, host);
        let after = view.plan.after(&plan, view.plan.head_revision);
        let mut outlook = Self::between(view, host, &after, downtime_ms);
        for moved in &mut outlook.moves {
            let chosen = plan.choices.get(&moved.actor).into_iter().flatten();
            let mut reason = chosen.filter(|choice| view.inventory.name_of(&choice.host) == moved.to).map(|choice| choice.reason.clone());
            moved.reason = reason.next_back().unwrap_or_default();
        }
        for (actor, reasons) in &mut outlook.left_behind {
            reasons.extend(plan.troubles.get(actor).into_iter().flat_map(|trouble| trouble.problem(actor).causes));
        }
        outlook
    }

    /// What has moved off `host` from the view's plan to `after`.
    pub(super) fn between(view: &View, host: &HostId, after: &PlanState, downtime_ms: u64) -> Self {
        let name = view.inventory.name_of(host);
        let mut outlook = Self {
            host: name.clone(),
            generation: view.plan.generation(),
            plans: Vec::new(),
            moves: Vec::new(),
            left_behind: BTreeMap::new(),
            staying: BTreeMap::new(),
        };
        let mut takers: BTreeMap<HostId, FailoverPlan> = BTreeMap::new();
        for actor in view.plan.assignments.get(host).into_iter().flat_map(|part| part.components.keys()) {
            if after.shares_of(actor).contains_key(host) {
                outlook.stays(actor, host, view);
                continue;
            }
            let priority = view.desired.components.get(actor).map_or(0, |spec| spec.needs.priority);
            let before = view.plan.shares_of(actor);
            for (taker, instances) in after.shares_of(actor) {
                let more = instances.saturating_sub(before.get(&taker).copied().unwrap_or(0));
                if more == 0 {
                    continue;
                }
                let to = view.inventory.name_of(&taker);
                outlook.moves.push(Move { actor: actor.clone(), to: to.clone(), instances: more, reason: String::new() });
                let plan = takers.entry(taker).or_insert_with(|| FailoverPlan {
                    failed_node: name.clone(),
                    target_node: to,
                    actor_ids: Vec::new(),
                    priority: 0,
                    estimated_downtime_ms: downtime_ms,
                });
                plan.actor_ids.push(actor.clone());
                plan.priority = plan.priority.max(priority);
            }
        }
        outlook.plans = takers.into_values().collect();
        outlook
    }

    fn stays(&mut self, actor: &ActorId, host: &HostId, view: &View) {
        let spec = view.desired.components.get(actor);
        let bound = spec.and_then(|spec| match spec.needs.daemon {
            true => Some("it runs on every host".to_owned()),
            false => standing::bound(host, spec, view),
        });
        match bound {
            Some(why) => drop(self.staying.insert(actor.clone(), why)),
            None => drop(self.left_behind.insert(actor.clone(), Vec::new())),
        }
    }

    /// `failover failed: no healthy target`, if there is work that could move and finds no place.
    pub(super) fn no_target(&self) -> Option<Problem> {
        if self.left_behind.is_empty() {
            return None;
        }
        let actors: Vec<&str> = self.left_behind.keys().map(ActorId::as_str).collect();
        let message = format!("failover failed: no healthy target for {} of {}", actors.join(", "), self.host);
        let mut problem = Problem::new(ErrorCode::NoHealthyTarget, message);
        let reasons = |(actor, reasons): (&ActorId, &Vec<String>)| match reasons.as_slice() {
            [] => vec![format!("{actor}: no other host answers and takes work")],
            reasons => reasons.iter().map(|reason| format!("{actor}: {reason}")).collect(),
        };
        problem.causes = self.left_behind.iter().flat_map(reasons).collect();
        Some(problem.hint("start a host or make room: `lattice-ctl get hosts`; what has no place moves as soon as it finds one"))
    }
}

/// Has this start of `host` taken for gone.
pub(super) fn take_for_gone(desired: &mut Desired, host: &HostId, start: &Incarnation) {
    desired.edit_node(host, |node| node.failed_over = Some(start.clone()));
}

/// The start of a host that is meant: the one that answers, else the one that was judged last, else the last one that said
/// something.
///
/// # Errors
/// If the host was never heard.
pub(super) async fn last_start(session: &Session, view: &View, host: &HostId) -> Outcome<Incarnation> {
    let answering = view.inventory.hosts.get(host).map(|report| report.incarnation.clone());
    if let Some(known) = answering.or_else(|| view.verdicts.hosts.get(host).map(|verdict| verdict.incarnation.clone())) {
        return Ok(known);
    }
    let query = EventQuery { hosts: [host.clone()].into(), kinds: [EventKind::Hello, EventKind::Applied].into() };
    let last = session.lattice.recent_events(&query, 0, 1).await?.events.pop();
    let unheard = || {
        let message = format!("{} was not heard within the last days, its last start is not known", view.inventory.name_of(host));
        Problem::new(ErrorCode::HostNotFound, message).hint("`lattice-ctl node drain` moves what it had")
    };
    Ok(last.map(|event| event.incarnation).ok_or_else(unheard)?)
}

/// Milliseconds from a failure to the first result elsewhere: as measured lately, else what the settings make of a host that
/// falls silent.
pub(super) fn downtime_ms(status: Option<&FailoverStatus>, desired: &Desired) -> u64 {
    let measured = status.and_then(|status| status.measured_downtime_ms);
    measured.unwrap_or_else(|| FailoverSettings::of(desired).expected_downtime_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use lattice_core::id::Digest;
    use lattice_core::needs::Class;

    fn three_hosts() -> View {
        let mut desired = Desired::default();
        desired.start_component(actor("free"), component(&[0, 1]), Some(2), false).unwrap();
        desired.start_component(actor("pinned"), component(&[0]), None, false).unwrap();
        let mut bound = component(&[0]);
        bound.needs.class = Class::Autonomous;
        bound.digest = Digest::of(b"b");
        desired.start_component(actor("bound"), bound, None, false).unwrap();
        view(3, desired)
    }

    #[test]
    fn who_takes_what_and_what_stays() {
        let view = three_hosts();
        let outlook = Outlook::of(&view, &host(0), 700);
        assert_eq!(outlook.moves.iter().map(|moved| (moved.actor.as_str(), moved.to.as_str())).collect::<Vec<_>>(), [("free", "NEDGE02")]);
        let plan = &outlook.plans[0];
        assert_eq!((plan.failed_node.as_str(), plan.target_node.as_str(), plan.estimated_downtime_ms), ("NEDGE01", "NEDGE02", 700));
        assert_eq!(outlook.staying.keys().map(ActorId::as_str).collect::<Vec<_>>(), ["bound", "pinned"]);
        assert_eq!(outlook.no_target(), None);
    }

    #[test]
    fn nobody_to_take_it() {
        let mut view = three_hosts();
        view.desired.components.get_mut("free").unwrap().hosts.clear();
        for n in [1, 2] {
            view.desired.edit_node(&host(n), |node| node.cordoned = true);
        }
        let problem = Outlook::of(&view, &host(0), 700).no_target().unwrap();
        assert!(problem.message.starts_with("failover failed: no healthy target"), "{problem:?}");
        assert_eq!(problem.code.exit_code(), 7);
        assert!(problem.causes.iter().any(|cause| cause.starts_with("free: NEDGE02: ") && cause.contains("cordoned")), "{problem:?}");
    }

    #[test]
    fn downtime_is_measured_or_follows_from_the_settings() {
        assert_eq!(downtime_ms(None, &Desired::default()), 4_000);
    }
}
