//! What a change of what is in force does to the actors of a host, and what is said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Action, Agent, Code};
use crate::id::ActorId;
use crate::link::KindSettings;
use crate::policy::effects::{self, Change, Effect};
use crate::policy::force::InForce;
use crate::policy::report::Enforced;
use crate::policy::rules::Point;
use crate::wire::assignment::ComponentAssignment;
use crate::wire::event::EventKind;

impl Agent {
    /// What is in force on this host.
    pub fn force(&self) -> &InForce {
        &self.force
    }

    /// `force` is in force from now on: says what that means for whom, stops what must not run any more, and lets run again
    /// what may.
    pub fn handle_force(&mut self, force: Arc<InForce>) {
        if Arc::ptr_eq(&self.force, &force) {
            // Asked before each event: nearly always nothing has changed.
            return;
        }
        let before = std::mem::replace(&mut self.force, force.clone());
        for (actor, change) in effects::changes(&self.effects(&before), &self.effects(&force)) {
            self.tell_change(&actor, &change);
        }
        if before.internal_only() != force.internal_only() {
            self.relink();
        }
        if before.revoked() != force.revoked() || before.permits() != force.permits() {
            self.reload_refused();
        }
        self.settle();
    }

    /// What the host says that it enforces.
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// The host enforces what it says here from now on: acknowledged at once, unless that was said.
    pub fn handle_enforced(&mut self, enforced: Enforced) {
        if self.enforced != enforced {
            self.enforced = enforced;
            self.actions.push_back(Action::Report);
        }
    }

    fn effects(&self, force: &InForce) -> BTreeMap<ActorId, Effect> {
        self.components.iter().map(|(id, component)| (id.clone(), component.effect(force))).collect()
    }

    /// What actors may connect to has changed: such links are made anew, also those that could not be made.
    fn relink(&mut self) {
        for component in self.components.values_mut().filter(|component| connects(&component.spec)) {
            component.relink = true;
            component.run_failure = None;
        }
    }

    /// What counts as trustworthy has changed: code that was refused, and may be tried again at all, is tried at once.
    fn reload_refused(&mut self) {
        for (id, component) in &mut self.components {
            if let Code::Failed { attempts, retry_at: Some(_), .. } = component.code {
                component.code = Code::Loading { attempts };
                self.actions.push_back(Action::Load(id.clone(), component.spec.digest.clone()));
            }
        }
    }

    fn tell_change(&mut self, actor: &ActorId, change: &Change) {
        let list = |points: &BTreeSet<Point>| points.iter().map(|point| point.interface()).collect::<Vec<_>>().join(", ");
        let (kind, message, what) = match change {
            Change::Stopped { point, why } => {
                let message = format!("actor {actor} stopped: capability denied: {}: {why}", point.contract());
                (EventKind::PolicyStopped, message, point.interface().to_owned())
            }
            Change::Resumed => (EventKind::PolicyResumed, format!("actor {actor} may run again"), String::new()),
            Change::Denied(points) => {
                let points = list(points);
                (EventKind::PolicyStopped, format!("actor {actor} runs on without {points}: a policy denies it"), points)
            }
            Change::Allowed(points) => {
                let points = list(points);
                (EventKind::PolicyResumed, format!("actor {actor} may use {points} again"), points)
            }
            Change::Memory { from, to } => {
                let kind = if to < from { EventKind::PolicyStopped } else { EventKind::PolicyResumed };
                (kind, format!("actor {actor} may hold {to} MiB from the next growth on, {from} MiB before"), format!("{to} MiB"))
            }
        };
        let policies = self.force.policies().iter().map(|(policy, version)| format!("{policy} v{version}")).collect::<Vec<_>>();
        let details = [("actor", actor.to_string()), ("what", what), ("policies", policies.join(", "))];
        self.actions.push_back(Action::Audit(actor.clone(), message.clone()));
        self.actions.push_back(Action::Record(kind, message, details.map(|(name, value)| (name.to_owned(), value)).into()));
    }

    /// Says that the code of an actor was refused.
    pub(super) fn tell_refused(&mut self, actor: &ActorId, why: &str) {
        self.record_actor(EventKind::ClaimRefused, actor, format!("{actor}: {why}"));
    }
}

/// Whether an actor has a link to a server that is not the lattice's own. Requests over http are looked at one by one.
fn connects(spec: &ComponentAssignment) -> bool {
    spec.links.iter().any(|link| match &link.settings.kind {
        KindSettings::Messaging(settings) => settings.cluster_uri.is_some(),
        KindSettings::KeyValue(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => false,
    })
}
