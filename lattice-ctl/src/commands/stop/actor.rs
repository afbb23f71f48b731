//! `stop actor`.

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::ActorId;

use crate::args::HostsArg;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Stop an actor, or take it off some hosts
///
/// Its links, config, buckets and durable messages stay: started again, it goes on where it was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl stop actor edge-processor
  lattice-ctl stop actor edge-processor --host NEDGE03")]
pub(crate) struct StopActor {
    /// Id of the actor
    #[arg(value_name = "ID")]
    id: ActorId,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl StopActor {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "actor", name: self.id.to_string(), done: "stopped" };
        writer.run(intent, &|view, desired| self.edit(view, desired)).await
    }

    fn edit(&self, view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
        let hosts = self.hosts.find(&view.inventory)?;
        let shares = view.plan.shares_of(&self.id);
        let known = desired.components.contains_key(&self.id);
        if let Some(stranger) = hosts.iter().find(|host| known && !shares.contains_key(*host)) {
            let on: Vec<String> = shares.keys().map(|host| view.inventory.name_of(host)).collect();
            let message = format!("actor {} does not run on {}", self.id, view.inventory.name_of(stranger));
            return Err(Problem::new(ErrorCode::NotFound, message).hint(format!("it runs on {}", on.join(", "))));
        }
        desired.stop_component(&self.id, &hosts, &shares).map_err(|error| problems::edit(&error, desired))?;
        Ok(Edited::default())
    }
}
