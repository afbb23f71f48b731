//! Waiting until hosts have applied a change, and looking at what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, Generation, HostId, Incarnation, ProviderId};
use lattice_core::inventory::Inventory;
use lattice_core::plan::PlanState;
use lattice_core::subject::{self, Verb};
use lattice_core::wire;
use lattice_core::wire::event::{Event, EventKind};
use lattice_core::wire::report::{ComponentState, HostReport};

use super::{Draft, late};
use crate::connection::Session;
use crate::error::{CommandError, Outcome};
use crate::output::Output;

/// Patience with one host's last word on a change that it has applied.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Exit code of what is not allowed.
const DENIED_EXIT: u8 = 6;
/// Between two looks at something that may yet be well.
const INSPECT_AGAIN: Duration = Duration::from_millis(250);

/// What a host has to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Awaited {
    /// It has applied this generation or a later one.
    Generation(Generation),
    /// This start of it has said `bye`.
    Gone(Incarnation),
}

/// What came of waiting.
#[derive(Debug, Default)]
pub(super) struct Waited {
    /// Names of hosts that do not answer and get their part when they are back.
    pub(super) absent: Vec<String>,
    /// Names of hosts that left while they were waited for.
    pub(super) left: Vec<String>,
    /// How the actors that the change was about stand now: `running`, `waiting: …`.
    pub(super) states: BTreeMap<ActorId, String>,
}

/// Ears on the bus, opened before a change is written.
pub(super) struct Watch {
    heartbeats: BoxStream<'static, HostReport>,
    events: BoxStream<'static, Event>,
}

impl Watch {
    pub(super) async fn start(session: &Session) -> Outcome<Self> {
        let lattice = &session.lattice;
        let heartbeats = lattice.subscribe(subject::heartbeats(session.name())).await?;
        let heartbeats = heartbeats.filter_map(|message| std::future::ready(wire::decode(&message.payload).ok())).boxed();
        Ok(Self { heartbeats, events: lattice.subscribe_events().await?.boxed() })
    }

    /// Waits for all of `awaited`; returns the names of hosts that left instead.
    pub(super) async fn until_applied(
        &mut self,
        mut awaited: BTreeMap<HostId, Awaited>,
        limit: Duration,
        inventory: &Inventory,
        output: &Output,
    ) -> Outcome<Vec<String>> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut left = Vec::new();
        let mut live = output.live();
        while !awaited.is_empty() {
            live.show(format!("waiting for {}", names(&awaited, inventory).join(", ")));
            tokio::select! {
                Some(report) = self.heartbeats.next() => {
                    if awaited.get(&report.id).is_some_and(|what| is_shown(what, &report)) {
                        awaited.remove(&report.id);
                    }
                }
                Some(event) = self.events.next() => {
                    if event.kind == EventKind::Bye && let Some(what) = awaited.remove(&event.host) {
                        match what {
                            Awaited::Gone(incarnation) if incarnation == event.incarnation => {}
                            Awaited::Gone(_) => drop(awaited.insert(event.host, what)),
                            Awaited::Generation(_) => left.push(event.host_name.to_string()),
                        }
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Err(late(limit, &names(&awaited, inventory)).into()),
            }
        }
        Ok(left)
    }
}

fn is_shown(what: &Awaited, report: &HostReport) -> bool {
    match what {
        Awaited::Generation(generation) => report.applied_generation >= *generation,
        Awaited::Gone(incarnation) => report.incarnation > *incarnation,
    }
}

fn names(awaited: &BTreeMap<HostId, Awaited>, inventory: &Inventory) -> Vec<String> {
    awaited.keys().map(|host| inventory.name_of(host)).collect()
}

impl Waited {
    /// Asks the hosts that run what the edit touched how it is; again for as long as `patience` lasts, if it is not well.
    ///
    /// # Errors
    /// `actor start failed: …` or `provider start failed: …` with every host's reason.
    pub(super) async fn inspect(&mut self, session: &Session, draft: &Draft, plan: &PlanState, patience: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.inspect_once(session, draft, plan).await {
                // What is forbidden stays so by itself.
                Err(CommandError::Problem(problem)) if problem.code.exit_code() == DENIED_EXIT => {
                    return Err(CommandError::Problem(problem));
                }
                Err(_) if tokio::time::Instant::now() + INSPECT_AGAIN < deadline => tokio::time::sleep(INSPECT_AGAIN).await,
                ended => return ended,
            }
        }
    }

