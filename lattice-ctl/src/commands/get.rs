//! `get`: what there is.

mod actors;
mod claims;
mod hosts;
mod inventory;
pub(super) mod links;

use clap::Subcommand;

use crate::commands::policy::GetPolicies;
use crate::error::Outcome;
use crate::output::Output;

/// Show hosts, what they run, links, actors, claims, policies
#[derive(Debug, Subcommand)]
pub(crate) enum Get {
    #[command(alias = "host")]
    Hosts(hosts::Hosts),
    #[command(alias = "inventories")]
    Inventory(inventory::GetInventory),
    #[command(alias = "link")]
    Links(links::Links),
    #[command(alias = "actor", alias = "component", alias = "components")]
    Actors(actors::Actors),
    #[command(alias = "claim")]
    Claims(claims::Claims),
    #[command(alias = "policy")]
    Policies(GetPolicies),
}

impl Get {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Hosts(verb) => verb.run(output).await,
            Self::Inventory(verb) => verb.run(output).await,
            Self::Links(verb) => verb.run(output).await,
            Self::Actors(verb) => verb.run(output).await,
            Self::Claims(verb) => verb.run(output).await,
            Self::Policies(verb) => verb.run(output).await,
        }
    }
}
