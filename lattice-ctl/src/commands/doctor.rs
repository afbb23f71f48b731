//! `doctor`.

use std::time::{Duration, Instant};

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::inventory::Health;
use lattice_core::plan;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire::report::{ComponentState, HostReport};
use lattice_core::wire::schedule::SchedulerStatus;
use serde::Serialize;

use crate::commands::policy::{self, Weight};
use crate::connection::{ConnectionArgs, Session};
use crate::error::{CommandError, Outcome};
use crate::local::context;
use crate::output::{Document, Output, columns, new_causes};
use crate::scheduler;
use crate::standing;
use crate::view::View;

/// Oldest nats-server that is good enough.
const OLDEST_SERVER: (i64, i64, i64) = (2, 14, 0);
/// A round trip that takes longer is worth a warning: time-outs are made for less.
const SLOW_ROUND_TRIP: Duration = Duration::from_millis(500);

/// Check the server, the lattice, its hosts and links, and say what to do about what is wrong
///
/// Exit code 1 if something is wrong; warnings are no failure.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warning,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Report(Vec<Check>);

impl Doctor {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let mut report = Report(Vec::new());
        match Session::open(&self.connection).await {
            Ok(session) => report.examine(&session).await,
            Err(CommandError::Problem(problem)) => report.problem("server", *problem),
            Err(closed @ CommandError::OutputClosed) => return Err(closed),
        }
        output.print(&report)?;
        let wrong = report.0.iter().filter(|check| check.verdict == Verdict::Wrong).count();
        match wrong {
            0 => Ok(()),
            1 => Err(Problem::new(ErrorCode::Failed, "1 thing is wrong").into()),
            _ => Err(Problem::new(ErrorCode::Failed, format!("{wrong} things are wrong")).into()),
        }
    }
}

impl Report {
    async fn examine(&mut self, session: &Session) {
        self.server(session).await;
        self.durability(session);
        // Reading the account's streams needs JetStream; what is there already is only checked, never changed.
        match session.lattice.exists().await {
            Err(error) => return self.problem("JetStream", error.into()),
            Ok(false) => {
                let message = format!("lattice `{}` does not exist on this server", session.name());
                return self.problem(
                    "lattice",
                    Problem::new(ErrorCode::NotFound, message).hint("`lattice-ctl up` makes one; --lattice names another"),
                );
            }
            Ok(true) => self.ok("JetStream", "on".to_owned()),
        }
        match session.lattice.ensure().await {
            Ok(()) => self.ok("lattice", format!("`{}`, all its streams with safe settings", session.name())),
            Err(error) => self.problem("lattice", error.into()),
        }
        match View::read(session).await {
            Ok(view) => {
                self.hosts(&view);
                self.scheduler(session, &view).await;
                self.plan(&view);
                self.links(&view);
                self.actors(&view);
                self.stream(session, &view).await;
                self.policies(session, &view).await;
            }
            Err(CommandError::Problem(problem)) => self.problem("state", *problem),
            Err(CommandError::OutputClosed) => {}
        }
    }

    async fn server(&mut self, session: &Session) {
        let connection = session.connection();
        let info = connection.client().server_info();
        let start = Instant::now();
        let flushed = connection.client().flush().await;
        let trip = start.elapsed();
        let version =
            format!("{} {} at {}, round trip {:.1} ms", info.server_name, info.version, connection.url(), trip.as_secs_f64() * 1000.0);
        let (major, minor, patch) = OLDEST_SERVER;
        if flushed.is_err() {
            self.add("server", Verdict::Wrong, format!("{} does not answer", connection.url()), None);
        } else if !connection.client().is_server_compatible(major, minor, patch) {
            self.add("server", Verdict::Wrong, version, Some(format!("at least {major}.{minor} is needed")));
        } else if trip > SLOW_ROUND_TRIP {
            self.add("server", Verdict::Warning, version, Some("the way to the server is slow".to_owned()));
        } else {
            self.ok("server", version);
        }
    }

    /// Whether a power cut is survived; known only of a server that `up` started on this machine.
    fn durability(&mut self, session: &Session) {
        let check = "durability";
        match context::state_of(session.connection().url()).and_then(|state| state.fsync) {
            Some(true) => self.ok(check, "what is acknowledged survives a power cut".to_owned()),
            Some(false) => {
                let detail = "what is acknowledged survives the crash of any process, not a power cut".to_owned();
                self.add(check, Verdict::Warning, detail, Some("`lattice-ctl up --durability fsync` survives both".to_owned()));
            }
            None => self.ok(check, "not known: the server was not started here; its sync_interval should be always".to_owned()),
        }
    }