    async fn inspect_once(&mut self, session: &Session, draft: &Draft, plan: &PlanState) -> Outcome {
        let (actors, providers) = (&draft.edited.actors, &draft.edited.providers);
        let concerned: BTreeSet<&HostId> = plan
            .assignments
            .values()
            .filter(|part| {
                actors.iter().any(|id| part.components.contains_key(id)) || providers.iter().any(|id| part.providers.contains_key(id))
            })
            .map(|part| &part.host)
            .filter(|host| draft.view.inventory.hosts.contains_key(*host))
            .collect();
        let ask = |host| session.lattice.ask(host, Verb::Inventory, Bytes::new(), INSPECT_TIMEOUT);
        let answers = join_all(concerned.into_iter().map(ask)).await;
        let reports: Vec<HostReport> = answers.into_iter().filter_map(|answer| wire::decode(&answer.ok()?).ok()).collect();
        for actor in actors {
            self.inspect_actor(actor, &reports, draft)?;
        }
        for provider in providers {
            inspect_provider(provider, &reports)?;
        }
        Ok(())
    }

    fn inspect_actor(&mut self, actor: &ActorId, reports: &[HostReport], draft: &Draft) -> Result<(), Problem> {
        let mut failures = Vec::new();
        let components = || reports.iter().filter_map(|report| Some((report, report.components.get(actor)?)));
        for (report, component) in components() {
            match &component.state {
                ComponentState::Failed(why) => failures.push((report.name.to_string(), why.clone())),
                // One host that runs it makes it a running actor.
                ComponentState::Running => {
                    self.states.insert(actor.clone(), component.state.to_string());
                }
                ComponentState::Waiting(_) | ComponentState::Starting => {
                    self.states.entry(actor.clone()).or_insert_with(|| component.state.to_string());
                }
            }
        }
        for (report, component) in components() {
            for (link, why) in &component.link_errors {
                let trouble = format!("link {link}: {why}");
                if was_there(draft, report, actor, link, why) {
                    self.states.entry(actor.clone()).and_modify(|state| state.push_str(&format!("; {trouble}")));
                } else {
                    failures.push((report.name.to_string(), trouble));
                }
            }
        }
        match failures.first() {
            None => Ok(()),
            Some((host, why)) => Err(start_failed("actor", actor.as_str(), host, why, &failures)),
        }
    }
}

/// Whether a link was in that trouble before a change that is not about links: then the change has not failed.
fn was_there(draft: &Draft, report: &HostReport, actor: &ActorId, link: &str, why: &str) -> bool {
    let before = draft.view.inventory.hosts.get(&report.id).and_then(|host| host.components.get(actor));
    draft.edited.links.is_empty() && before.and_then(|component| component.link_errors.get(link)).is_some_and(|was| was == why)
}

fn inspect_provider(provider: &ProviderId, reports: &[HostReport]) -> Result<(), Problem> {
    let errors = reports.iter().filter_map(|report| Some((report.name.to_string(), report.providers.get(provider)?.error.clone()?)));
    let failures: Vec<(String, String)> = errors.collect();
    match failures.first() {
        None => Ok(()),
        Some((host, why)) => Err(start_failed("provider", provider.as_str(), host, why, &failures)),
    }
}

/// What a host has forbidden, in its own words: they say what to do about it.
fn forbidden(id: &str, host: &str, why: &str) -> Option<Problem> {
    let codes = [
        ("actor start failed: invalid claim", ErrorCode::InvalidClaim),
        ("capability denied", ErrorCode::CapabilityDenied),
        ("actor start failed: no policy", ErrorCode::Denied),
        ("actor start failed: policy", ErrorCode::Denied),
    ];
    let (_, code) = codes.into_iter().find(|(start, _)| why.starts_with(start))?;
    let mut problem = Problem::from_line(code, why);
    problem.causes.push(format!("{id} on {host}"));
    Some(problem)
}

fn start_failed(what: &str, id: &str, host: &str, why: &str, all: &[(String, String)]) -> Problem {
    if let Some(problem) = forbidden(id, host, why) {
        return problem;
    }
    let mut problem = Problem::new(ErrorCode::Failed, format!("{what} start failed: {id} on {host}: {why}"));
    problem.causes = all.iter().skip(1).map(|(host, why)| format!("{host}: {why}")).collect();
    problem.hint(format!(
        "the host goes on trying; `lattice-ctl stop {what} {id}` takes it back, `lattice-ctl get inventory` shows how it stands"
    ))
}
