//! `policy`: what actors may use, signed, pushed to every host, and who complies.

mod checkup;
mod document;
mod get;
mod history;
mod lineage;
mod put;
mod rollback;
mod status;
mod sync;
mod watch;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

pub(super) use checkup::{Weight, checkup};
pub(super) use get::Get as GetPolicies;

/// Say what actors may use on which hosts, and see who complies
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    Put(Box<put::Put>),
    Get(get::Get),
    Sync(sync::Sync),
    Status(status::Status),
    History(history::History),
    Rollback(rollback::Rollback),
}

impl Policy {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Put(verb) => verb.run(output).await,
            Self::Get(verb) => verb.run(output).await,
            Self::Sync(verb) => verb.run(output).await,
            Self::Status(verb) => verb.run(output).await,
            Self::History(verb) => verb.run(output).await,
            Self::Rollback(verb) => verb.run(output).await,
        }
    }
}
