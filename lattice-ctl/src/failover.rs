//! The failover actor, as the command line asks it.

use std::time::Duration;

use lattice_core::subject::{self, FailoverVerb};
use lattice_core::system::SystemActor;
use lattice_core::wire::failover::FailoverStatus;

use crate::connection::Session;
use crate::system::{self, Unanswered};

/// Asks any replica how it stands.
///
/// # Errors
/// [`Unanswered`].
pub(crate) async fn status(session: &Session, patience: Duration) -> Result<FailoverStatus, Unanswered> {
    let subject = subject::failover_request(session.name(), FailoverVerb::Status);
    system::ask(session, SystemActor::Failover, &subject, Vec::new(), patience).await
}
