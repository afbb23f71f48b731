//! `failover history`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::BucketName;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::failover::Failover;
use lattice_nats::StoreError;
use lattice_nats::bucket::Bucket;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, printable, time_of_day};
use crate::problems;

/// Failovers that are shown unless `--limit` says otherwise.
const DEFAULT_LIMIT: u32 = 20;
/// Most of them.
const MAX_LIMIT: i64 = 1_000;

/// List what was moved off hosts that were gone: why, where to, and how long each step took
///
/// SILENT is how long the host had not been heard when that was noticed; the other times count from the notice: the verdict
/// was stored, the plan was made, the takers run, the first message was handled elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl failover history
  lattice-ctl failover history -o json")]
pub(crate) struct History {
    /// Newest failovers to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u32).range(1..=MAX_LIMIT))]
    limit: u32,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<Failover>);

impl History {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let name = BucketName::new(subject::failover_bucket(session.name())).map_err(|error| problems::name(&error))?;
        let bucket = match Bucket::open(session.connection(), &name).await {
            Err(StoreError::Missing { .. }) => return Err(without_history(&session).into()),
            opened => opened?,
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut keys = bucket.keys("").await?;
        keys.sort_by_key(|key| at_ms(key));
        let mut failovers = Vec::new();
        for key in keys.iter().skip(keys.len().saturating_sub(limit)) {
            match bucket.get(key).await?.map(|entry| wire::decode::<Failover>(&entry.value)) {
                Some(Ok(failover)) => failovers.push(failover),
                Some(Err(error)) => output.note(&format!("note: {} cannot be read: {error}", printable(key))),
                None => {}
            }
        }
        if failovers.is_empty() {
            output.note("no failovers");
        }
        output.print(&List(failovers))
    }
}

fn without_history(session: &Session) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("lattice `{}` has no history of failovers", session.name()))
        .hint("`lattice-ctl up` starts the failover actor, which keeps one")
}

/// When the failover of a key was noticed; the key is `<at_ms>-<host>`.
fn at_ms(key: &str) -> u64 {
    key.split_once('-').and_then(|(at, _)| at.parse().ok()).unwrap_or(0)
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["TIME", "HOST", "WHY", "SILENT", "DECIDED", "PLANNED", "APPLIED", "RESULT", "MOVED", "BY", "LEFT BEHIND"];
        let shown = if wide { header.len() } else { header.len() - 2 };
        columns(header.get(..shown).unwrap_or(&header), self.0.iter().map(|failover| row(failover, wide)))
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|failover| format!("host/{}", failover.name)).collect()
    }
}

fn row(failover: &Failover, wide: bool) -> Vec<String> {
    let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time}ms"));
    let to = failover.plans.iter().map(|plan| {
        let actors: Vec<&str> = plan.actor_ids.iter().map(AsRef::as_ref).collect();
        format!("{}→{}", actors.join(","), plan.target_node)
    });
    let to = to.collect::<Vec<_>>().join(" ");
    let steps = &failover.steps;
    let mut row = vec![time_of_day(failover.at_ms), failover.name.to_string(), failover.reason.clone(), ms(Some(steps.silent_ms))];
    row.extend([ms(steps.decided_ms), ms(steps.planned_ms), ms(steps.applied_ms), ms(steps.first_result_ms)]);
    row.push(if to.is_empty() { "-".to_owned() } else { to });
    if wide {
        let left: Vec<&str> = failover.left_behind.keys().map(AsRef::as_ref).collect();
        row.extend([failover.by.clone(), if left.is_empty() { "-".to_owned() } else { left.join(",") }]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, host, report};
    use lattice_core::wire::failover::{FailoverPlan, FailoverSteps};
    use lattice_core::wire::verdict::Evidence;

    #[test]
    fn for_people() {
        let report = report(2);
        let failover = Failover {
            host: host(2),
            name: report.name,
            region: report.region,
            incarnation: report.incarnation,
            evidence: Evidence::ProcessGone,
            reason: "its process is gone".into(),
            at_ms: 1_718_716_062_007,
            by: "NEDGE01".into(),
            steps: FailoverSteps {
                silent_ms: 210,
                decided_ms: Some(104),
                planned_ms: Some(111),
                applied_ms: Some(130),
                first_result_ms: None,
            },
            generation: None,
            plans: vec![FailoverPlan {
                failed_node: "NEDGE03".into(),
                target_node: "NEDGE02".into(),
                actor_ids: vec![actor("a"), actor("b")],
                priority: 0,
                estimated_downtime_ms: 200,
            }],
            left_behind: [(actor("c"), vec![])].into(),
        };
        let text = List(vec![failover]).text(true);
        let (header, line) = text.split_once('\n').unwrap();
        assert_eq!(
            header.split_whitespace().collect::<Vec<_>>(),
            ["TIME", "HOST", "WHY", "SILENT", "DECIDED", "PLANNED", "APPLIED", "RESULT", "MOVED", "BY", "LEFT", "BEHIND"]
        );
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "13:07:42.007Z NEDGE03 its process is gone 210ms 104ms 111ms 130ms - a,b→NEDGE02 NEDGE01 c"
        );
    }

    #[test]
    fn the_newest_are_the_last() {
        assert!(at_ms("999-N") < at_ms("1718716062007-N"));
        assert_eq!(at_ms("nonsense"), 0);
    }
}