    fn hosts(&mut self, view: &View) {
        let answering = view.inventory.hosts.len();
        let absent: Vec<String> =
            view.inventory.absent.keys().filter(|host| !view.was_stopped(host)).map(|host| view.inventory.name_of(host)).collect();
        let unwell = |host: &&HostReport| standing::health(host, view) != Health::Healthy;
        let degraded: Vec<&str> = view.inventory.hosts.values().filter(unwell).map(|host| host.name.as_str()).collect();
        if !absent.is_empty() {
            let hint = "start it again: `lattice-host --data-dir …`; or look at its network".to_owned();
            self.add("hosts", Verdict::Wrong, format!("{answering} answer; silent: {}", absent.join(", ")), Some(hint));
        } else if answering == 0 {
            self.add(
                "hosts",
                Verdict::Wrong,
                "none answers".to_owned(),
                Some("`lattice-ctl up`, or `lattice-host --nats-url …`".to_owned()),
            );
        } else if !degraded.is_empty() {
            self.add("hosts", Verdict::Warning, format!("{answering} answer; degraded: {}", degraded.join(", ")), None);
        } else {
            self.ok("hosts", format!("{answering} answer"));
        }
    }

    async fn scheduler(&mut self, session: &Session, view: &View) {
        let check = "scheduler";
        if !scheduler::is_wanted(&view.desired) {
            let hint = "`lattice-ctl up` starts one; until then changes need --local-plan".to_owned();
            return self.add(check, Verdict::Warning, "none is to run".to_owned(), Some(hint));
        }
        let asked = scheduler::ask::<SchedulerStatus>(session, SchedulerVerb::Status, Vec::new(), scheduler::PATIENCE).await;
        match asked.map_err(Problem::from) {
            Err(problem) => self.problem(check, problem),
            Ok(status) if !status.cloned.is_empty() => {
                let ids: Vec<&str> = status.cloned.iter().map(AsRef::as_ref).collect();
                let hint = "give one of them another data folder".to_owned();
                self.add(check, Verdict::Wrong, format!("two processes use the identity {}", ids.join(", ")), Some(hint));
            }
            Ok(status) if !status.ready => {
                let detail = format!("the one on {} does not know enough to plan yet", status.node);
                self.add(check, Verdict::Warning, detail, Some("it waits for the heartbeats of all hosts".to_owned()));
            }
            Ok(status) => self.ok(check, format!("the one on {} answers and hears {} hosts", status.node, status.hosts)),
        }
    }

    fn plan(&mut self, view: &View) {
        let behind: Vec<String> = view
            .inventory
            .hosts
            .values()
            .filter(|host| view.plan.assignments.get(&host.id).is_some_and(|part| host.applied_generation < part.generation))
            .map(|host| host.name.to_string())
            .collect();
        let generation = view.plan.generation();
        let next = plan::plan(&view.desired, view.revision, &view.inventory, &view.verdicts, &view.plan);
        for (actor, trouble) in &next.troubles {
            self.problem("plan", trouble.problem(actor));
        }
        match next.is_empty() {
            false => {
                let hosts: Vec<String> = next.changed.keys().map(|host| view.inventory.name_of(host)).collect();
                let detail = format!("generation {generation} is behind desired state on {}", hosts.join(", "));
                self.add("plan", Verdict::Warning, detail, Some("the next change brings it up to date".to_owned()));
            }
            true if !behind.is_empty() => {
                let detail = format!("generation {generation} is not applied yet on {}", behind.join(", "));
                self.add("plan", Verdict::Warning, detail, Some("is it still loading? `lattice-ctl get inventory`".to_owned()));
            }
            true => self.ok("plan", format!("generation {generation} is applied everywhere")),
        }
    }

    fn links(&mut self, view: &View) {
        let dangling: Vec<String> =
            plan::dangling_links(&view.desired).iter().map(|(_, link)| format!("{} → {}", link.source, link.target)).collect();
        if dangling.is_empty() {
            return self.ok("links", format!("{}, none without its provider", view.desired.links.len()));
        }
        let hint = "`lattice-ctl start provider …`, or `lattice-ctl link del …`".to_owned();
        self.add("links", Verdict::Wrong, format!("provider not started: {}", dangling.join(", ")), Some(hint));
    }

