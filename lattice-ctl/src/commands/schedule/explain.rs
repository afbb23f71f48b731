//! `schedule explain`.

use clap::Args;
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, Generation};
use lattice_core::needs::Class;
use lattice_core::plan::PlanState;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire;
use lattice_core::wire::assignment::SlotAssignment;
use lattice_core::wire::schedule::{ExplainRequest, Explanation, Source};
use serde::Serialize;

use super::plan::hundredths;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, time_of_day};
use crate::problems;
use crate::scheduler;
use crate::view::View;

/// Show where an actor is, where it could be, and why: each host with its score, or why it would not be taken
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl schedule explain edge-processor
  lattice-ctl schedule explain edge-processor -o json")]
pub(crate) struct Explain {
    /// Id of the actor
    #[arg(value_name = "ID")]
    id: ActorId,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// What the plan gives to whom, for an actor whose slots have owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    ownership: Option<Planned>,
}

/// Slots of an actor as the plan gives them.
#[derive(Debug, Serialize)]
struct Planned {
    class: Class,
    of: u32,
    slots: Vec<PlannedSlot>,
}

#[derive(Debug, Serialize)]
struct PlannedSlot {
    slot: u32,
    host: String,
    /// Plan that gave it to the host.
    term: Generation,
    /// The host is to stop it, so that another one can get it.
    release: bool,
}

impl Planned {
    fn of(actor: &ActorId, plan: &PlanState) -> Option<Self> {
        let parts = plan.assignments.values().filter_map(|part| Some((part, part.components.get(actor)?.ownership.as_ref()?)));
        let (mut found, mut slots) = (None, Vec::new());
        for (part, ownership) in parts {
            found = Some((ownership.class, ownership.of));
            let host = part.host_name.as_ref().map_or_else(|| part.host.to_string(), ToString::to_string);
            let slot = |(slot, given): (&u32, &SlotAssignment)| PlannedSlot {
                slot: *slot,
                host: host.clone(),
                term: given.term,
                release: given.release,
            };
            slots.extend(ownership.slots.iter().map(slot));
        }
        slots.sort_by_key(|slot| (slot.slot, slot.term));
        found.map(|(class, of)| Self { class, of, slots })
    }

    fn lines(&self) -> Vec<String> {
        let word = |slot: &PlannedSlot| if slot.release { ", to be released" } else { "" };
        let slot = |slot: &PlannedSlot| format!("slot {} on {} since generation {}{}", slot.slot, slot.host, slot.term, word(slot));
        let mut lines = vec![format!("class {}, {} slots", self.class.as_str(), self.of)];
        lines.extend(self.slots.iter().map(slot));
        lines
    }
}

impl Explain {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let request = wire::encode(&ExplainRequest { actor: self.id.clone() });
        match scheduler::ask(&session, SchedulerVerb::Explain, request, scheduler::PATIENCE).await {
            Ok(explanation) => {
                let ownership = Planned::of(&self.id, &session.lattice.read_plan().await?);
                output.print(&Explained { explanation, ownership })
            }
            Err(why) => Err(self.known(&session, why.into()).await?.into()),
        }
    }

    /// An actor that nobody knows is named with the nearest one.
    async fn known(&self, session: &Session, problem: Problem) -> Outcome<Problem> {
        let view = View::read(session).await?;
        let known = view.desired.components.contains_key(&self.id);
        Ok(if known { problem } else { problems::no_actor(self.id.as_str(), &view.desired) })
    }
}

impl Document for Explained {
    fn text(&self, _wide: bool) -> String {
        let Explanation { actor, max, missing, need, strategy, hosts, history } = &self.explanation;
        let from = |source: &Source| match source {
            Source::Asked => "asked",
            Source::Measured => "measured",
        };
        let lacking = if *missing > 0 { format!(", {missing} of them nowhere") } else { String::new() };
        let (cpu, memory) = (from(&need.cpu_from), from(&need.memory_from));
        let mut lines = vec![format!(
            "{actor}: {max} instances{lacking}; each takes cpu {}m ({cpu}), memory {}Mi ({memory}); {}",
            need.cpu,
            need.memory_mb,
            strategy.as_str()
        )];
        lines.extend(self.ownership.iter().flat_map(Planned::lines));
        let rows = hosts.iter().map(|host| {
            vec![
                host.name.to_string(),
                host.region.to_string(),
                host.instances.to_string(),
                format!("{}m", host.cpu_free),
                format!("{}Mi", host.memory_free_mb),
                hundredths(host.score),
                host.rejected.clone().unwrap_or_else(|| "fits".to_owned()),
            ]
        });
        lines.push(String::new());
        lines.push(columns(&["HOST", "REGION", "INSTANCES", "CPU FREE", "MEMORY FREE", "SCORE", "WHY"], rows));
        for (index, past) in history.iter().enumerate() {
            if index == 0 {
                lines.push(String::new());
            }
            lines.push(format!("generation {} at {}", past.generation, time_of_day(past.at_ms)));
            lines.extend(past.reasons.iter().map(|reason| format!("  {}", crate::output::printable(reason))));
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.explanation.hosts.iter().filter(|host| host.instances > 0).map(|host| format!("host/{}", host.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, host};
    use lattice_core::id::{HostName, Region};
    use lattice_core::needs::Strategy;
    use lattice_core::wire::schedule::{HostOpinion, Need, PastDecision};

    #[test]
    fn for_people() {
        let opinion = |n: u8, instances: u32, rejected: Option<&str>| HostOpinion {
            host: host(n),
            name: HostName::new(format!("NEDGE0{}", n + 1)).unwrap(),
            region: Region::new("eu").unwrap(),
            instances,
            cpu_free: 1500,
            memory_free_mb: 96,
            score: 1205,
            rejected: rejected.map(str::to_owned),
        };
        let explanation = Explanation {
            actor: actor("a"),
            max: 3,
            missing: 1,
            need: Need { cpu: 250, cpu_from: Source::Asked, memory_mb: 256, memory_from: Source::Measured },
            strategy: Strategy::Balanced,
            hosts: vec![opinion(0, 2, None), opinion(1, 0, Some("needs 256 MiB, has 96"))],
            history: vec![PastDecision { generation: Generation(7), at_ms: 0, reasons: vec!["NEDGE01: 2 instances".into()] }],
        };
        let slot = PlannedSlot { slot: 1, host: "NEDGE01".into(), term: Generation(6), release: true };
        let ownership = Planned { class: Class::Strict, of: 2, slots: vec![slot] };
        assert_eq!(ownership.lines(), ["class strict, 2 slots", "slot 1 on NEDGE01 since generation 6, to be released"]);
        let explained = Explained { explanation, ownership: None };
        assert_eq!(
            explained.text(false),
            "a: 3 instances, 1 of them nowhere; each takes cpu 250m (asked), memory 256Mi (measured); balanced\n\
             \n\
             HOST     REGION  INSTANCES  CPU FREE  MEMORY FREE  SCORE  WHY\n\
             NEDGE01  eu      2          1500m     96Mi         12.05  fits\n\
             NEDGE02  eu      0          1500m     96Mi         12.05  needs 256 MiB, has 96\n\
             \n\
             generation 7 at 00:00:00.000Z\n\
             \x20 NEDGE01: 2 instances"
        );
        assert_eq!(explained.names(), ["host/NEDGE01"]);
    }
}
