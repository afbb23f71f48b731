//! The plan: what the store says of it, when it is followed, and what follows with it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use lattice_core::agent::plan_gate::Origin;
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::event::EventKind;

use super::{EventLoop, Fetched};
use crate::reason;
use crate::trust::warden::Told;

/// What is known of the plan's store, so that each change is said once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Store {
    Unknown,
    Read,
    NoLattice,
    Unreadable(String),
}

impl EventLoop {
    /// The store was asked for the plan.
    pub(super) fn handle_fetched(&mut self, fetched: Fetched) {
        let store = match fetched {
            Fetched::Plan(assignment) => {
                self.gate.handle_plan(assignment);
                Store::Read
            }
            Fetched::NoLattice => Store::NoLattice,
            Fetched::Failed(error) => Store::Unreadable(reason::of(&error)),
        };
        self.outlets.health.lattice_found.store(store == Store::Read, Ordering::Relaxed);
        if store == self.store {
            return;
        }
        match &store {
            Store::Read => tracing::info!("plan read"),
            Store::NoLattice => tracing::warn!("nobody has made this lattice yet (`lattice-ctl up` does), waiting for it"),
            Store::Unreadable(why) => self.trouble(&format!("plan cannot be read, trying again: {why}")),
            Store::Unknown => {}
        }
        self.store = store;
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
    }

    /// Follows the plan if there is one that need not wait any more.
    pub(super) fn follow_plan(&mut self) {
        let Some((assignment, origin)) = self.gate.poll(self.now()) else { return };
        if self.agent.is_draining() {
            return;
        }
        match assignment {
            Some(assignment) => self.follow(*assignment, origin),
            None => {
                if let Some(current) = self.agent.assignment() {
                    tracing::warn!(generation = %current.generation, "the plan holds nothing for this host, it keeps what it has");
                }
            }
        }
    }

    fn follow(&mut self, assignment: Assignment, origin: Origin) {
        let offered = assignment.generation;
        if origin == Origin::Disk {
            tracing::warn!(generation = %offered, "the plan cannot be read: starting from the assignment on disk");
        }
        match self.agent.handle_assignment(assignment, origin == Origin::Disk) {
            Ok(()) => {
                self.last_refusal = None;
                self.follow_assignment();
            }
            Err(refusal) => {
                let why = refusal.to_string();
                // The same one is offered again at each resync.
                if self.last_refusal.as_ref() != Some(&why) {
                    tracing::warn!(%offered, "{why}");
                    let details = BTreeMap::from([("generation".to_owned(), offered.to_string())]);
                    self.outlets.recorder.record(EventKind::Refused, why.clone(), details);
                    self.last_refusal = Some(why);
                }
            }
        }
    }

    /// What else depends on the assignment in force.
    fn follow_assignment(&mut self) {
        if let Some(assignment) = self.agent.assignment() {
            self.lease.set_timing(assignment.timing);
            // A host on its way out finishes what it owns, and gives it up at the end.
            if !self.agent.is_draining() {
                self.claims.assign(&assignment.components);
            }
        }
    }
}
