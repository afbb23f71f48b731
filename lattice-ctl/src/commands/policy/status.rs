//! `policy status`.

use std::time::Duration;

use clap::Args;

use super::watch::{Standing, Watch};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;

/// Between two looks with --watch.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show which host enforces which version of each policy
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy status
  lattice-ctl policy status --watch")]
pub(crate) struct Status {
    /// Go on and print again whenever something changes; Ctrl-C ends it
    #[arg(long, short = 'w')]
    watch: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Status {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let mut before = None;
        loop {
            let watch = Watch::asked(&session).await?;
            let standing = Standing::of(&session, &watch).await?;
            if !self.watch {
                return output.print(&standing);
            }
            if before.as_ref() != Some(&standing) {
                output.print_next(&standing)?;
                before = Some(standing);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
