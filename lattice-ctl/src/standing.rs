//! How things stand, as hosts report it: what counts as ready, and what a draining host still runs.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::desired::ComponentSpec;
use lattice_core::id::{ActorId, HostId};
use lattice_core::inventory::Health;
use lattice_core::needs::Class;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::verdict::Standing;

use crate::view::View;

/// Instances of an actor that are ready on hosts which have applied their part of the plan, and what is missing where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ready {
    /// Their sum.
    pub(crate) instances: u64,
    /// Sentences: `NEDGE02: 1 of 3 ready`.
    pub(crate) missing: Vec<String>,
}

impl Ready {
    /// Counts them.
    pub(crate) fn count(id: &ActorId, view: &View) -> Self {
        let mut ready = Self::default();
        let shares = view.plan.shares_of(id);
        for report in view.inventory.hosts.values() {
            let planned = shares.get(&report.id).copied().unwrap_or(0);
            let counted = report.components.get(id).map_or(0, |component| component.instances);
            if !has_applied(report, view) {
                ready.missing.push(format!("{}: has not applied its part of the plan yet", report.name));
                continue;
            }
            ready.instances = ready.instances.saturating_add(u64::from(counted));
            if counted < planned {
                let state = report.components.get(id).map_or_else(String::new, |component| format!(", {}", component.state));
                ready.missing.push(format!("{}: {counted} of {planned} ready{state}", report.name));
            }
        }
        let silent = shares.keys().filter(|host| !view.inventory.hosts.contains_key(*host));
        ready.missing.extend(silent.map(|host| format!("{}: does not answer", view.inventory.name_of(host))));
        ready
    }
}

/// Whether a host has applied its part of the plan.
pub(crate) fn has_applied(report: &HostReport, view: &View) -> bool {
    view.plan.assignments.get(&report.id).is_none_or(|part| report.applied_generation >= part.generation)
}

/// What is made of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// How it stands.
    pub(crate) standing: Standing,
    /// Why, for people.
    pub(crate) reason: String,
}

impl Judged {
    /// What the operator or the failover actors make of the start of `host` that answers, or of its last one if none does;
    /// nothing for one that nobody has judged.
    pub(crate) fn of(host: &HostId, view: &View) -> Option<Self> {
        let answering = view.inventory.hosts.get(host).map(|report| &report.incarnation);
        let verdict = view.verdicts.hosts.get(host);
        let meant = answering.or(verdict.map(|verdict| &verdict.incarnation));
        let by_hand = view.desired.nodes.get(host).and_then(|node| node.failed_over.as_ref());
        if by_hand.is_some_and(|start| meant.is_none_or(|meant| meant == start)) {
            return Some(Self { standing: Standing::Dead, reason: "failed over by hand".to_owned() });
        }
        let verdict = verdict?;
        if meant == Some(&verdict.incarnation) {
            return Some(Self { standing: verdict.standing, reason: verdict.reason.clone() });
        }
        match verdict.standing {
            Standing::Dead | Standing::Returned => {
                Some(Self { standing: Standing::Returned, reason: format!("started again after: {}", verdict.reason) })
            }
            // What was wrong with an earlier start is over.
            Standing::Healthy | Standing::Degraded | Standing::Suspect => None,
        }
    }
}

/// Health of a host by its own report and by what is made of it, whichever is worse.
pub(crate) fn health(report: &HostReport, view: &View) -> Health {
    Judged::of(&report.id, view).map_or(Health::Healthy, |judged| Health::of_standing(judged.standing)).max(Health::of(report))
}

/// What a host still runs that is being drained.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Leftovers {
    /// Actors that are on their way, or may yet be.
    pub(crate) moving: BTreeSet<ActorId>,
    /// Actors that cannot move, with the reason.
    pub(crate) bound: BTreeMap<ActorId, String>,
    /// Actors that run on every host and stay until it stops.
    pub(crate) daemons: BTreeSet<ActorId>,
}

impl Leftovers {
    /// What `host` still runs or is told to run.
    pub(crate) fn of(host: &HostId, view: &View) -> Self {
        let planned = view.plan.assignments.get(host).into_iter().flat_map(|part| part.components.keys());
        let reported = view.inventory.hosts.get(host).into_iter().flat_map(|report| report.components.keys());
        let mut left = Self::default();
        for id in planned.chain(reported) {
            match view.desired.components.get(id) {
                Some(spec) if spec.needs.daemon => drop(left.daemons.insert(id.clone())),
                Some(spec) => match bound(host, spec, view) {
                    Some(why) => drop(left.bound.insert(id.clone(), why)),
                    None => drop(left.moving.insert(id.clone())),
                },
                None => drop(left.moving.insert(id.clone())),
            }
        }
        left
    }

    /// Whether nothing is left that has to go.
    pub(crate) fn is_empty(&self) -> bool {
        self.moving.is_empty() && self.bound.is_empty()
    }
}

