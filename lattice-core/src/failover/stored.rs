//! What is in the store, as far as this replica knows, and what of it must be read again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{MAX_SINGLE_READS, Millis, Step};
use crate::desired::Desired;
use crate::id::{ActorId, HostId, Region, Revision};
use crate::plan::PlanState;
use crate::scheduler::MAX_HOSTS;
use crate::subject;
use crate::wire;
use crate::wire::verdict::{Quarantine, Verdict, Verdicts, actor_key, host_key};

/// Between two reads of single assignments while nothing is failing: changes that follow each other are read together.
const CALM_READS_MS: Millis = 1_000;

/// A site in which nobody is taken for gone: key `site.<region>` of the verdicts' bucket. Only failover actors read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Freeze {
    pub(super) region: Region,
    /// The host that was one too many.
    #[serde(default)]
    pub(super) host: Option<HostId>,
    /// Whether it is frozen, or was.
    pub(super) frozen: bool,
    pub(super) reason: String,
    pub(super) at_ms: u64,
    pub(super) by: String,
}

impl Freeze {
    pub(super) fn key(&self) -> String {
        format!("site.{}", self.region)
    }
}

/// The store as it was read last.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) desired: Desired,
    pub(super) desired_revision: Revision,
    pub(super) desired_stale: bool,
    pub(super) plan: PlanState,
    plan_revision: Revision,
    pub(super) plan_stale: bool,
    /// Plan's revision at the last look if that was not the one known.
    plan_ahead: Option<Revision>,
    /// Hosts whose assignments have changed.
    changed: BTreeSet<HostId>,
    plan_read: Millis,
    pub(super) verdicts: Verdicts,
    pub(super) freezes: BTreeMap<Region, Freeze>,
    revisions: BTreeMap<String, Revision>,
    pub(super) verdicts_stale: bool,
    /// Keys of verdicts that may have changed.
    pub(super) stale_keys: BTreeSet<String>,
    /// Keys that make no sense.
    pub(super) corrupt: u64,
}

impl Default for Stored {
    fn default() -> Self {
        Self {
            desired: Desired::default(),
            desired_revision: Revision(0),
            desired_stale: true,
            plan: PlanState::default(),
            plan_revision: Revision(0),
            plan_stale: true,
            plan_ahead: None,
            changed: BTreeSet::new(),
            plan_read: 0,
            verdicts: Verdicts::default(),
            freezes: BTreeMap::new(),
            revisions: BTreeMap::new(),
            verdicts_stale: true,
            stale_keys: BTreeSet::new(),
            corrupt: 0,
        }
    }
}

impl Stored {
    /// Whether everything was read.
    pub(super) fn is_known(&self) -> bool {
        !(self.desired_stale || self.plan_stale || self.verdicts_stale)
    }

    /// Everything is read again.
    pub(super) fn forget(&mut self) {
        (self.desired_stale, self.plan_stale, self.verdicts_stale) = (true, true, true);
    }

    /// The last revisions of the buckets.
    pub(super) fn compare(&mut self, desired: Revision, plan: Revision, verdicts: Revision) {
        self.desired_stale |= desired != self.desired_revision;
        self.verdicts_stale |= verdicts != self.verdicts.revision;
        // A plan that was just committed is still on its way to us; one that is as far away at the next look is lost.
        let ahead = (plan != self.plan_revision).then_some(self.plan_revision);
        self.plan_stale |= ahead.is_some() && ahead == self.plan_ahead && self.changed.is_empty();
        self.plan_ahead = ahead;
    }

    /// A key of the verdicts was committed with this value.
    pub(super) fn mark_verdict(&mut self, key: String, value: &[u8]) {
        let known = match key.split_once('.') {
            Some(("host", id)) => {
                self.verdicts.hosts.get(id).is_some_and(|known| wire::decode::<Verdict>(value).is_ok_and(|verdict| verdict == *known))
            }
            Some(_) | None => false,
        };
        if self.stale_keys.len() >= MAX_HOSTS {
            self.verdicts_stale = true;
        } else if !known {
            self.stale_keys.insert(key);
        }
    }

    /// The assignment of a host was committed.
    pub(super) fn mark_plan(&mut self, host: HostId) {
        if self.changed.len() < MAX_SINGLE_READS {
            self.changed.insert(host);
        } else {
            self.plan_stale = true;
        }
    }

