//! The scheduler, as the command line asks it.

use std::time::Duration;

use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::subject::{self, SchedulerVerb};
use lattice_core::system::SystemActor;
use serde::de::DeserializeOwned;

use crate::connection::Session;
use crate::system;
pub(crate) use crate::system::{PATIENCE, Unanswered};

/// No scheduler that could do it.
pub(crate) fn missing(message: &str) -> Problem {
    system::missing(SystemActor::Scheduler, message)
}

/// Whether desired state holds a scheduler.
pub(crate) fn is_wanted(desired: &Desired) -> bool {
    system::is_wanted(SystemActor::Scheduler, desired)
}

/// Asks any replica.
///
/// # Errors
/// [`Unanswered`].
pub(crate) async fn ask<T: DeserializeOwned>(
    session: &Session,
    verb: SchedulerVerb,
    body: Vec<u8>,
    patience: Duration,
) -> Result<T, Unanswered> {
    let subject = subject::scheduler_request(session.name(), verb);
    system::ask(session, SystemActor::Scheduler, &subject, body, patience).await
}
