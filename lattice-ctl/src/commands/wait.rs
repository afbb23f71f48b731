//! `wait`.

use std::time::Duration;

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, HostId};
use lattice_core::inventory::Health;
use lattice_core::wire::verdict::Standing;
use serde::Serialize;
use tokio::time::Instant;

use crate::args;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output};
use crate::problems;
use crate::standing::{self, Judged, Leftovers, Ready};
use crate::view::View;

/// How long is waited unless `--timeout` says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Wait until an actor or a host is as it should be
///
/// What hosts report counts, not the plan: an instance is running when its host has applied its part of the plan and says
/// that the instance is ready.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl wait actor/edge-processor --for running=12 --timeout 30s
  lattice-ctl wait actor/edge-processor --for stopped
  lattice-ctl wait host/NEDGE03 --for drained
  lattice-ctl wait host/NEDGE03 --for dead --timeout 30s       # it is taken for gone, so that its work moves")]
pub(crate) struct Wait {
    /// actor/ID or host/NAME
    #[arg(value_name = "KIND/NAME", value_parser = target)]
    target: Target,

    /// An actor: running=N (exactly), running (all that it should have), stopped; a host: healthy, drained, dead, gone
    #[arg(long = "for", value_name = "CONDITION", value_parser = condition)]
    condition: Condition,

    /// How long to wait: 250ms, 5s, 2m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Of what something is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Actor(ActorId),
    Host(String),
}

/// What is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Running(Option<u32>),
    Stopped,
    Healthy,
    Drained,
    /// Taken for gone.
    Dead,
    /// It does not answer.
    Gone,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Done,
    /// What is missing: a sentence, and the places where.
    Missing(String, Vec<String>),
}

#[derive(Debug, Serialize)]
struct Waited {
    target: String,
    condition: String,
    waited_ms: u64,
}

fn target(text: &str) -> Result<Target, String> {
    match text.split_once('/') {
        Some(("actor" | "component", id)) => ActorId::new(id).map(Target::Actor).map_err(|error| error.to_string()),
        Some(("host" | "node", name)) if !name.is_empty() => Ok(Target::Host(name.to_owned())),
        Some(_) | None => Err("give actor/ID or host/NAME".to_owned()),
    }
}

