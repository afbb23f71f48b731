//! What a change did or would do, for people and programs.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::id::{ActorId, Generation, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::plan::{Displaced, PlanState, PlannedChange, Trouble};
use serde::Serialize;

use super::wait::Waited;
use super::{Draft, Intent};
use crate::output::{Document, columns};

/// A change that was made, or only planned.
#[derive(Debug, Serialize)]
pub(crate) struct Applied {
    kind: &'static str,
    name: String,
    done: &'static str,
    /// Whether it was only tried.
    dry_run: bool,
    /// Whether anything is different now.
    changed: bool,
    desired_revision: Revision,
    generation: Generation,
    changes: Vec<Line>,
    /// Instances of actors that make room for others of higher priority.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    displaced: Vec<Room>,
    /// Hosts that do not answer and get their part when they are back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    absent: Vec<String>,
    /// Hosts that left meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left: Vec<String>,
    /// How the actors that it was about stand now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    states: BTreeMap<ActorId, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// What changes on one host.
#[derive(Debug, Serialize)]
struct Line {
    host: String,
    what: &'static str,
    id: String,
    action: &'static str,
    detail: String,
    /// Why there.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Who makes room for whom.
#[derive(Debug, Serialize)]
struct Room {
    actor: ActorId,
    by: ActorId,
    host: String,
    instances: u32,
}

impl Applied {
    /// A change that was not made.
    pub(super) fn planned(intent: Intent, draft: &Draft) -> Self {
        Self::new(intent, draft, draft.view.revision, draft.view.plan.generation(), Waited::default(), true)
    }

    /// A change that was made.
    pub(super) fn committed(intent: Intent, draft: &Draft, revision: Revision, plan: &PlanState, waited: Waited) -> Self {
        Self::new(intent, draft, revision, plan.generation(), waited, false)
    }

    fn new(intent: Intent, draft: &Draft, desired_revision: Revision, generation: Generation, waited: Waited, dry_run: bool) -> Self {
        Self {
            kind: intent.kind,
            name: intent.name,
            done: intent.done,
            dry_run,
            changed: !draft.keys.is_empty() || !draft.changes.is_empty(),
            desired_revision,
            generation,
            changes: draft.changes.iter().map(|change| line(change, draft)).collect(),
            displaced: draft.displaced.iter().map(|displaced| room(displaced, &draft.view.inventory)).collect(),
            absent: waited.absent,
            left: waited.left,
            states: waited.states,
            notes: draft.edited.notes.clone(),
        }
    }
}

impl Document for Applied {
    fn text(&self, _wide: bool) -> String {
        let what = format!("{} {}", self.kind, self.name);
        if self.dry_run {
            let revision = self.desired_revision;
            return format!(
                "{what}: nothing was changed (dry run of revision {revision}; --if-revision {revision} makes just this change)"
            );
        }
        let mut lines = if self.changed {
            vec![format!("{what} {} (generation {})", self.done, self.generation)]
        } else {
            vec![format!("{what} unchanged")]
        };
        lines.extend(self.states.iter().map(|(actor, state)| format!("actor {actor} is {state}")));
        if !self.absent.is_empty() {
            lines.push(format!("{} does not answer and gets its part when it is back", self.absent.join(", ")));
        }
        if !self.left.is_empty() {
            lines.push(format!("{} left meanwhile", self.left.join(", ")));
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{}/{}", self.kind, self.name)]
    }
}

/// The plan's changes as lines that begin with `+`, `-` or `~`.
pub(super) fn diff(draft: &Draft) -> String {
    let row = |change: &PlannedChange| {
        let sign = match change.action {
            "start" => "+",
            "stop" => "-",
            _ => "~",
        };
        let line = line(change, draft);
        vec![sign.to_owned(), line.host, line.what.to_owned(), line.id, line.detail, line.reason.unwrap_or_default()]
    };
    let text = columns(&["", "HOST", "WHAT", "ID", "DETAIL", "WHY"], draft.changes.iter().map(row));
    // The signs say enough.
    text.split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

/// Who makes room for whom, and who then lacks a place: `low makes room for high on NEDGE01: 2 instances`.
pub(super) fn rooms(draft: &Draft) -> Vec<String> {
    let made = draft.displaced.iter().map(|displaced| {
        let Room { actor, by, host, instances } = room(displaced, &draft.view.inventory);
        let noun = if instances == 1 { "instance" } else { "instances" };
        format!("{actor} makes room for {by} on {host}: {instances} {noun}")
    });
    let actors: BTreeSet<&ActorId> = draft.displaced.iter().map(|displaced| &displaced.actor).collect();
    let lacking = actors.into_iter().filter_map(|actor| match draft.troubles.get(actor)? {
        Trouble::Missing { missing, .. } | Trouble::NoTarget { missing, .. } => {
            Some(format!("{actor} then has no place for {missing} of its instances"))
        }
        Trouble::Links(_) | Trouble::Settings(_) | Trouble::Quarantined(_) => None,
    });
    made.chain(lacking).collect()
}

fn room(displaced: &Displaced, inventory: &Inventory) -> Room {
    let Displaced { actor, by, host, instances } = displaced;
    Room { actor: actor.clone(), by: by.clone(), host: inventory.name_of(host), instances: *instances }
}

fn line(change: &PlannedChange, draft: &Draft) -> Line {
    let inventory = &draft.view.inventory;
    let id = if change.what == "host" { inventory.name_of(&change.host) } else { change.id.clone() };
    let choices = ActorId::new(change.id.as_str()).ok().filter(|_| change.what == "actor").and_then(|actor| draft.choices.get(&actor));
    let chosen = choices.and_then(|choices| choices.iter().find(|choice| choice.host == change.host));
    Line {
        host: inventory.name_of(&change.host),
        what: change.what,
        id,
        action: change.action,
        detail: change.detail.clone(),
        reason: chosen.map(|choice| choice.reason.clone()),
    }
}
