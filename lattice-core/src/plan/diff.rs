//! What a plan changes, line by line, for people.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::PlanState;
use crate::id::HostId;
use crate::wire::assignment::{Assignment, ComponentAssignment};

/// One line of a plan diff, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlannedChange {
    /// Host on which it happens.
    pub host: HostId,
    /// `actor`, `provider` or `host`.
    pub what: &'static str,
    /// Id of the thing.
    pub id: String,
    /// `start`, `stop`, `change`.
    pub action: &'static str,
    /// What exactly: `instances 4 → 10, links`.
    pub detail: String,
}

/// What changes on each host when it goes from its part of `parent` to the one in `parts`: of a plan, or of a later state.
pub fn changes<'a>(parent: &PlanState, parts: impl IntoIterator<Item = (&'a HostId, &'a Assignment)>) -> Vec<PlannedChange> {
    let mut lines = Vec::new();
    for (host, after) in parts {
        let none = Assignment::empty(host.clone());
        let before = parent.assignments.get(host).unwrap_or(&none);
        let mut line =
            |what, id: String, action, detail: String| lines.push(PlannedChange { host: host.clone(), what, id, action, detail });
        if let (None, Some(_)) = (&before.stop, &after.stop) {
            line("host", host.to_string(), "stop", "drain, say bye, exit".into());
        }
        for (id, action) in keyed_changes(&before.providers, &after.providers) {
            line("provider", id.to_string(), action, after.providers.get(id).map_or("", |p| p.kind.as_str()).to_owned());
        }
        for (id, action) in keyed_changes(&before.components, &after.components) {
            line("actor", id.to_string(), action, describe(before.components.get(id), after.components.get(id)));
        }
    }
    lines
}

fn keyed_changes<'a, K: Ord, V: PartialEq>(before: &'a BTreeMap<K, V>, after: &'a BTreeMap<K, V>) -> Vec<(&'a K, &'static str)> {
    let ids: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let action = |id: &K| match (before.get(id), after.get(id)) {
        (None, Some(_)) => Some("start"),
        (Some(_), None) => Some("stop"),
        (Some(a), Some(b)) if a != b => Some("change"),
        (Some(_) | None, _) => None,
    };
    ids.into_iter().filter_map(|id| Some((id, action(id)?))).collect()
}

fn describe(before: Option<&ComponentAssignment>, after: Option<&ComponentAssignment>) -> String {
    match (before, after) {
        (Some(a), Some(b)) => {
            let parts = [
                (a.instances != b.instances).then(|| format!("instances {} → {}", a.instances, b.instances)),
                (a.digest != b.digest).then(|| "code".to_owned()),
                (a.links != b.links).then(|| "links".to_owned()),
                (a.config != b.config).then(|| "config".to_owned()),
                (a.limits != b.limits || a.policy != b.policy).then(|| "limits".to_owned()),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        (None, Some(b)) => format!("instances {}", b.instances),
        (Some(_) | None, None) => String::new(),
    }
}
