//! `scale`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ActorId;

use super::needs::{self, NeedsArgs};
use crate::args::{HostChoice, HostsArg};
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::ownership;
use crate::problems;
use crate::view::View;

/// Set how many instances of an actor may run, where, and what they ask of their hosts
///
/// Hosts that are named are taken as they are; without names, and with --hosts any, the scheduler chooses. What is not given
/// stays as it is. --max 0 stops the actor.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl scale edge-processor --max 12 --spread=region --dry-run
  lattice-ctl scale actor edge-processor --hosts NEDGE01,NEDGE02 --max 3
  lattice-ctl scale edge-processor --hosts any --region ap-east-1 --cpu 250 --memory 64")]
pub(crate) struct Scale {
    /// Id of the actor; the word `actor` may stand before it
    #[arg(value_name = "[actor] ID", required = true, num_args = 1..=2)]
    words: Vec<String>,

    /// Instances that may run at once in the whole lattice; unchanged if it is left out
    #[arg(long, value_name = "N", alias = "max-instances")]
    max: Option<u32>,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    needs: NeedsArgs,
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
        if self.max.is_none() && self.hosts.hosts.is_empty() && self.needs.is_empty() {
            return Err(problems::usage("nothing to change: give --max, --hosts, or what the actor asks of its hosts").into());
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
        let hosts = match self.hosts.choice(&view.inventory)? {
            HostChoice::Unsaid => None,
            HostChoice::Any => Some(BTreeSet::new()),
            HostChoice::Named(hosts) => Some(hosts),
        };
        let Some(spec) = desired.components.get(id) else { return Err(problems::no_actor(id.as_str(), desired)) };
        let needs = self.needs.apply(&spec.needs)?;
        let max = ownership::instances(self.max, &needs)?.unwrap_or(spec.max);
        let (before, after) = (needs::together(&spec.needs, spec.max), needs::together(&needs, max));
        desired.scale_component(id, max, hosts, Some(needs)).map_err(|error| problems::edit(&error, desired))?;
        if let Some(spec) = desired.components.get_mut(id) {
            needs::hold(&mut spec.limits, before, after);
        }
        let actors = if max == 0 { BTreeSet::new() } else { BTreeSet::from([id.clone()]) };
        Ok(Edited { actors, ..Edited::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use clap::Parser as _;
    use lattice_core::desired::ComponentSpec;
    use lattice_core::needs::Spread;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        scale: Scale,
    }

    fn scaled(line: &str, hosts: &[u8]) -> Result<Option<ComponentSpec>, Problem> {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(hosts), Some(5), false).unwrap();
        let view = view(3, desired);
        let scale = Line::try_parse_from(line.split_whitespace()).map(|line| line.scale).unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut next = view.desired.clone();
        let id = scale.id()?;
        scale.edit(&id, &view, &mut next).map(|_| next.components.remove("a"))
    }

    #[test]
    fn both_forms() {
        for line in ["scale a --max 7", "scale actor a --max 7", "scale component a --max 7"] {
            assert_eq!(scaled(line, &[0]).unwrap().unwrap().max, 7, "{line}");
        }
        assert!(scaled("scale provider a --max 7", &[0]).unwrap_err().message.contains("only actors can be scaled"));
        assert!(scaled("scale b --max 7", &[0]).unwrap_err().message.contains("actor not found: b"));
        assert_eq!(scaled("scale a --max 0", &[0]).unwrap(), None);
    }

    #[test]
    fn hosts_stay_unless_others_are_named() {
        let hosts = |line: &str| scaled(line, &[0]).unwrap().unwrap().hosts;
        assert_eq!(hosts("scale a --max 7"), BTreeSet::from([host(0)]));
        assert_eq!(hosts("scale a --hosts NEDGE02,NEDGE03"), BTreeSet::from([host(1), host(2)]));
        assert_eq!(hosts("scale a --hosts any"), BTreeSet::new());
        assert!(scaled("scale a --hosts NEDGE04", &[0]).unwrap_err().message.contains("host not found: NEDGE04"));
    }

    #[test]
    fn what_is_asked_for_is_kept_and_held_by_the_limit() {
        let spec = scaled("scale a --max 12 --spread=region --memory 32 --cpu 100", &[]).unwrap().unwrap();
        assert_eq!((spec.max, spec.needs.cpu, spec.needs.memory_mb, spec.limits.memory_mb), (12, 100, 32, 384));
        assert_eq!(spec.needs.spread, Some(Spread::Label("region".into())));
        let nonsense = scaled("scale a --daemon --spread", &[]).unwrap_err();
        assert!(nonsense.message.contains("contradict"), "{nonsense:?}");
        assert_eq!(nonsense.code.exit_code(), 2);
    }
}
