//! `node uncordon`.

use clap::Args;

use super::NodeArgs;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;

/// Let a host take work again: ends `cordon`, `drain`, and `failover` by hand
///
/// What has moved away stays where it is; only new work comes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl node uncordon NEDGE03")]
pub(crate) struct Uncordon {
    #[command(flatten)]
    node: NodeArgs,
}

impl Uncordon {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.node.connection).await?;
        let writer = self.node.writer(&session, output);
        let open = |node: &mut lattice_core::desired::NodeSpec| {
            node.cordoned = false;
            node.draining = false;
            node.failed_over = None;
        };
        writer.run(self.node.intent("uncordoned"), &|view, desired| self.node.edit(view, desired, open)).await
    }
}
