//! `config del`.

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ConfigName;

use super::readers;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Delete a config, or only some of its values
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl config del edge-processor alert_enabled
  lattice-ctl config del edge-processor")]
pub(crate) struct Del {
    /// Name of the config
    #[arg(value_name = "NAME")]
    name: ConfigName,

    /// Values to delete; all, and the config itself, if none is named
    #[arg(value_name = "KEY")]
    keys: Vec<String>,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Del {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "config", name: self.name.to_string(), done: "deleted" };
        writer.run(intent, &|_: &View, desired| self.edit(desired)).await
    }

    fn edit(&self, desired: &mut Desired) -> Result<Edited, Problem> {
        desired.delete_config(&self.name, &self.keys).map_err(|error| problems::edit(&error, desired))?;
        Ok(Edited { actors: readers(&self.name, desired), ..Edited::default() })
    }
}