    fn actors(&mut self, view: &View) {
        let (mut troubles, mut waiting) = (Vec::new(), Vec::new());
        for host in view.inventory.hosts.values() {
            for (id, actor) in &host.components {
                match &actor.state {
                    ComponentState::Failed(_) => troubles.push(format!("{id} on {}: {}", host.name, actor.state)),
                    ComponentState::Waiting(_) => waiting.push(format!("{id} on {}: {}", host.name, actor.state)),
                    ComponentState::Running | ComponentState::Starting => {}
                }
                troubles.extend(actor.link_errors.iter().map(|(link, why)| format!("{id} on {}: link {link}: {why}", host.name)));
            }
            let providers = host.providers.iter().filter_map(|(id, provider)| Some((id, provider.error.as_ref()?)));
            troubles.extend(providers.map(|(id, why)| format!("provider {id} on {}: {why}", host.name)));
        }
        if !troubles.is_empty() {
            self.add("actors", Verdict::Wrong, troubles.join("; "), Some("`lattice-ctl get inventory`, `lattice-ctl logs`".to_owned()));
        }
        if !waiting.is_empty() {
            self.add("actors", Verdict::Warning, waiting.join("; "), Some("`lattice-ctl link put …` gives what they wait for".to_owned()));
        }
        if troubles.is_empty() && waiting.is_empty() {
            self.ok("actors", format!("{}, none in trouble", view.desired.components.len()));
        }
    }

    async fn stream(&mut self, session: &Session, view: &View) {
        let wanted = crate::change::consumers(session.name(), &view.desired);
        match session.lattice.edge_stream_status().await {
            Err(error) => self.problem("stream", error.into()),
            Ok(None) if !wanted.is_empty() => {
                let hint = "give the links again: `lattice-ctl link put … --delivery jetstream`".to_owned();
                self.add("stream", Verdict::Wrong, "durable links have no stream".to_owned(), Some(hint));
            }
            Ok(None) => self.ok("stream", "none, and no link needs one".to_owned()),
            Ok(Some(stream)) if stream.owner.as_deref() != Some(session.name().as_str()) => {
                let owner = stream.owner.unwrap_or_else(|| "nobody that we know".to_owned());
                self.add(
                    "stream",
                    Verdict::Warning,
                    format!("{} belongs to {owner}", stream.name),
                    Some("links of this lattice cannot be durable".to_owned()),
                );
            }
            Ok(Some(stream)) => {
                let there: Vec<&str> = stream.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
                let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|name| !there.contains(name)).collect();
                if missing.is_empty() {
                    return self
                        .ok("stream", format!("{}: {} messages, {} consumers", stream.name, stream.messages, stream.consumers.len()));
                }
                let hint = "give the link again: `lattice-ctl link put …`".to_owned();
                self.add("stream", Verdict::Wrong, format!("{} lacks the consumers {}", stream.name, missing.join(", ")), Some(hint));
            }
        }
    }

    async fn policies(&mut self, session: &Session, view: &View) {
        let check = "policies";
        match policy::checkup(session, view).await {
            Ok(findings) => {
                for finding in findings {
                    let verdict = match finding.weight {
                        Weight::Fine => Verdict::Ok,
                        Weight::Soon => Verdict::Warning,
                        Weight::Wrong => Verdict::Wrong,
                    };
                    self.add(check, verdict, finding.detail, finding.hint.map(str::to_owned));
                }
            }
            Err(CommandError::Problem(problem)) => self.problem(check, *problem),
            Err(CommandError::OutputClosed) => {}
        }
    }

    fn ok(&mut self, check: &'static str, detail: String) {
        self.add(check, Verdict::Ok, detail, None);
    }

    fn problem(&mut self, check: &'static str, problem: Problem) {
        let causes: String = new_causes(&problem).iter().map(|cause| format!(": {cause}")).collect();
        self.add(check, Verdict::Wrong, format!("{}{causes}", problem.message), problem.hint);
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, detail: String, hint: Option<String>) {
        self.0.push(Check { check, verdict, detail, hint });
    }
}

impl Document for Report {
    fn text(&self, _wide: bool) -> String {
        let mark = |verdict| match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Wrong => "wrong",
        };
        let rows = self.0.iter().map(|check| {
            let hint = check.hint.as_ref().map(|hint| format!(" — {hint}")).unwrap_or_default();
            vec![mark(check.verdict).to_owned(), check.check.to_owned(), format!("{}{hint}", check.detail)]
        });
        columns(&["", "CHECK", "DETAIL"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().filter(|check| check.verdict == Verdict::Wrong).map(|check| check.check.to_owned()).collect()
    }
}
