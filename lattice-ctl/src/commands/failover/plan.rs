//! `failover plan`.

use clap::Args;
use serde::Serialize;

use super::outlook::{self, Outlook};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::failover;
use crate::output::{Document, Output, columns};
use crate::system;
use crate::view::View;

/// Show where the work of a host would go if it were taken for gone, and why; nothing is changed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl failover plan NEDGE03
  lattice-ctl failover plan NEDGE03 -o json")]
pub(crate) struct PlanFailover {
    /// The host: id, name or unique beginning of either
    #[arg(value_name = "HOST")]
    host: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Planned(pub(super) Outlook);

impl PlanFailover {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let view = View::read(&session).await?;
        let host = view.inventory.find(&self.host)?;
        let status = failover::status(&session, system::PATIENCE).await.ok();
        let outlook = Outlook::of(&view, &host, outlook::downtime_ms(status.as_ref(), &view.desired));
        let problem = outlook.no_target();
        output.print(&Planned(outlook))?;
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }
}

impl Document for Planned {
    fn text(&self, _wide: bool) -> String {
        let Outlook { host, plans, moves, left_behind, staying, .. } = &self.0;
        if moves.is_empty() && left_behind.is_empty() && staying.is_empty() {
            return format!("nothing runs on {host}");
        }
        let mut lines = Vec::new();
        if !moves.is_empty() {
            let rows = moves.iter().map(|moved| {
                vec![moved.actor.to_string(), host.clone(), moved.to.clone(), moved.instances.to_string(), moved.reason.clone()]
            });
            lines.push(columns(&["ACTOR", "FROM", "TO", "INSTANCES", "WHY"], rows));
        }
        lines.extend(staying.iter().map(|(actor, why)| format!("{actor} stays: {why}")));
        lines.extend(left_behind.keys().map(|actor| format!("{actor} finds no other place")));
        if let Some(plan) = plans.first() {
            lines.push(format!("estimated downtime {} ms", plan.estimated_downtime_ms));
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.moves.iter().map(|moved| format!("actor/{}", moved.actor)).collect()
    }
}
