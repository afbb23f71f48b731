//! `stream`: the public stream of readings and commands.

mod ensure;
mod status;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// The stream edge-events, which keeps readings and commands
#[derive(Debug, Subcommand)]
pub(crate) enum StreamVerb {
    Ensure(ensure::Ensure),
    Status(status::Status),
}

impl StreamVerb {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Ensure(verb) => verb.run(output).await,
            Self::Status(verb) => verb.run(output).await,
        }
    }
}
