//! What a command looks at before it decides: desired state, the plan, and the hosts that answer.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostId, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::plan::PlanState;
use lattice_core::subject::Verb;
use lattice_core::wire::{self, report::HostReport};
use lattice_nats::StoreError;

use crate::connection::Session;
use crate::error::Outcome;

/// How long hosts that should be there are waited for; a host behind a slow mobile link answers within half of it.
pub(crate) const ANSWER_WINDOW: Duration = Duration::from_secs(1);

/// A lattice at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What should be.
    pub(crate) desired: Desired,
    /// Revision on which a change of it may be committed.
    pub(crate) revision: Revision,
    /// What was planned.
    pub(crate) plan: PlanState,
    /// What is.
    pub(crate) inventory: Inventory,
}

impl View {
    /// Reads all of it.
    ///
    /// # Errors
    /// `lattice … does not exist`; what the store says.
    pub(crate) async fn read(session: &Session) -> Outcome<Self> {
        let (plan, desired, revision) = stored(session).await?;
        let inventory = Inventory::new(reports(session, &plan).await?, plan.assignments.values());
        Ok(Self { desired, revision, plan, inventory })
    }

    /// Reads again what is stored; the hosts are taken to be as they were a moment ago.
    ///
    /// # Errors
    /// As [`View::read`].
    pub(crate) async fn renewed(&self, session: &Session) -> Outcome<Self> {
        let (plan, desired, revision) = stored(session).await?;
        let inventory = Inventory::new(self.inventory.hosts.values().cloned(), plan.assignments.values());
        Ok(Self { desired, revision, plan, inventory })
    }

    /// Whether a host was told to stop and has not come back since.
    pub(crate) fn was_stopped(&self, host: &HostId) -> bool {
        self.plan.assignments.get(host).is_some_and(|assignment| assignment.stop.is_some()) && !self.inventory.hosts.contains_key(host)
    }
}

/// Plan and desired state, in this order, so that no plan is ever made from a desired state that is older than that of its
/// parent.
async fn stored(session: &Session) -> Outcome<(PlanState, Desired, Revision)> {
    let plan = session.lattice.read_plan().await.map_err(|error| no_lattice(session, error))?;
    let (desired, revision) = session.lattice.read_desired().await.map_err(|error| no_lattice(session, error))?;
    Ok((plan, desired, revision))
}

/// Asks every host. Those that were told to stop are not waited for.
async fn reports(session: &Session, plan: &PlanState) -> Outcome<Vec<HostReport>> {
    let expected: BTreeSet<HostId> = plan.assignments.values().filter(|a| a.stop.is_none()).map(|a| a.host.clone()).collect();
    let answers = session.lattice.ask_all(Verb::Inventory, Bytes::new(), &expected, ANSWER_WINDOW).await?;
    Ok(answers.iter().filter_map(|answer| wire::decode(answer).ok()).collect())
}

fn no_lattice(session: &Session, error: StoreError) -> Problem {
    match error {
        StoreError::Missing { what: "bucket" | "stream", .. } => {
            let message = format!("lattice `{}` does not exist on {}", session.name(), session.connection().url());
            Problem::new(ErrorCode::NotFound, message).hint("`lattice-ctl up` makes one; --lattice and --nats-url name another")
        }
        other => other.into(),
    }
}
