//! `scale`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ActorId;

use crate::args::HostsArg;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Set how many instances of an actor may run, and where
///
/// Instances are spread evenly over the hosts. --max 0 stops the actor.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl scale edge-processor --max 10
  lattice-ctl scale actor edge-processor --hosts NEDGE01,NEDGE02 --max 3")]
pub(crate) struct Scale {
    /// Id of the actor; the word `actor` may stand before it
    #[arg(value_name = "[actor] ID", required = true, num_args = 1..=2)]
    words: Vec<String>,

    /// Instances that may run at once in the whole lattice; unchanged if it is left out
    #[arg(long, value_name = "N", alias = "max-instances")]
    max: Option<u32>,

    /// Accepted for old scripts: instances are spread evenly over the named hosts
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    spread: Option<Option<String>>,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Scale {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let id = self.id()?;
        if self.max.is_none() && self.hosts.hosts.is_empty() {
            return Err(problems::usage("nothing to change: give --max, --hosts or both").into());
        }
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let done = if self.max == Some(0) { "stopped" } else { "scaled" };
        let intent = Intent { kind: "actor", name: id.to_string(), done };
        writer.run(intent, &|view, desired| self.edit(&id, view, desired)).await
    }

    fn id(&self) -> Result<ActorId, Problem> {
        let id = match self.words.as_slice() {
            [id] => id,
            [kind, id] if kind == "actor" || kind == "component" => id,
            [kind, ..] => {
                return Err(problems::usage(format!("`{kind}`: only actors can be scaled")).hint("lattice-ctl scale actor <id> --max <n>"));
            }
            [] => return Err(problems::usage("which actor?")),
        };
        ActorId::new(id.as_str()).map_err(|error| problems::name(&error))
    }

    fn edit(&self, id: &ActorId, view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
        let hosts = self.hosts.find(&view.inventory)?;
        let Some(spec) = desired.components.get(id) else { return Err(problems::no_actor(id.as_str(), desired)) };
        let (max, hosts) = (self.max.unwrap_or(spec.max), (!hosts.is_empty()).then_some(hosts));
        desired.scale_component(id, max, hosts, None).map_err(|error| problems::edit(&error, desired))?;
        let actors = if max == 0 { BTreeSet::new() } else { BTreeSet::from([id.clone()]) };
        Ok(Edited { actors, ..Edited::default() })
    }
}
