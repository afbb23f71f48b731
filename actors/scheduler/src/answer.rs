//! What is asked of the scheduler, over messaging and over HTTP, as JSON.

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire::json;
use lattice_core::wire::schedule::{ExplainRequest, PlanRequest, TaskSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Replica, history_of, noted, open};

impl Replica {
    /// The answer, or an object with `error`.
    pub(crate) fn answer(&mut self, verb: SchedulerVerb, body: &[u8]) -> Vec<u8> {
        let answer = match verb {
            SchedulerVerb::Status => json(&self.scheduler.status(self.now())),
            SchedulerVerb::Nodes => Ok(self.nodes()),
            SchedulerVerb::Place => self.place(body),
            SchedulerVerb::Plan => self.planned(body),
            SchedulerVerb::Explain => self.explain(body),
        };
        answer.unwrap_or_else(|problem| failure(&problem))
    }

    pub(crate) fn nodes(&mut self) -> Vec<u8> {
        let now = self.now();
        json(&self.scheduler.nodes(now)).unwrap_or_else(|problem| failure(&problem))
    }

    pub(crate) fn place(&mut self, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let now = self.now();
        json(&self.scheduler.place(&parse::<TaskSpec>("task", body)?, now)?)
    }

    fn planned(&self, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let PlanRequest { desired_rev } = parse("request", body)?;
        let late = || Problem::new(ErrorCode::TimedOut, format!("the plan does not follow desired state {desired_rev} yet"));
        json(&self.scheduler.planned(desired_rev).ok_or_else(late)?)
    }

    fn explain(&self, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let ExplainRequest { actor } = parse("request", body)?;
        let mut explanation = self.scheduler.explain(&actor, self.now())?;
        match open().and_then(|bucket| history_of(&bucket, &actor)) {
            Ok(history) => explanation.history = history,
            Err(reason) => noted(Err(reason)),
        }
        json(&explanation)
    }

    /// The newest plan: its head, and the instances that each host holds of each actor.
    pub(crate) fn shares(&self) -> Result<Vec<u8>, Problem> {
        let unread = || Problem::new(ErrorCode::TimedOut, "the scheduler has not read the lattice's state yet");
        let plan = self.scheduler.plan_state().ok_or_else(unread)?;
        let hosts = plan.assignments.values().map(|assignment| {
            let actors = assignment.components.iter().map(|(id, component)| (id.to_string(), component.instances.into()));
            let actors: serde_json::Map<String, serde_json::Value> = actors.collect();
            serde_json::json!({ "host": assignment.host, "name": assignment.host_name, "generation": assignment.generation, "actors": actors })
        });
        json(&serde_json::json!({ "head": plan.head, "hosts": hosts.collect::<Vec<_>>() }))
    }
}

pub(crate) fn failure(problem: &Problem) -> Vec<u8> {
    // A problem is plain data, which always encodes.
    serde_json::to_vec(&serde_json::json!({ "error": problem })).unwrap_or_default()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::new(ErrorCode::Failed, format!("the answer cannot be written: {error}")))
}

fn parse<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, Problem> {
    let parsed = json::parse(body, json::MAX_CONTROL_BYTES, json::MAX_DEPTH);
    parsed.map_err(|error| Problem::new(ErrorCode::Usage, format!("the {what} makes no sense: {error}")))
}
