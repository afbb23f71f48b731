//! `schedule explain`.

use clap::Args;
use lattice_core::error::Problem;
use lattice_core::id::ActorId;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire;
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
#[serde(transparent)]
struct Explained(Explanation);

impl Explain {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let request = wire::encode(&ExplainRequest { actor: self.id.clone() });
        match scheduler::ask(&session, SchedulerVerb::Explain, request, scheduler::PATIENCE).await {
            Ok(explanation) => output.print(&Explained(explanation)),
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
        let Explanation { actor, max, missing, need, strategy, hosts, history } = &self.0;
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
        self.0.hosts.iter().filter(|host| host.instances > 0).map(|host| format!("host/{}", host.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, host};
    use lattice_core::id::{Generation, HostName, Region};
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
        let explained = Explained(Explanation {
            actor: actor("a"),
            max: 3,
            missing: 1,
            need: Need { cpu: 250, cpu_from: Source::Asked, memory_mb: 256, memory_from: Source::Measured },
            strategy: Strategy::Balanced,
            hosts: vec![opinion(0, 2, None), opinion(1, 0, Some("needs 256 MiB, has 96"))],
            history: vec![PastDecision { generation: Generation(7), at_ms: 0, reasons: vec!["NEDGE01: 2 instances".into()] }],
        });
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
