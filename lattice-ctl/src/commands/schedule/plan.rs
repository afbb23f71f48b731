//! `schedule plan`.

use std::io::Read as _;
use std::path::Path;

use clap::Args;
use lattice_core::error::Problem;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire::json;
use lattice_core::wire::schedule::{Placed, TaskSpec};
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::problems;
use crate::scheduler;

/// Largest file of tasks in bytes: one message of the bus.
const MAX_TASK_BYTES: u64 = 1024 * 1024;
/// Most tasks in one file; each is a question.
const MAX_TASKS: usize = 1000;

/// Ask where a task would go; nothing is changed
///
/// A task is an object with `task_id` and, as it needs them, `cpu_required` (thousandths of a core), `memory_required_mb`,
/// `preferred_region`, `priority`, `max_latency_ms`; a file holds one or a list. Each of a list is placed for itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl schedule plan task.json
  echo '{\"task_id\":\"task-sensor-001\",\"cpu_required\":200,\"preferred_region\":\"ap-east-1\"}' | lattice-ctl schedule plan -")]
pub(crate) struct PlanTasks {
    /// File with a task or a list of tasks; - for standard input
    #[arg(value_name = "FILE")]
    file: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One task as one answer, a list as a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answers {
    One(Placed),
    Many(Vec<Placed>),
}

/// What a file may hold.
#[derive(Debug, PartialEq, Eq)]
struct Tasks {
    tasks: Vec<TaskSpec>,
    is_list: bool,
}

impl PlanTasks {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let Tasks { tasks, is_list } = parse(&self.file, &read(&self.file)?)?;
        let session = Session::open(&self.connection).await?;
        let mut placed = Vec::with_capacity(tasks.len());
        for task in &tasks {
            let body = serde_json::to_vec(task).map_err(|error| problems::failed("writing a task", &error))?;
            placed.push(scheduler::ask(&session, SchedulerVerb::Place, body, scheduler::PATIENCE).await?);
        }
        let answers = match placed.pop() {
            Some(only) if !is_list => Answers::One(only),
            last => Answers::Many(placed.into_iter().chain(last).collect()),
        };
        output.print(&answers)
    }
}

fn read(file: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let limit = MAX_TASK_BYTES.saturating_add(1);
    let read = if file == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| problems::path("task", Path::new(file), &error))?;
    Ok(bytes)
}

/// The tasks of a file; what is wrong with them is a usage problem that names the file.
fn parse(file: &str, bytes: &[u8]) -> Result<Tasks, Problem> {
    let limit = usize::try_from(MAX_TASK_BYTES).unwrap_or(usize::MAX);
    let wrong = |why: &dyn std::fmt::Display| problems::usage(format!("task {file}: {why}"));
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let tasks: Vec<TaskSpec> = if is_list {
        json::parse(bytes, limit, json::MAX_DEPTH).map_err(|error| wrong(&error))?
    } else {
        vec![json::parse(bytes, limit, json::MAX_DEPTH).map_err(|error| wrong(&error))?]
    };
    if tasks.is_empty() {
        return Err(wrong(&"an empty list"));
    }
    if tasks.len() > MAX_TASKS {
        return Err(wrong(&format!("{} tasks, at most {MAX_TASKS} are asked for at once", tasks.len())));
    }
    Ok(Tasks { tasks, is_list })
}

impl Answers {
    fn all(&self) -> &[Placed] {
        match self {
            Self::One(placed) => std::slice::from_ref(placed),
            Self::Many(placed) => placed,
        }
    }
}

impl Document for Answers {
    fn text(&self, _wide: bool) -> String {
        let rows = self.all().iter().map(|placed| {
            let displaces: Vec<String> = placed.displaces.iter().map(|(actor, instances)| format!("{actor}:{instances}")).collect();
            let region = if placed.fallback { "other region" } else { "" };
            vec![placed.task_id.clone(), placed.node_id.clone(), hundredths(placed.score), region.to_owned(), displaces.join(",")]
        });
        columns(&["TASK", "NODE", "SCORE", "FALLBACK", "DISPLACES"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.all().iter().map(|placed| format!("host/{}", placed.node_id)).collect()
    }
}

/// `12.34`.
pub(super) fn hundredths(score: u32) -> String {
    format!("{}.{:02}", score / 100, score % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_or_a_list() {
        let one = parse("t", br#" {"task_id":"task-sensor-001","cpu_required":200,"preferred_region":"ap-east-1"}"#).unwrap();
        assert_eq!((one.tasks.len(), one.is_list, one.tasks[0].cpu_required), (1, false, 200));
        let list = parse("t", br#"[{"task_id":"a"},{"task_id":"b","priority":255,"max_latency_ms":9}]"#).unwrap();
        assert_eq!((list.tasks.len(), list.is_list, list.tasks[1].priority), (2, true, 255));
    }

    #[test]
    fn what_is_no_task_is_named() {
        let check = |text: &str, part: &str| {
            let problem = parse("task.json", text.as_bytes()).unwrap_err();
            assert!(problem.message.starts_with("task task.json: ") && problem.message.contains(part), "{text}: {problem:?}");
            assert_eq!(problem.code.exit_code(), 2);
        };
        check("", "EOF");
        check("[]", "an empty list");
        check("{}", "task_id");
        check(r#"{"task_id":"a","cpu_required":-1}"#, "-1");
        check(r#"{"task_id":"a","memory_required_mb":1e99}"#, "1e");
        check(r#"{"task_id":"a","priority":256}"#, "256");
        let many = format!("[{}]", vec![r#"{"task_id":"a"}"#; 1001].join(","));
        check(&many, "1001 tasks");
        assert!(read("/no/such/task.json").unwrap_err().message.contains("/no/such/task.json"));
    }

    #[test]
    fn answers_for_people() {
        let placed = Placed {
            task_id: "t".into(),
            node_id: "NEDGE01".into(),
            host: crate::view::tests::host(0),
            score: 1205,
            fallback: true,
            displaces: [(crate::view::tests::actor("low"), 2)].into(),
        };
        let text = Answers::One(placed).text(false);
        assert_eq!(text, "TASK  NODE     SCORE  FALLBACK      DISPLACES\nt     NEDGE01  12.05  other region  low:2");
    }
}
