//! How each host stands for a plan: by the operator's word, by verdicts, by what it says itself.
//!
//! **Invariants.** Silence alone makes a host neither leave nor go: only a verdict or the operator does. A verdict is about
//! one start of a host; of a later one it says at most that its return is due.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Desired, NodeSpec};
use crate::id::HostId;
use crate::inventory::Inventory;
use crate::liveness::FailoverSettings;
use crate::placement::Closed;
use crate::wire::report::{HostReport, HostState};
use crate::wire::verdict::{Standing, Verdict, Verdicts};

/// What a plan does with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It takes work.
    Open,
    /// It keeps what it has and gets nothing new.
    Closed(Closed),
    /// What it has moves elsewhere and stays until it is ready there; it gets nothing new.
    Leaves(Closed),
    /// What may move moves at once; it gets nothing new.
    Gone(Closed),
}

/// One host that does not simply take work.
#[derive(Debug)]
struct Stand {
    fate: Fate,
    /// Whether nothing that needs its lease can run there.
    lease_ended: bool,
    /// Why it is gone, for people.
    reason: String,
}

/// The hosts that do not simply take work.
#[derive(Debug, Default)]
pub(super) struct Standings {
    hosts: BTreeMap<HostId, Stand>,
}

impl Standings {
    /// How hosts stand. The one that is `assumed` to be gone is so, and its lease has ended, whatever is known of it.
    pub(super) fn new(
        desired: &Desired,
        settings: &FailoverSettings,
        inventory: &Inventory,
        verdicts: &Verdicts,
        assumed: Option<&HostId>,
    ) -> Self {
        let leaving = inventory.hosts.values().filter(|report| report.state == HostState::Draining).map(|report| &report.id);
        let special: BTreeSet<&HostId> = leaving.chain(desired.nodes.keys()).chain(verdicts.hosts.keys()).chain(assumed).collect();
        let stand = |host: &HostId| {
            let (report, verdict) = (inventory.hosts.get(host), verdicts.hosts.get(host));
            if assumed == Some(host) {
                return Stand { fate: Fate::Gone(Closed::Dead), lease_ended: true, reason: "taken for gone".to_owned() };
            }
            stand(desired.nodes.get(host), report, verdict, settings.auto_failover)
        };
        Self { hosts: special.into_iter().map(|host| (host.clone(), stand(host))).collect() }
    }

    pub(super) fn fate(&self, host: &HostId) -> Fate {
        self.hosts.get(host).map_or(Fate::Open, |stand| stand.fate)
    }

    /// Why nothing new is placed on a host, if so.
    pub(super) fn closed(&self, host: &HostId) -> Option<Closed> {
        match self.fate(host) {
            Fate::Open => None,
            Fate::Closed(why) | Fate::Leaves(why) | Fate::Gone(why) => Some(why),
        }
    }

    /// Whether what may move leaves a host at once.
    pub(super) fn is_gone(&self, host: &HostId) -> bool {
        matches!(self.fate(host), Fate::Gone(_))
    }

    /// Whether a host is proven to run nothing that needs a lease.
    pub(super) fn lease_ended(&self, host: &HostId) -> bool {
        self.hosts.get(host).is_some_and(|stand| stand.lease_ended)
    }

    /// Why a host is gone, for people.
    pub(super) fn reason(&self, host: &HostId) -> &str {
        self.hosts.get(host).map_or("", |stand| stand.reason.as_str())
    }
}

fn stand(node: Option<&NodeSpec>, report: Option<&HostReport>, verdict: Option<&Verdict>, auto_failover: bool) -> Stand {
    let later = |verdict: &&Verdict| report.is_some_and(|report| report.incarnation > verdict.incarnation);
    let by_verdict = verdict.map_or(Fate::Open, |verdict| match verdict.standing {
        Standing::Dead | Standing::Returned if later(&verdict) => Fate::Closed(Closed::Returned),
        Standing::Healthy | Standing::Degraded | Standing::Suspect if later(&verdict) => Fate::Open,
        Standing::Healthy => Fate::Open,
        Standing::Degraded => Fate::Leaves(Closed::Degraded),
        Standing::Suspect => Fate::Closed(Closed::Suspect),
        Standing::Dead if auto_failover => Fate::Gone(Closed::Dead),
        Standing::Dead => Fate::Closed(Closed::Dead),
        Standing::Returned => Fate::Closed(Closed::Returned),
    });
    let by_operator = match node {
        Some(node) if is_failed_over(node, report, verdict) => Fate::Gone(Closed::FailedOver),
        Some(node) if is_stopping(node, report) => Fate::Leaves(Closed::Stopping),
        Some(node) if node.draining => Fate::Leaves(Closed::Draining),
        Some(node) if node.cordoned => Fate::Closed(Closed::Cordoned),
        Some(_) | None => Fate::Open,
    };
    let by_itself = match report {
        Some(report) if report.state == HostState::Draining => Fate::Leaves(Closed::Stopping),
        Some(_) | None => Fate::Open,
    };
    // Of those that agree the operator comes first: he knows what he said.
    let fate = [by_operator, by_verdict, by_itself].into_iter().rev().max_by_key(|fate| severity(*fate)).unwrap_or(Fate::Open);
    let judged_gone = verdict.filter(|verdict| match verdict.standing {
        Standing::Dead | Standing::Returned => true,
        Standing::Healthy | Standing::Degraded | Standing::Suspect => false,
    });
    let moves = auto_failover || matches!(by_operator, Fate::Gone(_));
    Stand {
        fate,
        lease_ended: moves && judged_gone.is_some_and(|verdict| verdict.lease_ended),
        reason: judged_gone.map_or_else(|| "the operator says so".to_owned(), |verdict| verdict.reason.clone()),
    }
}

