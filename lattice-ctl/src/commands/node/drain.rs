//! `node drain`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, Generation, HostId};
use lattice_core::plan;
use tokio::time::Instant;

use super::NodeArgs;
use crate::change::{ChangeArgs, Edited, Writer};
use crate::commands::stop;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;
use crate::standing::{self, Leftovers};
use crate::view::View;

/// How long moving may take unless `--timeout` says otherwise: it goes in steps, so that little is down at once.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// If nothing has changed for so long although every host has applied its part, and what is left has nowhere to go, it stays.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Move what runs on a host to others, and place nothing new there
///
/// Each instance is ready elsewhere before the one here stops. Waits until nothing is left that could move. Actors that run on
/// every host stay; what is bound to the host is named, with exit code 7.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl node drain NEDGE03
  lattice-ctl node drain NEDGE03 --stop          # and end it
  lattice-ctl node uncordon NEDGE03              # takes it back")]
pub(crate) struct Drain {
    /// Stop the host when nothing is left on it
    #[arg(long, conflicts_with_all = ["no_wait", "dry_run"])]
    stop: bool,

    #[command(flatten)]
    node: NodeArgs,
}

impl Drain {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.node.connection).await?;
        let writer = self.node.writer(&session, output);
        // What has nowhere to go stays and is named at the end; the rest moves.
        let edit = |view: &View, desired: &mut Desired| {
            Ok(Edited { may_displace: true, ..self.node.edit(view, desired, |node| node.draining = true)? })
        };
        let drained = writer.apply(self.node.intent("drained"), &edit).await?;
        if self.node.change.dry_run || self.node.change.no_wait {
            return output.print(&drained);
        }
        self.until_empty(&session, output).await?;
        if !self.stop {
            return output.print(&drained);
        }
        // The state that it was drained at has passed.
        let how = ChangeArgs { if_revision: None, ..self.node.change.clone() };
        let writer = Writer { how: &how, ..writer };
        writer.run(self.node.intent("stopped"), &|view, desired| stop::host::stop(&self.node.hosts, view, desired)).await
    }

    async fn until_empty(&self, session: &Session, output: &Output) -> Outcome {
        let limit = self.node.wait.wait.unwrap_or(DEFAULT_TIMEOUT);
        let start = Instant::now();
        let mut live = output.live();
        let mut last: Option<(Look, Instant)> = None;
        loop {
            let view = View::read(session).await?;
            let look = Look::of(&self.node.find(&view)?, &view);
            let daemons: BTreeSet<&ActorId> = look.left.values().flat_map(|left| &left.daemons).collect();
            if look.left.values().all(Leftovers::is_empty) {
                drop(live);
                if !daemons.is_empty() {
                    let names: Vec<&str> = daemons.iter().map(|actor| actor.as_str()).collect();
                    output.note(&format!("note: {} runs on every host and stays", names.join(", ")));
                }
                return Ok(());
            }
            let since = last.take().filter(|(before, _)| *before == look).map_or_else(Instant::now, |(_, since)| since);
            if look.is_settled() && (look.nothing_moves() || since.elapsed() >= SETTLED_AFTER) {
                return Err(look.stuck(&view).into());
            }
            if start.elapsed() + LOOK_AGAIN >= limit {
                return Err(look.late(limit, &view).into());
            }
            live.show(format!("moving {}", look.lines(&view).join("; ")));
            last = Some((look, since));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// What is to be seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    generation: Generation,
    left: BTreeMap<HostId, Leftovers>,
    /// Every host that answers has applied its part, and the plan would not change.
    is_applied: bool,
    /// Why hosts do not take those that have nowhere to go.
    nowhere: BTreeMap<ActorId, Vec<String>>,
}

impl Look {
    fn of(hosts: &BTreeSet<HostId>, view: &View) -> Self {
        let next = plan::plan(&view.desired, view.revision, &view.inventory, &view.verdicts, &view.plan);
        let applied = view.inventory.hosts.values().all(|report| standing::has_applied(report, view));
        Self {
            generation: view.plan.generation(),
            left: hosts.iter().map(|host| (host.clone(), Leftovers::of(host, view))).collect(),
            is_applied: applied && next.is_empty(),
            nowhere: next.troubles.iter().map(|(actor, trouble)| (actor.clone(), trouble.problem(actor).causes)).collect(),
        }
    }

    /// Whether what is left stays.
    fn is_settled(&self) -> bool {
        self.is_applied && self.left.values().flat_map(|left| &left.moving).all(|actor| self.nowhere.contains_key(actor))
    }

    fn nothing_moves(&self) -> bool {
        self.left.values().all(|left| left.moving.is_empty())
    }

    /// What is left where, and why.
    fn lines(&self, view: &View) -> Vec<String> {
        let of_host = |(host, left): (&HostId, &Leftovers)| {
            let name = view.inventory.name_of(host);
            let moving = left.moving.iter().map(|actor| format!("{actor} off {name}")).collect::<Vec<_>>();
            let bound = left.bound.iter().map(|(actor, why)| format!("{actor} stays on {name}: {why}")).collect::<Vec<_>>();
            [moving, bound].concat()
        };
        self.left.iter().flat_map(of_host).collect()
    }

    fn stuck(&self, view: &View) -> Problem {
        let causes = self.left.iter().flat_map(|(host, left)| {
            let name = view.inventory.name_of(host);
            let bound = left.bound.iter().map(|(actor, why)| format!("{actor} on {name}: {why}")).collect::<Vec<_>>();
            let why = |actor: &ActorId| self.nowhere.get(actor).map(|causes| causes.join("; ")).unwrap_or_default();
            let nowhere =
                left.moving.iter().map(|actor| format!("{actor} on {name}: no other host can take it: {}", why(actor))).collect::<Vec<_>>();
            [bound, nowhere].concat()
        });
        let hosts: Vec<String> =
            self.left.iter().filter(|(_, left)| !left.is_empty()).map(|(host, _)| view.inventory.name_of(host)).collect();
        let actors: BTreeSet<&ActorId> = self.left.values().flat_map(|left| left.bound.keys().chain(&left.moving)).collect();
        let explain = actors.first().map_or_else(String::new, |actor| format!("`lattice-ctl schedule explain {actor}` says why; "));
        let message = format!("{} cannot be drained: {} cannot move", hosts.join(", "), count(actors.len()));
        let mut problem = Problem::new(ErrorCode::InsufficientResources, message);
        problem.causes = causes.collect();
        problem.hint(format!("{explain}`lattice-ctl node uncordon {}` takes it back", hosts.join(",")))
    }

    fn late(&self, limit: Duration, view: &View) -> Problem {
        let mut problem = Problem::new(ErrorCode::TimedOut, format!("not drained within {} s", limit.as_secs_f32()));
        problem.causes = self.lines(view);
        problem.hint("it goes on; `lattice-ctl wait host/<name> --for drained` waits longer")
    }
}

fn count(actors: usize) -> String {
    if actors == 1 { "1 actor".to_owned() } else { format!("{actors} actors") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};

    #[test]
    fn what_cannot_move_is_named() {
        let mut desired = Desired::default();
        desired.start_component(actor("bound"), component(&[0]), None, false).unwrap();
        desired.start_component(actor("free"), component(&[0, 1]), None, false).unwrap();
        let view = view(2, desired);
        let look = Look::of(&BTreeSet::from([host(0)]), &view);
        assert!(!look.is_applied && !look.nothing_moves());
        assert_eq!(look.lines(&view), ["free off NEDGE01", "bound stays on NEDGE01: it was given NEDGE01 with --hosts"]);
        let full = BTreeMap::from([(actor("free"), vec!["NEDGE02: it is full".to_owned()])]);
        let look = Look { nowhere: full, ..look };
        let stuck = look.stuck(&view);
        assert_eq!((stuck.message.as_str(), stuck.code.exit_code()), ("NEDGE01 cannot be drained: 2 actors cannot move", 7));
        assert_eq!(
            stuck.causes,
            ["bound on NEDGE01: it was given NEDGE01 with --hosts", "free on NEDGE01: no other host can take it: NEDGE02: it is full"]
        );
        assert!(stuck.hint.is_some_and(|hint| hint.contains("node uncordon NEDGE01")));
        let late = look.late(Duration::from_secs(5), &view);
        assert_eq!((late.message.as_str(), late.code.exit_code(), late.causes.len()), ("not drained within 5 s", 5, 2));
        assert!(Look::of(&BTreeSet::from([host(1)]), &view).left[&host(1)].bound.is_empty());
    }
}