    /// Assignments that have changed, to be read; at once if it is `urgent`.
    pub(super) fn next_plan_keys(&mut self, urgent: bool, now: Millis) -> Option<Step> {
        if self.changed.is_empty() || (!urgent && now.saturating_sub(self.plan_read) < CALM_READS_MS) {
            return None;
        }
        self.plan_read = now;
        let mut keys: Vec<String> = std::mem::take(&mut self.changed).iter().map(subject::assignment_key).collect();
        keys.push(subject::PLAN_HEAD_KEY.to_owned());
        Some(Step::ReadPlanKeys(keys))
    }

    pub(super) fn read_desired<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8])>, revision: Revision) {
        self.desired = Desired::default();
        for (key, value) in entries {
            self.corrupt += u64::from(self.desired.insert(key, value).is_err());
        }
        (self.desired_revision, self.desired_stale) = (revision, false);
    }

    pub(super) fn read_plan<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>, revision: Revision) {
        self.plan = PlanState::default();
        self.read_plan_keys(entries);
        self.changed.clear();
        (self.plan_revision, self.plan_stale, self.plan_ahead) = (revision, false, None);
    }

    pub(super) fn read_plan_keys<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>) {
        for (key, value, revision) in entries {
            self.corrupt += u64::from(self.plan.insert(key, value, revision).is_err());
            self.plan_revision = self.plan_revision.max(revision);
        }
    }

    pub(super) fn read_verdicts<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>, revision: Revision) {
        (self.verdicts, self.freezes, self.revisions) = (Verdicts::default(), BTreeMap::new(), BTreeMap::new());
        for (key, value, revision) in entries {
            self.read_verdict(key, Some((value, revision)));
        }
        self.verdicts.revision = revision;
        self.stale_keys.clear();
        self.verdicts_stale = false;
    }

    /// A value that makes no sense is as good as none, and may be replaced.
    pub(super) fn read_verdict(&mut self, key: &str, entry: Option<(&[u8], Revision)>) {
        match key.split_once('.') {
            Some(("host", id)) => drop(self.verdicts.hosts.remove(id)),
            Some(("actor", id)) => drop(self.verdicts.quarantined.remove(id)),
            Some(("site", region)) => drop(self.freezes.remove(region)),
            Some(_) | None => {}
        }
        let Some((value, revision)) = entry else {
            self.revisions.remove(key);
            return;
        };
        self.note_revision(key, revision);
        let read = if key.starts_with("site.") {
            wire::decode::<Freeze>(value).ok().filter(|freeze| freeze.key() == key).map(|freeze| {
                self.freezes.insert(freeze.region.clone(), freeze);
            })
        } else {
            self.verdicts.insert(key, value).ok()
        };
        self.corrupt += u64::from(read.is_none());
    }

    pub(super) fn put_verdict(&mut self, verdict: &Verdict, revision: Revision) {
        self.note_revision(&host_key(&verdict.host), revision);
        self.verdicts.hosts.insert(verdict.host.clone(), verdict.clone());
    }

    pub(super) fn put_freeze(&mut self, freeze: &Freeze, revision: Revision) {
        self.note_revision(&freeze.key(), revision);
        self.freezes.insert(freeze.region.clone(), freeze.clone());
    }

    pub(super) fn put_quarantine(&mut self, quarantine: &Quarantine, revision: Revision) {
        self.note_revision(&actor_key(&quarantine.actor), revision);
        self.verdicts.quarantined.insert(quarantine.actor.clone(), quarantine.clone());
    }

    fn note_revision(&mut self, key: &str, revision: Revision) {
        self.revisions.insert(key.to_owned(), revision);
        self.verdicts.revision = self.verdicts.revision.max(revision);
    }

    /// Revision of a key of the verdicts, 0 if it has no value.
    pub(super) fn revision_of(&self, key: &str) -> Revision {
        self.revisions.get(key).copied().unwrap_or_default()
    }

    /// Whether an actor is in quarantine: its code and the operator's last change are the ones that were meant.
    pub(super) fn is_quarantined(&self, actor: &ActorId) -> bool {
        self.verdicts.quarantined.get(actor).is_some_and(|quarantine| in_force(quarantine, &self.desired))
    }
}

/// Whether a quarantine means the actor as it is now.
pub(super) fn in_force(quarantine: &Quarantine, desired: &Desired) -> bool {
    let digest = desired.components.get(&quarantine.actor).map(|spec| &spec.digest);
    digest == Some(&quarantine.digest) && changed_at(desired, &quarantine.actor) == quarantine.changed_at_ms
}

/// When the operator changed an actor last, as its stamp says.
pub(super) fn changed_at(desired: &Desired, actor: &ActorId) -> u64 {
    desired.changed.get(&format!("component.{actor}")).map_or(0, |stamp| stamp.at_ms)
}