/// Why an actor can never leave `host`, if so.
pub(crate) fn bound(host: &HostId, spec: &ComponentSpec, view: &View) -> Option<String> {
    if spec.needs.class == Class::Autonomous {
        return Some("it is autonomous: bound to its host".to_owned());
    }
    let takes = |named: &&HostId| {
        let closed = view.desired.nodes.get(*named).is_some_and(|node| node.cordoned || node.draining);
        *named != host && !closed && view.inventory.hosts.contains_key(*named)
    };
    if spec.hosts.is_empty() || spec.hosts.iter().any(|named| takes(&named)) {
        return None;
    }
    let names: Vec<String> = spec.hosts.iter().map(|named| view.inventory.name_of(named)).collect();
    Some(format!("it was given {} with --hosts", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use lattice_core::desired::{Desired, NodeSpec};
    use lattice_core::id::{Digest, Generation, Incarnation};
    use lattice_core::needs::Needs;
    use lattice_core::wire::report::{ComponentReport, ComponentState};
    use lattice_core::wire::verdict::{Evidence, Verdict};

    fn running(instances: u32) -> ComponentReport {
        let state = if instances > 0 { ComponentState::Running } else { ComponentState::Starting };
        ComponentReport::new(Digest::of(b"a"), state, instances)
    }

    /// Three hosts of which two are to run `a`, three instances each.
    fn two_of_three() -> View {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(&[0, 1]), Some(6), false).unwrap();
        let mut view = view(3, desired);
        for report in view.inventory.hosts.values_mut() {
            report.applied_generation = Generation(1);
        }
        view
    }

    fn report(view: &mut View, n: u8, instances: u32) {
        view.inventory.hosts.get_mut(&host(n)).unwrap().components.insert(actor("a"), running(instances));
    }

    #[test]
    fn what_hosts_report_counts_and_not_the_plan() {
        let mut view = two_of_three();
        assert_eq!(Ready::count(&actor("a"), &view).instances, 0);
        report(&mut view, 0, 3);
        report(&mut view, 1, 0);
        let ready = Ready::count(&actor("a"), &view);
        assert_eq!((ready.instances, ready.missing), (3, vec!["NEDGE02: 0 of 3 ready, starting".to_owned()]));
        report(&mut view, 1, 3);
        assert_eq!(Ready::count(&actor("a"), &view), Ready { instances: 6, missing: vec![] });
        // It runs what it was told before.
        view.inventory.hosts.get_mut(&host(1)).unwrap().applied_generation = Generation(0);
        let stale = Ready::count(&actor("a"), &view);
        assert_eq!((stale.instances, stale.missing.len()), (3, 1));
        let gone = view.inventory.hosts.remove(&host(0)).unwrap();
        view.inventory.absent.insert(gone.id, Some(gone.name));
        assert!(Ready::count(&actor("a"), &view).missing.contains(&"NEDGE01: does not answer".to_owned()));
    }

    #[test]
    fn a_verdict_is_about_one_start() {
        let mut view = two_of_three();
        let of = |view: &View| Judged::of(&host(0), view).map(|judged| judged.standing);
        assert_eq!(of(&view), None);
        let start = |text: &str| Incarnation::new(text).unwrap();
        let verdict = Verdict {
            host: host(0),
            name: view.inventory.hosts[&host(0)].name.clone(),
            region: view.inventory.hosts[&host(0)].region.clone(),
            incarnation: start("01"),
            standing: Standing::Suspect,
            evidence: Evidence::Silent,
            reason: "not heard for 3100 ms".into(),
            lease_ended: false,
            flaps: 0,
            at_ms: 0,
            by: "NEDGE02".into(),
        };
        view.verdicts.hosts.insert(host(0), verdict.clone());
        assert_eq!(of(&view), Some(Standing::Suspect));
        assert_eq!(health(&view.inventory.hosts[&host(0)], &view), Health::Unhealthy);
        view.inventory.hosts.get_mut(&host(0)).unwrap().incarnation = start("02");
        assert_eq!(of(&view), None, "the suspicion was about an earlier start");
        view.verdicts.hosts.insert(host(0), Verdict { standing: Standing::Dead, ..verdict });
        assert_eq!(of(&view), Some(Standing::Returned));
        view.desired.edit_node(&host(0), |node| node.failed_over = Some(start("01")));
        assert_eq!(of(&view), Some(Standing::Returned), "by hand, too, an earlier start was meant");
        view.desired.edit_node(&host(0), |node| node.failed_over = Some(start("02")));
        assert_eq!(Judged::of(&host(0), &view).unwrap().reason, "failed over by hand");
        assert_eq!(health(&view.inventory.hosts[&host(0)], &view), Health::Unhealthy);
        let gone = view.inventory.hosts.remove(&host(0)).unwrap();
        view.inventory.absent.insert(gone.id, Some(gone.name));
        assert_eq!(of(&view), Some(Standing::Dead));
    }

    #[test]
    fn what_is_left_on_a_host() {
        let mut view = two_of_three();
        let left = Leftovers::of(&host(0), &view);
        assert_eq!((left.moving.len(), left.bound.len()), (1, 0), "NEDGE02 may take it");
        view.desired.nodes.insert(host(1), NodeSpec { cordoned: true, ..NodeSpec::default() });
        assert_eq!(Leftovers::of(&host(0), &view).bound[&actor("a")], "it was given NEDGE01, NEDGE02 with --hosts");
        view.desired.components.get_mut("a").unwrap().needs.class = Class::Autonomous;
        assert_eq!(Leftovers::of(&host(0), &view).bound[&actor("a")], "it is autonomous: bound to its host");
        view.desired.components.get_mut("a").unwrap().needs = Needs { daemon: true, ..Needs::default() };
        let left = Leftovers::of(&host(0), &view);
        assert!(left.is_empty() && left.daemons.contains(&actor("a")));
        view.desired.components.remove("a");
        assert!(Leftovers::of(&host(0), &view).moving.contains(&actor("a")), "it is being stopped");
        assert_eq!(Leftovers::of(&host(2), &view), Leftovers::default());
    }
}
