//! `policy sync`.

use clap::Args;

use super::watch::{Patience, Watch, stored};
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
    #[command(flatten)]
    patience: Patience,

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
        watch.until_all(output, wanted, tokio::time::Instant::now(), self.patience.get()).await
    }
}