/// What moves more counts more.
fn severity(fate: Fate) -> u8 {
    match fate {
        Fate::Open => 0,
        Fate::Closed(_) => 1,
        Fate::Leaves(_) => 2,
        Fate::Gone(_) => 3,
    }
}

/// Whether the operator takes this start of the host for gone: the one that is heard, or else the last one that is known.
fn is_failed_over(node: &NodeSpec, report: Option<&HostReport>, verdict: Option<&Verdict>) -> bool {
    let Some(meant) = &node.failed_over else { return false };
    match (report, verdict) {
        (Some(report), _) => report.incarnation == *meant,
        (None, Some(verdict)) => verdict.incarnation <= *meant,
        (None, None) => true,
    }
}

/// Whether the operator wants this start of the host to end.
fn is_stopping(node: &NodeSpec, report: Option<&HostReport>) -> bool {
    node.stop.as_ref().is_some_and(|meant| report.is_none_or(|report| report.incarnation == *meant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::inventory::tests::{report, verdict};

    fn judged(standing: Standing, incarnation: &str) -> Verdict {
        Verdict { incarnation: Incarnation::new(incarnation).unwrap(), lease_ended: true, ..verdict(0, standing) }
    }

    /// The host as start `heard` of it says, if it is heard.
    fn fate(node: &NodeSpec, heard: Option<&str>, verdict: Option<&Verdict>, auto_failover: bool) -> (Fate, bool) {
        let report = heard.map(|heard| HostReport { incarnation: Incarnation::new(heard).unwrap(), ..report(0, "NEDGE01") });
        let stand = stand(Some(node), report.as_ref(), verdict, auto_failover);
        (stand.fate, stand.lease_ended)
    }

    #[test]
    fn a_verdict_is_about_one_start() {
        let check = |standing: Standing, heard: Option<&str>, expected: (Fate, bool)| {
            assert_eq!(fate(&NodeSpec::default(), heard, Some(&judged(standing, "02")), true), expected, "{standing:?} {heard:?}");
        };
        for heard in [None, Some("01"), Some("02")] {
            check(Standing::Dead, heard, (Fate::Gone(Closed::Dead), true));
            check(Standing::Suspect, heard, (Fate::Closed(Closed::Suspect), false));
            check(Standing::Returned, heard, (Fate::Closed(Closed::Returned), true));
            check(Standing::Degraded, heard, (Fate::Leaves(Closed::Degraded), false));
            check(Standing::Healthy, heard, (Fate::Open, false));
        }
        check(Standing::Dead, Some("03"), (Fate::Closed(Closed::Returned), true));
        check(Standing::Returned, Some("03"), (Fate::Closed(Closed::Returned), true));
        for standing in [Standing::Suspect, Standing::Degraded, Standing::Healthy] {
            check(standing, Some("03"), (Fate::Open, false));
        }
    }

    #[test]
    fn without_automatic_failover_only_the_operator_takes_a_host_for_gone() {
        let dead = judged(Standing::Dead, "02");
        let said = NodeSpec { failed_over: Some(Incarnation::new("02").unwrap()), ..NodeSpec::default() };
        let open = NodeSpec::default();
        assert_eq!(fate(&open, None, Some(&dead), false), (Fate::Closed(Closed::Dead), false));
        assert_eq!(fate(&said, None, Some(&dead), false), (Fate::Gone(Closed::FailedOver), true));
        for (heard, expected) in [(None, true), (Some("02"), true), (Some("01"), false), (Some("03"), false)] {
            assert_eq!(fate(&said, heard, None, false).0 == Fate::Gone(Closed::FailedOver), expected, "{heard:?}");
        }
        let later = judged(Standing::Healthy, "03");
        assert_eq!(fate(&said, None, Some(&later), true).0, Fate::Open, "a later start is known");
    }

    #[test]
    fn what_moves_more_counts_more() {
        let draining = NodeSpec { draining: true, cordoned: true, ..NodeSpec::default() };
        let check = |standing: Standing, expected: Fate| {
            assert_eq!(fate(&draining, None, Some(&judged(standing, "01")), true).0, expected, "{standing:?}");
        };
        check(Standing::Healthy, Fate::Leaves(Closed::Draining));
        check(Standing::Suspect, Fate::Leaves(Closed::Draining));
        check(Standing::Degraded, Fate::Leaves(Closed::Draining));
        check(Standing::Dead, Fate::Gone(Closed::Dead));
    }
}
