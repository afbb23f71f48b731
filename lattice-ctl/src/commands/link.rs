//! `link`: what an actor may use, and through what it is called.

mod del;
mod put;
mod shape;

use clap::Subcommand;

use crate::commands::get::links::Links;
use crate::error::Outcome;
use crate::output::Output;

/// Link actors to providers: the permission and the binding
#[derive(Debug, Subcommand)]
pub(crate) enum Link {
    Put(Box<put::Put>),
    #[command(visible_alias = "delete")]
    Del(del::Del),
    #[command(alias = "get", alias = "list")]
    Query(Links),
}

impl Link {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Put(verb) => Box::pin(verb.run(output)).await,
            Self::Del(verb) => verb.run(output).await,
            Self::Query(verb) => verb.run(output).await,
        }
    }
}
