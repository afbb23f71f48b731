//! `kv`: looking into buckets.

mod get;
mod ls;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// Look into key-value buckets
#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    Get(get::Get),
    #[command(alias = "list")]
    Ls(ls::Ls),
}

impl Kv {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Get(verb) => verb.run(output).await,
            Self::Ls(verb) => verb.run(output).await,
        }
    }
}
