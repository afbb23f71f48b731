//! `node cordon`.

use clap::Args;

use super::NodeArgs;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;

/// Place nothing new on a host; what runs there stays
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl node cordon NEDGE03")]
pub(crate) struct Cordon {
    #[command(flatten)]
    node: NodeArgs,
}

impl Cordon {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.node.connection).await?;
        let writer = self.node.writer(&session, output);
        writer.run(self.node.intent("cordoned"), &|view, desired| self.node.edit(view, desired, |node| node.cordoned = true)).await
    }
}