fn condition(text: &str) -> Result<Condition, String> {
    match (text, text.split_once('=')) {
        ("running", _) => Ok(Condition::Running(None)),
        ("stopped", _) => Ok(Condition::Stopped),
        ("healthy", _) => Ok(Condition::Healthy),
        ("drained", _) => Ok(Condition::Drained),
        ("dead", _) => Ok(Condition::Dead),
        ("gone", _) => Ok(Condition::Gone),
        (_, Some(("running", number))) => {
            number.parse().map(|number| Condition::Running(Some(number))).map_err(|error| format!("running={number}: {error}"))
        }
        _ => Err("give running=N, running or stopped for an actor; healthy, drained, dead or gone for a host".to_owned()),
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Actor(id) => write!(f, "actor/{id}"),
            Self::Host(name) => write!(f, "host/{name}"),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(Some(number)) => write!(f, "running={number}"),
            Self::Running(None) => f.write_str("running"),
            Self::Stopped => f.write_str("stopped"),
            Self::Healthy => f.write_str("healthy"),
            Self::Drained => f.write_str("drained"),
            Self::Dead => f.write_str("dead"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

impl Wait {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        check(&self.target, self.condition)?;
        let session = Session::open(&self.connection).await?;
        let (start, limit) = (Instant::now(), self.timeout.unwrap_or(DEFAULT_TIMEOUT));
        let mut live = output.live();
        loop {
            let view = View::read(&session).await?;
            let (missing, causes) = match look(&self.target, self.condition, &view)? {
                Progress::Done => break,
                Progress::Missing(missing, causes) => (missing, causes),
            };
            if start.elapsed() + LOOK_AGAIN >= limit {
                return Err(late(&self.target, limit, &missing, causes).into());
            }
            live.show(format!("waiting: {missing}"));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        drop(live);
        let waited_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        output.print(&Waited { target: self.target.to_string(), condition: self.condition.to_string(), waited_ms })
    }
}

/// Whether such a thing can ever be so.
fn check(target: &Target, condition: Condition) -> Result<(), Problem> {
    let fits = match condition {
        Condition::Running(_) | Condition::Stopped => matches!(target, Target::Actor(_)),
        Condition::Healthy | Condition::Drained | Condition::Dead | Condition::Gone => matches!(target, Target::Host(_)),
    };
    if fits {
        return Ok(());
    }
    let hint = match target {
        Target::Actor(_) => "an actor can be running=N, running or stopped",
        Target::Host(_) => "a host can be healthy, drained, dead or gone",
    };
    Err(problems::usage(format!("{target} can never be {condition}")).hint(hint))
}

fn look(target: &Target, condition: Condition, view: &View) -> Result<Progress, Problem> {
    match (target, condition) {
        (Target::Actor(id), Condition::Running(number)) => running(id, number, view),
        (Target::Actor(id), _) => Ok(stopped(id, view)),
        // It may be on its way.
        (Target::Host(name), Condition::Healthy) => Ok(view
            .inventory
            .find(name)
            .map_or_else(|problem| Progress::Missing(problem.message, Vec::new()), |host| healthy(name, &host, view))),
        (Target::Host(name), Condition::Dead) => Ok(dead(name, &view.inventory.find(name)?, view)),
        (Target::Host(name), Condition::Drained) => {
            let host = view.inventory.find(name)?;
            let is_told = view.desired.nodes.get(&host).is_some_and(|node| node.draining);
            let left = Leftovers::of(&host, view);
            if is_told && left.is_empty() {
                return Ok(Progress::Done);
            }
            let word = if is_told { "is draining" } else { "was not told to drain: `lattice-ctl node drain`" };
            let bound = left.bound.iter().map(|(actor, why)| format!("{actor}: {why}"));
            let moving = left.moving.iter().map(|actor| format!("{actor}: still there"));
            Ok(Progress::Missing(format!("{name} {word}"), bound.chain(moving).collect()))
        }
        (Target::Host(name), _) => {
            let host = view.inventory.find(name)?;
            let answers = view.inventory.hosts.contains_key(&host);
            Ok(if answers { Progress::Missing(format!("{name} answers"), Vec::new()) } else { Progress::Done })
        }
    }
}

fn running(id: &ActorId, number: Option<u32>, view: &View) -> Result<Progress, Problem> {
    let spec = view.desired.components.get(id);
    let planned = || view.plan.shares_of(id).values().fold(0_u64, |sum, share| sum.saturating_add(u64::from(*share)));
    let wanted = match (number, spec) {
        (Some(number), _) => u64::from(number),
        (None, Some(spec)) if !spec.needs.daemon => u64::from(spec.max),
        (None, _) => planned(),
    };
    if spec.is_none() && wanted > 0 {
        return Err(problems::no_actor(id.as_str(), &view.desired));
    }
    let ready = Ready::count(id, view);
    if ready.instances == wanted {
        return Ok(Progress::Done);
    }
    Ok(Progress::Missing(format!("{} of {wanted} instances are ready", ready.instances), ready.missing))
}

fn stopped(id: &ActorId, view: &View) -> Progress {
    let still = view.inventory.hosts.values().filter(|report| report.components.contains_key(id));
    let still: Vec<String> = still.map(|report| format!("{}: still runs it", report.name)).collect();
    if still.is_empty() && !view.desired.components.contains_key(id) {
        return Progress::Done;
    }
    Progress::Missing(format!("{id} is not stopped"), still)
}

fn healthy(name: &str, host: &HostId, view: &View) -> Progress {
    let verdict = || Judged::of(host, view).map(|judged| format!("{}: {}", judged.standing.as_str(), judged.reason));
    let Some(report) = view.inventory.hosts.get(host) else {
        return Progress::Missing(format!("{name} does not answer"), verdict().into_iter().collect());
    };
    match standing::health(report, view) {
        Health::Healthy if standing::has_applied(report, view) => Progress::Done,
        Health::Healthy => Progress::Missing(format!("{name} has not applied its part of the plan yet"), Vec::new()),
        health @ (Health::Degraded | Health::Unhealthy) => {
            Progress::Missing(format!("{name} is {}", health.as_str()), verdict().into_iter().collect())
        }
    }
}

fn dead(name: &str, host: &HostId, view: &View) -> Progress {
    match Judged::of(host, view) {
        Some(Judged { standing: Standing::Dead, .. }) => Progress::Done,
        Some(judged) => Progress::Missing(format!("{name} is {}", judged.standing.as_str()), vec![judged.reason]),
        None if view.inventory.hosts.contains_key(host) => Progress::Missing(format!("{name} answers"), Vec::new()),
        None => Progress::Missing(format!("{name} does not answer, and nobody has judged it yet"), Vec::new()),
    }
}

fn late(target: &Target, limit: Duration, missing: &str, causes: Vec<String>) -> Problem {
    let mut problem = Problem::new(ErrorCode::TimedOut, format!("{target}: {missing} after {} s", limit.as_secs_f32()));
    problem.causes = causes;
    problem.hint(match target {
        Target::Actor(id) => format!("`lattice-ctl schedule explain {id}`, `lattice-ctl get inventory`"),
        Target::Host(_) => "`lattice-ctl get hosts`, `lattice-ctl get inventory`".to_owned(),
    })
}

impl Document for Waited {
    fn text(&self, _wide: bool) -> String {
        format!("{} is {}", self.target, self.condition)
    }

    fn names(&self) -> Vec<String> {
        vec![self.target.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use lattice_core::desired::{Desired, NodeSpec};
    use lattice_core::id::Generation;

    fn applied(mut view: View) -> View {
        for report in view.inventory.hosts.values_mut() {
            report.applied_generation = Generation(1);
        }
        view
    }

    #[test]
    fn words() {
        assert_eq!(target("actor/a").unwrap(), Target::Actor(actor("a")));
        assert_eq!(target("node/NEDGE01").unwrap(), Target::Host("NEDGE01".into()));
        for bad in ["a", "actor/", "actor/a.b", "host/", "lattice/x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        for good in ["running=12", "running", "stopped", "healthy", "drained", "dead", "gone"] {
            assert_eq!(condition(good).unwrap().to_string(), good);
        }
        for bad in ["running=", "running=x", "running=-1", "running=4294967296", "Running", ""] {
            assert!(condition(bad).is_err(), "{bad}");
        }
        let never = check(&Target::Host("h".into()), Condition::Stopped).unwrap_err();
        assert_eq!((never.message.as_str(), never.code.exit_code()), ("host/h can never be stopped", 2));
        assert!(check(&Target::Actor(actor("a")), Condition::Gone).is_err());
    }

    #[test]
    fn actors() {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(&[0]), Some(2), false).unwrap();
        let view = applied(view(2, desired));
        let look = |id: &str, condition| look(&Target::Actor(actor(id)), condition, &view);
        let missing = Progress::Missing("0 of 2 instances are ready".into(), vec!["NEDGE01: 0 of 2 ready".into()]);
        assert_eq!(look("a", Condition::Running(Some(2))).unwrap(), missing);
        assert_eq!(look("a", Condition::Running(None)).unwrap(), missing);
        assert_eq!(look("a", Condition::Running(Some(0))).unwrap(), Progress::Done);
        assert_eq!(look("b", Condition::Running(Some(2))).unwrap_err().message, "actor not found: b");
        assert_eq!(look("b", Condition::Stopped).unwrap(), Progress::Done);
        assert!(matches!(look("a", Condition::Stopped).unwrap(), Progress::Missing(..)));
        let problem = late(&Target::Actor(actor("a")), Duration::from_secs(30), "0 of 2 instances are ready", vec!["x".into()]);
        assert_eq!(problem.message, "actor/a: 0 of 2 instances are ready after 30 s");
        assert_eq!((problem.code.exit_code(), problem.causes.len()), (5, 1));
    }

    #[test]
    fn hosts() {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(&[0]), Some(2), false).unwrap();
        let mut view = applied(view(2, desired));
        let of = |name: &str, condition, view: &View| look(&Target::Host(name.into()), condition, view);
        assert_eq!(of("NEDGE01", Condition::Healthy, &view).unwrap(), Progress::Done);
        assert!(matches!(of("NEDGE07", Condition::Healthy, &view).unwrap(), Progress::Missing(..)), "it may be on its way");
        assert_eq!(of("NEDGE07", Condition::Gone, &view).unwrap_err().message, "host not found: NEDGE07");
        assert!(matches!(of("NEDGE01", Condition::Gone, &view).unwrap(), Progress::Missing(..)));
        assert!(matches!(of("NEDGE02", Condition::Drained, &view).unwrap(), Progress::Missing(..)), "nobody said so");
        assert_eq!(of("NEDGE02", Condition::Dead, &view).unwrap(), Progress::Missing("NEDGE02 answers".into(), Vec::new()));
        let start = view.inventory.hosts[&host(1)].incarnation.clone();
        view.desired.edit_node(&host(1), |node| node.failed_over = Some(start));
        assert_eq!(of("NEDGE02", Condition::Dead, &view).unwrap(), Progress::Done);
        let unhealthy = Progress::Missing("NEDGE02 is Unhealthy".into(), vec!["Dead: failed over by hand".into()]);
        assert_eq!(of("NEDGE02", Condition::Healthy, &view).unwrap(), unhealthy);
        for n in 0..2 {
            view.desired.nodes.insert(host(n), NodeSpec { draining: true, ..NodeSpec::default() });
        }
        assert_eq!(of("NEDGE02", Condition::Drained, &view).unwrap(), Progress::Done);
        let still = Progress::Missing("NEDGE01 is draining".into(), vec!["a: it was given NEDGE01 with --hosts".into()]);
        assert_eq!(of("NEDGE01", Condition::Drained, &view).unwrap(), still);
        let gone = view.inventory.hosts.remove(&host(1)).unwrap();
        view.inventory.absent.insert(gone.id, Some(gone.name));
        assert_eq!(of("NEDGE02", Condition::Gone, &view).unwrap(), Progress::Done);
    }
}
