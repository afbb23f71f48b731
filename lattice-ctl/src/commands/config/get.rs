//! `config get`.

use std::collections::BTreeMap;

use clap::Args;
use lattice_core::desired::EditError;
use lattice_core::id::ConfigName;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, printable};
use crate::problems;
use crate::view::View;

/// Show a config, one of its values, or the names of all
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl config get
  lattice-ctl config get edge-processor
  lattice-ctl config get edge-processor temp_threshold")]
pub(crate) struct Get {
    /// Name of the config; without it, all are listed
    #[arg(value_name = "NAME")]
    name: Option<ConfigName>,

    /// Only this value, as it is
    #[arg(value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// All configs by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct All(BTreeMap<String, BTreeMap<String, String>>);

/// One config.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct One(BTreeMap<String, String>);

/// One value.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Value(String);

impl Get {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let desired = View::read(&Session::open(&self.connection).await?).await?.desired;
        let missing = |name: String| problems::edit(&EditError::Missing { what: "config", name }, &desired);
        let Some(name) = &self.name else {
            return output.print(&All(desired.configs.iter().map(|(name, config)| (name.to_string(), config.values.clone())).collect()));
        };
        let config = desired.configs.get(name).ok_or_else(|| missing(name.to_string()))?;
        let Some(key) = &self.key else { return output.print(&One(config.values.clone())) };
        let value = config.values.get(key).ok_or_else(|| missing(format!("{name} {key}")))?;
        output.print(&Value(value.clone()))
    }
}

impl Document for All {
    fn text(&self, _wide: bool) -> String {
        let rows =
            self.0.iter().flat_map(|(name, values)| values.iter().map(move |(key, value)| vec![name.clone(), key.clone(), value.clone()]));
        columns(&["CONFIG", "KEY", "VALUE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| format!("config/{name}")).collect()
    }
}

impl Document for One {
    fn text(&self, _wide: bool) -> String {
        self.0.iter().map(|(key, value)| format!("{key}={}", printable(value))).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl Document for Value {
    fn text(&self, _wide: bool) -> String {
        self.0.clone()
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
}
