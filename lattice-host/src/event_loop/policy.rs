//! What policies and claims do to the actors of this host: who is held, who may go on, what is said about it.
//!
//! The warden puts policies in force for calls before it tells the loop. Here follows what takes a decision per actor: which
//! cannot work any more and stop, which come back, and that nothing starts which must not.

use std::collections::BTreeMap;
use std::time::Duration;

use lattice_core::agent::Known;
use lattice_core::agent::plan_gate::PlanGate;
use lattice_core::claims::Claim;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::ActorId;
use lattice_core::link::KindSettings;
use lattice_core::policy::effects::{self, Change, Effect};
use lattice_core::policy::force::InForce;
use lattice_core::policy::rules::Point;
use lattice_core::wire::assignment::{Assignment, ComponentAssignment};
use lattice_core::wire::event::EventKind;

use super::{EventLoop, Fetched};
use crate::trust::warden::{News, Told};

/// How the policies stand, as the loop knows it.
pub(crate) struct PolicyDesk {
    /// What was told last.
    told: Told,
    /// What was in force when actors were judged last.
    force: std::sync::Arc<InForce>,
    /// The host complies before it starts anything.
    gate: PlanGate<Option<Box<Assignment>>>,
    /// Why code was refused by its claim, so that each refusal is said once.
    refused_claims: BTreeMap<ActorId, String>,
}

impl PolicyDesk {
    /// What the warden has restored from disk, and whether anybody may sign policies for this host.
    pub(crate) fn new(told: Told, force: std::sync::Arc<InForce>, awaited: bool) -> Self {
        Self { told, force, gate: PlanGate::new(awaited), refused_claims: BTreeMap::new() }
    }

    pub(super) fn enforced(&self) -> lattice_core::policy::report::Enforced {
        self.told.enforced.clone()
    }

    /// When a plan that waits is taken all the same.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.gate.poll_timeout()
    }
}

impl EventLoop {
    /// The connection has come, or gone.
    pub(super) fn note_connection(&mut self, connected: bool) {
        let now = self.now();
        if connected {
            self.policy.gate.handle_connected(now);
        } else if let Some(waited) = self.policy.gate.handle_disconnected() {
            self.kept = self.kept.take().or(waited);
        }
    }

    /// A plan from the store.
    pub(super) fn offer_plan(&mut self, assignment: Option<Box<Assignment>>) {
        let now = self.now();
        if let Some(assignment) = self.policy.gate.handle_plan(assignment, now) {
            self.handle_plan(assignment);
        }
    }

    /// Takes the plan that waited, if it need not wait any more.
    pub(super) fn release_plan(&mut self) {
        let now = self.now();
        if let Some(assignment) = self.policy.gate.poll(now) {
            self.handle_plan(assignment);
        }
    }

    /// Policies were read or have changed, or time has passed that matters to them.
    pub(super) fn handle_policy(&mut self, told: Told) {
        if told.read {
            self.policy.gate.handle_policies_read();
        }
        let changed = self.policy.told.enforced != told.enforced;
        let news = std::mem::take(&mut self.policy.told.news);
        self.policy.told = told;
        let news: Vec<News> = news.into_iter().chain(std::mem::take(&mut self.policy.told.news)).collect();
        for (kind, message, details) in news {
            self.outlets.recorder.record(kind, message, details);
        }
        self.judge_anew();
        self.release_plan();
        if changed {
            // The acknowledgement.
            self.send_report();
        }
    }

    /// Compares what is in force with what was, tells what that means for whom, and holds and lets go accordingly.
    fn judge_anew(&mut self) {
        let force = self.shield.in_force();
        let before = std::mem::replace(&mut self.policy.force, force.clone());
        if before == force {
            return;
        }
        let changes = effects::changes(&self.effects(&before), &self.effects(&force));
        for (actor, change) in changes {
            self.tell_change(&actor, &change);
        }
        if before.internal_only() != force.internal_only() {
            let connecting: Vec<ActorId> = self.agent.known().filter(|(_, known)| connects(known.spec)).map(|(id, _)| id.clone()).collect();
            for actor in connecting {
                self.agent.handle_relink(&actor);
            }
        }
        if before.revoked() != force.revoked() || before.permits() != force.permits() {
            self.agent.handle_trust();
        }
        self.review();
    }

    fn effects(&self, force: &InForce) -> BTreeMap<ActorId, Effect> {
        self.agent.known().map(|(id, known)| (id.clone(), effects::effect(force, known.spec, known.shape))).collect()
    }

    /// Judges every actor by what is in force.
    pub(super) fn review(&mut self) {
        let force = self.shield.in_force();
        let verdicts: Vec<_> = self.agent.known().map(|(id, known)| (id.clone(), self.verdict(&force, id, known))).collect();
        for (actor, why) in verdicts {
            self.hold(&actor, why);
        }
    }

