//! The policies of this host as its loop sees them: when a plan may be followed, and what is acknowledged.
//!
//! The warden puts policies in force for calls before it tells the loop; what they mean for whom is the agent's to decide.

use std::time::Duration;

use lattice_core::agent::plan_gate::PlanGate;
use lattice_core::policy::report::Enforced;
use lattice_core::wire::assignment::Assignment;

use super::{EventLoop, Fetched};
use crate::trust::warden::Told;

/// How the policies stand, as the loop knows it.
pub(crate) struct PolicyDesk {
    /// What the host says that it enforces.
    enforced: Enforced,
    /// The host complies before it starts anything.
    gate: PlanGate<Option<Box<Assignment>>>,
}

impl PolicyDesk {
    /// What the host enforces from its disk, and whether anybody may sign policies for it.
    pub(crate) fn new(enforced: Enforced, awaited: bool) -> Self {
        Self { enforced, gate: PlanGate::new(awaited) }
    }

    pub(super) fn enforced(&self) -> Enforced {
        self.enforced.clone()
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

    /// Policies were read or have changed, or time has passed that matters to them. What is in force the agent knows already.
    pub(super) fn handle_policy(&mut self, told: Told) {
        if told.read {
            self.policy.gate.handle_policies_read();
        }
        for (kind, message, details) in told.news {
            self.outlets.recorder.record(kind, message, details);
        }
        let before = std::mem::replace(&mut self.policy.enforced, told.enforced);
        self.release_plan();
        if before != self.policy.enforced {
            // The acknowledgement.
            self.send_report();
        }
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
