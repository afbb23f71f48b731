//! `config put`.

use std::collections::BTreeMap;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ConfigName;

use super::readers;
use crate::args;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Set values of a config; its other values stay
///
/// A changed value counts from the next message on, without a restart.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl config put edge-processor temp_threshold=85.0 humidity_threshold=90.0 alert_enabled=true")]
pub(crate) struct Put {
    /// Name of the config: an actor's id, or any name that actors, providers and links refer to
    #[arg(value_name = "NAME")]
    name: ConfigName,

    /// Values
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = args::pair)]
    values: Vec<(String, String)>,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Put {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let values = args::map("value", &self.values)?;
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "config", name: self.name.to_string(), done: "put" };
        writer.run(intent, &|_: &View, desired| self.edit(&values, desired)).await
    }

    fn edit(&self, values: &BTreeMap<String, String>, desired: &mut Desired) -> Result<Edited, Problem> {
        desired.put_config(self.name.clone(), values.clone()).map_err(|error| problems::edit(&error, desired))?;
        Ok(Edited { actors: readers(&self.name, desired), ..Edited::default() })
    }
}
