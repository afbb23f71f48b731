//! `config`: values that actors and links read.

mod del;
mod get;
mod put;

use std::collections::BTreeSet;

use clap::Subcommand;
use lattice_core::desired::{ComponentSpec, Desired};
use lattice_core::id::{ActorId, ConfigName};

use crate::error::Outcome;
use crate::output::Output;

/// Config by name; an actor sees the config that is named like it
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    #[command(alias = "create")]
    Put(put::Put),
    #[command(alias = "list")]
    Get(get::Get),
    #[command(visible_alias = "delete")]
    Del(del::Del),
}

impl Config {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Put(verb) => verb.run(output).await,
            Self::Get(verb) => verb.run(output).await,
            Self::Del(verb) => verb.run(output).await,
        }
    }
}

/// Actors that see config `name`: the one of that name, those that ask for it, and those whose links do.
fn readers(name: &ConfigName, desired: &Desired) -> BTreeSet<ActorId> {
    let by_link = |id: &ActorId| desired.links_of(id).any(|link| link.config.contains(name));
    let sees = |id: &ActorId, spec: &ComponentSpec| id.as_str() == name.as_str() || spec.config.contains(name) || by_link(id);
    desired.components.iter().filter(|(id, spec)| sees(id, spec)).map(|(id, _)| id.clone()).collect()
}
