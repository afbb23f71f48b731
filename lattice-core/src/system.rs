//! The actors that are part of the control plane.

use serde::{Deserialize, Serialize};

/// Which part of the control plane an actor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemActor {
    /// Makes and commits plans.
    Scheduler,
}
