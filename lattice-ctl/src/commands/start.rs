//! `start`: actors and providers.

mod actor;
mod provider;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// Start an actor or a provider
#[derive(Debug, Subcommand)]
pub(crate) enum Start {
    #[command(visible_alias = "component")]
    Actor(Box<actor::StartActor>),
    Provider(Box<provider::StartProvider>),
}

impl Start {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Actor(verb) => verb.run(output).await,
            Self::Provider(verb) => verb.run(output).await,
        }
    }
}
