//! `stop host`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::HostId;

use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::view::View;

/// Stop a host: it finishes what it has, says good-bye and ends
///
/// It comes back when somebody starts it again, with the same identity and the same actors; `lattice-ctl up` does not
/// restart it by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl stop host NEDGE02")]
pub(crate) struct StopHost {
    /// Hosts: ids, names or unique beginnings
    #[arg(value_name = "HOST", required = true, value_delimiter = ',')]
    hosts: Vec<String>,

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

impl StopHost {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let question = format!("Stop {} of lattice {}?", self.hosts.join(", "), session.name());
        // Without a terminal nobody is there to ask: the command itself is the answer.
        if !self.yes && !self.change.dry_run && output.ask(&question) == Some(false) {
            return Err(Problem::new(ErrorCode::Failed, "nothing was stopped").into());
        }
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "host", name: self.hosts.join(","), done: "stopped" };
        writer.run(intent, &|view, desired| stop(&self.hosts, view, desired)).await
    }
}

/// Ends this start of each of the hosts.
pub(in crate::commands) fn stop(hosts: &[String], view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
    let hosts = hosts.iter().map(|text| view.inventory.find(text)).collect::<Result<BTreeSet<HostId>, Problem>>()?;
    for host in hosts {
        let Some(report) = view.inventory.hosts.get(&host) else {
            let name = view.inventory.name_of(&host);
            return Err(Problem::new(ErrorCode::HostNotFound, format!("host not found: {name} does not answer"))
                .hint("a host that is gone needs no stopping"));
        };
        desired.edit_node(&host, |node| node.stop = Some(report.incarnation.clone()));
    }
    Ok(Edited::default())
}
