//! When the plan is followed: not before the policies were read, so that a host that was away complies before it starts
//! anything, and from the disk where the store does not answer.

use lattice_core::wire::assignment::Assignment;

use super::{EventLoop, Fetched, Store};
use crate::reason;
use crate::trust::warden::Told;

impl EventLoop {
    /// The connection has come, or gone.
    pub(super) fn note_connection(&mut self, connected: bool) {
        let now = self.now();
        if connected {
            self.gate.handle_connected(now);
        } else if let Some(waited) = self.gate.handle_disconnected() {
            self.kept = self.kept.take().or(waited);
        }
    }

    /// A plan from the store.
    pub(super) fn offer_plan(&mut self, assignment: Option<Box<Assignment>>) {
        let now = self.now();
        if let Some(assignment) = self.gate.handle_plan(assignment, now) {
            self.handle_plan(assignment);
        }
    }

    /// Takes the plan that waited, if it need not wait any more.
    pub(super) fn release_plan(&mut self) {
        let now = self.now();
        if let Some(assignment) = self.gate.poll(now) {
            self.handle_plan(assignment);
        }
    }

    /// Policies were read or have changed, or time has passed that matters to them. What is in force the agent knows already.
    pub(super) fn handle_policy(&mut self, told: Told) {
        if told.read {
            self.gate.handle_policies_read();
        }
        for (kind, message, details) in told.news {
            self.outlets.recorder.record(kind, message, details);
        }
        self.agent.handle_enforced(told.enforced);
        self.release_plan();
    }

    /// How the plan was read, once it may be acted upon.
    pub(super) fn follow_fetched(&mut self, fetched: Fetched) -> Store {
        match fetched {
            Fetched::Plan(assignment) => {
                // The store's word counts more than what was kept.
                self.kept = None;
                self.offer_plan(assignment);
                Store::Read
            }
            Fetched::NoLattice => Store::NoLattice,
            Fetched::Failed(error) => Store::Unreadable(reason::of(&error)),
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
