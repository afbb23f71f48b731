//! `stop provider`.

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, HostId, ProviderId};

use crate::args::HostsArg;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Stop a provider, or take it off some hosts
///
/// A provider that links still use is stopped only with --force; the actors then wait for it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl stop provider kv
  lattice-ctl stop provider http --host NEDGE02")]
pub(crate) struct StopProvider {
    /// Id of the provider
    #[arg(value_name = "ID")]
    id: ProviderId,

    /// Stop it even if links use it
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl StopProvider {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "provider", name: self.id.to_string(), done: "stopped" };
        writer.run(intent, &|view, desired| self.edit(view, desired)).await
    }

    fn edit(&self, view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
        let hosts = self.hosts.find(&view.inventory)?;
        let known =
            view.inventory.hosts.keys().chain(view.inventory.absent.keys()).cloned().collect::<std::collections::BTreeSet<HostId>>();
        desired.stop_provider(&self.id, &hosts, &known, self.force).map_err(|error| problems::edit(&error, desired))?;
        let linked = |id: &ActorId| desired.links_of(id).any(|link| link.target == self.id);
        Ok(Edited { actors: desired.components.keys().filter(|id| linked(id)).cloned().collect(), ..Edited::default() })
    }
}
