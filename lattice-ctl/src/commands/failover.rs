//! `failover`: moving work off hosts that are gone.

mod history;
mod outlook;
mod plan;
mod run;
mod status;

use clap::{Args, Subcommand};

use crate::error::Outcome;
use crate::output::Output;

/// Move the work of a host that is gone to others; see what was moved and why
///
/// The failover actor does this by itself (`config put failover auto_failover=false` switches that off). By hand the host
/// is taken for gone whatever is heard of it: what may move moves at once. It gets work again after its next start, or with
/// `node uncordon`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  lattice-ctl failover status
  lattice-ctl failover history
  lattice-ctl failover plan NEDGE03              # where everything would go, and why
  lattice-ctl failover NEDGE03                   # the same as failover run NEDGE03"
)]
pub(crate) struct Failover {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: run::Run,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Status),
    History(history::History),
    Plan(plan::PlanFailover),
    Run(Box<run::Run>),
}

impl Failover {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self.verb {
            None => self.run.run(output).await,
            Some(Verb::Status(verb)) => verb.run(output).await,
            Some(Verb::History(verb)) => verb.run(output).await,
            Some(Verb::Plan(verb)) => verb.run(output).await,
            Some(Verb::Run(verb)) => verb.run(output).await,
        }
    }
}
