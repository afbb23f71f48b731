//! `failover run`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::Generation;
use serde::Serialize;
use tokio::time::Instant;

use super::outlook::{self, Outlook};
use super::plan::Planned;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output};
use crate::problems;
use crate::view::View;

/// Move everything that may move off a host now, as if it were gone
///
/// Unlike `node drain` nothing waits for the host: use it for one that hangs. It keeps nothing but what is bound to it, and
/// gets work again after its next start or with `node uncordon`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl failover run NEDGE03
  lattice-ctl failover NEDGE03 --yes
  lattice-ctl node uncordon NEDGE03              # takes it back")]
pub(crate) struct Run {
    /// The host: id, name or unique beginning of either
    #[arg(value_name = "HOST", required = true, num_args = 1)]
    host: Vec<String>,

    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What was moved.
#[derive(Debug, Serialize)]
struct Moved {
    #[serde(flatten)]
    outlook: Outlook,
    /// Plan that moved it.
    planned: Generation,
    /// Milliseconds from the command until every host that answers had done its part.
    took_ms: u64,
}

impl Run {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let host = self.host.first().ok_or_else(|| problems::usage("which host?"))?;
        let session = Session::open(&self.connection).await?;
        let view = View::read(&session).await?;
        let id = view.inventory.find(host)?;
        let start = outlook::last_start(&session, &view, &id).await?;
        let outlook = Outlook::of(&view, &id, outlook::downtime_ms(None, &view.desired));
        if let Some(problem) = outlook.no_target().filter(|_| outlook.moves.is_empty()) {
            return Err(problem.into());
        }
        if self.change.dry_run {
            return output.print(&Planned(outlook));
        }
        self.confirm(&outlook, output)?;
        let begun = Instant::now();
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "host", name: outlook.host.clone(), done: "failed over" };
        // What has nowhere to go is named at the end; the rest moves.
        let edit = |_: &View, desired: &mut Desired| {
            outlook::take_for_gone(desired, &id, &start);
            Ok(Edited { may_displace: true, gone: BTreeSet::from([id.clone()]), ..Edited::default() })
        };
        writer.apply(intent, &edit).await?;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let after = session.lattice.read_plan().await?;
        let done = Outlook { left_behind: outlook.left_behind, ..Outlook::between(&view, &id, &after, took_ms) };
        let problem = done.no_target();
        output.print(&Moved { planned: after.generation(), outlook: done, took_ms })?;
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    fn confirm(&self, outlook: &Outlook, output: &Output) -> Result<(), Problem> {
        if self.yes {
            return Ok(());
        }
        let question =
            format!("take {} for gone and move {} off it?", outlook.host, count(outlook.plans.iter().map(|p| p.actor_ids.len()).sum()));
        match output.ask(&question) {
            Some(true) => Ok(()),
            Some(false) => Err(problems::usage("nothing was changed")),
            None => {
                Err(problems::usage("there is nobody to ask").hint("--yes does it without asking; `failover plan` shows what would move"))
            }
        }
    }
}

fn count(actors: usize) -> String {
    if actors == 1 { "1 actor".to_owned() } else { format!("{actors} actors") }
}

impl Document for Moved {
    fn text(&self, _wide: bool) -> String {
        let Outlook { host, moves, staying, .. } = &self.outlook;
        let mut lines: Vec<String> =
            moves.iter().map(|moved| format!("{} moved to {} (instances {})", moved.actor, moved.to, moved.instances)).collect();
        lines.extend(staying.iter().map(|(actor, why)| format!("{actor} stays: {why}")));
        lines.push(format!("host {host} failed over in {} ms (generation {})", self.took_ms, self.planned));
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![format!("host/{}", self.outlook.host)]
    }
}
