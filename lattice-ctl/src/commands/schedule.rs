//! `schedule`: what the scheduler thinks.

mod explain;
mod plan;
mod status;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// Ask the scheduler: where a task would go, why an actor is where it is, how it stands
#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    #[command(visible_alias = "place")]
    Plan(plan::PlanTasks),
    Explain(explain::Explain),
    Status(status::Status),
}

impl Schedule {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Plan(verb) => verb.run(output).await,
            Self::Explain(verb) => verb.run(output).await,
            Self::Status(verb) => verb.run(output).await,
        }
    }
}