    /// Why an actor that could run must not, at the very moment in which it would.
    pub(super) fn objection(&self, actor: &ActorId) -> Option<String> {
        let force = self.shield.in_force();
        self.agent.known().find(|(id, _)| *id == actor).and_then(|(id, known)| self.verdict(&force, id, known))
    }

    pub(super) fn hold(&mut self, actor: &ActorId, why: Option<String>) {
        let held = self.agent.known().find(|(id, _)| *id == actor).and_then(|(_, known)| known.held.map(str::to_owned));
        match (&held, &why) {
            (before, now) if before == now => return,
            (_, Some(why)) => tracing::warn!(target: "audit", %actor, why, "actor is not allowed to run"),
            (_, None) => tracing::warn!(target: "audit", %actor, "actor is allowed to run again"),
        }
        self.agent.handle_hold(actor, why);
    }

    fn verdict(&self, force: &InForce, actor: &ActorId, known: Known<'_>) -> Option<String> {
        if let Some(claim) = self.executor.claim(actor).filter(|claim| force.revoked().contains(&claim.issuer)) {
            return Some(revoked(claim).line());
        }
        let stopped = |point: Point, why: &lattice_core::policy::force::Denied| Some(why.problem(point).line());
        if self.executor.runs(actor, &known.spec.digest) {
            // What runs may go on when a policy has expired.
            return match effects::effect(force, known.spec, known.shape) {
                Effect::Stops { point, why } => stopped(point, &why),
                Effect::Runs { .. } => None,
            };
        }
        match effects::may_start(force, known.spec, known.shape) {
            Ok(()) => None,
            Err((Some(point), why)) => stopped(point, &why),
            Err((None, why)) => Some(why.start_problem().line()),
        }
    }

    fn tell_change(&self, actor: &ActorId, change: &Change) {
        let list = |points: &std::collections::BTreeSet<Point>| points.iter().map(|point| point.interface()).collect::<Vec<_>>().join(", ");
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
        tracing::warn!(target: "audit", kind = kind.token(), %actor, what, "{message}");
        let policies = self.policy.force.policies().iter().map(|(policy, version)| format!("{policy} v{version}")).collect::<Vec<_>>();
        let details = [("actor", actor.to_string()), ("what", what), ("policies", policies.join(", "))];
        self.outlets.recorder.record(kind, message, details.map(|(name, value)| (name.to_owned(), value)).into());
    }

    /// Says that code was refused by its claim, unless that was said.
    pub(super) fn tell_refused_claim(&mut self, actor: &ActorId, problem: &Problem) {
        let known = &mut self.policy.refused_claims;
        if known.get(actor) == Some(&problem.message) {
            return;
        }
        let agent = &self.agent;
        known.retain(|actor, _| agent.components().any(|(id, ..)| id == actor));
        known.insert(actor.clone(), problem.message.clone());
        tracing::warn!(target: "audit", %actor, "{}", problem.message);
        let details = BTreeMap::from([("actor".to_owned(), actor.to_string())]);
        self.outlets.recorder.record(EventKind::ClaimRefused, format!("{actor}: {}", problem.message), details);
    }

    /// How the plan was read, once it may be acted upon.
    pub(super) fn follow_fetched(&mut self, fetched: Fetched) -> super::Store {
        match fetched {
            Fetched::Plan(assignment) => {
                // The store's word counts more than what was kept.
                self.kept = None;
                self.offer_plan(assignment);
                super::Store::Read
            }
            Fetched::NoLattice => super::Store::NoLattice,
            Fetched::Failed(error) => super::Store::Unreadable(crate::reason::of(&error)),
        }
    }

    pub(super) fn start_from_disk(&mut self, kept: Assignment) {
        tracing::warn!(generation = %kept.generation, "the plan cannot be read: starting from the assignment on disk");
        match self.agent.handle_assignment(kept, true) {
            Ok(()) => self.follow_assignment(),
            Err(refusal) => tracing::warn!(%refusal, "assignment on disk refused"),
        }
    }
}

/// Whether an actor has a link to a server that is not the lattice's own.
fn connects(spec: &ComponentAssignment) -> bool {
    spec.links.iter().any(|link| match &link.settings.kind {
        KindSettings::Messaging(settings) => settings.cluster_uri.is_some(),
        KindSettings::KeyValue(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => false,
    })
}

fn revoked(claim: &Claim) -> Problem {
    let message = format!("actor start failed: invalid claim: the key of its issuer {} was revoked", claim.issuer);
    Problem::new(ErrorCode::InvalidClaim, message).hint("sign it with another key")
}
