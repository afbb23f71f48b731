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
        let is_system = desired.components.get(&self.id).is_some_and(|spec| spec.system.is_some());
        desired.stop_component(&self.id, &hosts, &shares).map_err(|error| problems::edit(&error, desired))?;
        let mut edited = Edited::default();
        if is_system && !desired.components.contains_key(&self.id) {
            edited.notes.push(
                "without it changes need --local-plan, and nothing is planned by itself; `lattice-ctl up` starts it again".to_owned(),
            );
        }
        Ok(edited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, view};

    #[test]
    fn only_where_it_runs() {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(&[0, 1]), Some(4), false).unwrap();
        let view = view(3, desired);
        let stop = |id: &str, host: &str| {
            let hosts = HostsArg { hosts: vec![host.to_owned()] };
            let verb = StopActor {
                id: actor(id),
                hosts,
                change: ChangeArgs::default(),
                wait: WaitArg::default(),
                connection: ConnectionArgs::default(),
            };
            let mut next = view.desired.clone();
            verb.edit(&view, &mut next).map(|_| next)
        };
        let next = stop("a", "NEDGE02").unwrap();
        assert_eq!((next.components["a"].max, next.components["a"].hosts.len()), (2, 1));
        let stranger = stop("a", "NEDGE03").unwrap_err();
        assert_eq!(stranger.message, "actor a does not run on NEDGE03");
        assert_eq!(stranger.hint.unwrap(), "it runs on NEDGE01, NEDGE02");
        assert_eq!(stop("a", "NEDGE04").unwrap_err().message, "host not found: NEDGE04");
        assert_eq!(stop("b", "NEDGE01").unwrap_err().message, "actor not found: b");
    }
}
