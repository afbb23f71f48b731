//! `config put`.

use std::collections::BTreeMap;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ConfigName;
use lattice_core::liveness::FailoverSettings;

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
  lattice-ctl config put edge-processor temp_threshold=85.0 humidity_threshold=90.0 alert_enabled=true
  lattice-ctl config put failover heartbeat_timeout_ms=30000 max_error_count=5 profile=lan auto_failover=true")]
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
        let known = FailoverSettings::of(desired).faults;
        desired.put_config(self.name.clone(), values.clone()).map_err(|error| problems::edit(&error, desired))?;
        check_failover(&known, desired)?;
        Ok(Edited { actors: readers(&self.name, desired), ..Edited::default() })
    }
}

/// Refuses settings of failure detection that make no sense, besides those that are `known` to make none.
fn check_failover(known: &[String], desired: &Desired) -> Result<(), Problem> {
    let faults: Vec<String> = FailoverSettings::of(desired).faults.into_iter().filter(|fault| !known.contains(fault)).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let message = format!("settings of failover make no sense: {}", faults.join(", "));
    Err(problems::usage(message)
        .hint("heartbeat_timeout_ms from 500, max_error_count from 1, profile=lan|wan|test, auto_failover=true|false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, value: (&str, &str)) -> Result<(), Problem> {
        let put = Put {
            name: ConfigName::new(name).unwrap(),
            values: Vec::new(),
            change: ChangeArgs::default(),
            wait: WaitArg::default(),
            connection: ConnectionArgs::default(),
        };
        put.edit(&[(value.0.to_owned(), value.1.to_owned())].into(), &mut Desired::default()).map(drop)
    }

    #[test]
    fn settings_of_failover_are_checked_when_they_are_put() {
        assert_eq!(put("failover", ("profile", "wan")), Ok(()));
        assert_eq!(put("edge-processor", ("colour", "red")), Ok(()), "what an actor reads is its own matter");
        for (name, value) in [("failover", ("colour", "red")), ("lattice-failover", ("profile", "slow"))] {
            let problem = put(name, value).unwrap_err();
            assert!(problem.message.contains(&format!("`{}` = `{}`", value.0, value.1)), "{problem:?}");
            assert_eq!(problem.code.exit_code(), 2);
        }
    }
}
