//! `policy sync`.

use std::time::Duration;

use clap::Args;

use super::watch::{PATIENCE, Watch, stored};
use crate::args;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;

/// Wait until every host enforces the newest version of every policy
///
/// Names the hosts that do not: exit code 5 if some are silent or late, 6 if some refuse.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy sync
  lattice-ctl policy sync --timeout 5s")]
pub(crate) struct Sync {
    /// How long to wait for the hosts: 250ms, 5s, 2m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Sync {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let watch = Watch::asked(&session).await?;
        let wanted = stored(&session).await?;
        if wanted.is_empty() {
            output.note("no policies; `lattice-ctl policy put <file>` puts one");
        }
        watch.until_all(output, wanted, tokio::time::Instant::now(), self.timeout.unwrap_or(PATIENCE)).await
    }
}
