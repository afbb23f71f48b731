//! `policy sync`.

use clap::Args;
use lattice_core::policy::report::Wanted;

use super::document::{self, Opened};
use super::watch::{Patience, Watch};
use crate::commands::signing::now_s;
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
        let stored = session.lattice.read_policies().await?;
        let opened = stored.iter().filter_map(|(policy, stored)| {
            let opened = Opened::of(stored, policy, session.name());
            if opened.is_none() {
                output.note(&format!("note: {}", document::unreadable(policy).message));
            }
            opened
        });
        let (sound, flawed): (Vec<Opened>, Vec<Opened>) = opened.partition(|opened| opened.flaw.is_none());
        for opened in flawed {
            let warning = opened.warning(now_s()).unwrap_or_default();
            output.note(&format!("note: policy {} v{}: {warning}", opened.bundle.policy.policy_id, opened.mark.version));
        }
        let wanted: Vec<Wanted> = sound.iter().map(Opened::wanted).collect();
        if wanted.is_empty() {
            output.note("no policies; `lattice-ctl policy put <file>` puts one");
        }
        watch.until_all(output, wanted, tokio::time::Instant::now(), self.patience.get()).await
    }
}
