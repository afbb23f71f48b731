//! `stop`: actors, providers, hosts.

mod actor;
pub(super) mod host;
mod provider;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// Stop an actor, a provider or a host
#[derive(Debug, Subcommand)]
pub(crate) enum Stop {
    #[command(visible_alias = "component")]
    Actor(actor::StopActor),
    Provider(provider::StopProvider),
    Host(host::StopHost),
}

impl Stop {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Actor(verb) => verb.run(output).await,
            Self::Provider(verb) => verb.run(output).await,
            Self::Host(verb) => verb.run(output).await,
        }
    }
}
