//! `lattice-bench table`: runs the rows, prints one table, writes JSON.
//!
//! The table goes to standard output, progress to standard error. The run fails if a row could not be measured or if
//! anything in it was lost, doubled or wrong; a goal that is missed is shown.

use std::path::PathBuf;
use std::time::Instant;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::bench::Bench;
use crate::machine::Machine;
use crate::rows::{FAMILIES, Family, Goal, Line, Outcome};
use crate::{Error, say};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure these rows only
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// List the rows and end
    #[arg(long)]
    list: bool,
    /// Few rounds: shows that everything works, its numbers do not count
    #[arg(long)]
    quick: bool,
    /// Rows that wait for something that should not happen wait for ten minutes instead of one
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Write everything to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All that a run found.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    quick: bool,
    rounds: usize,
    seconds: u64,
    rows: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    row: &'static str,
    seconds: f64,
    error: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Measured {
    fn has_failed(&self) -> bool {
        self.error.is_some() || !self.outcome.checks.are_good()
    }
}

/// Measures, prints, writes.
///
/// # Errors
/// An unknown row, a row that failed, a file that cannot be written.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.list {
        FAMILIES.iter().for_each(|family| print(&format!("{:<14} {}", family.name, family.about)));
        return Ok(());
    }
    let families = selected(&arguments.only)?;
    let scratch = tempfile::tempdir()?;
    let mut bench = Bench::new(arguments.quick, scratch.path())?;
    bench.long = arguments.long;
    let begin = Instant::now();
    let mut rows = Vec::new();
    for family in families {
        rows.push(measure(&bench, family).await);
    }
    let report = Report { machine: Machine::read(), quick: bench.quick, rounds: bench.rounds, seconds: begin.elapsed().as_secs(), rows };
    show(&report);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let failed: Vec<&str> = report.rows.iter().filter(|row| row.has_failed()).map(|row| row.row).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("rows failed: {}", failed.join(", ")).into()) }
}

fn selected(only: &[String]) -> Result<Vec<&'static Family>, Error> {
    if let Some(unknown) = only.iter().find(|name| FAMILIES.iter().all(|family| family.name != **name)) {
        return Err(format!("no row `{unknown}`; --list shows them").into());
    }
    Ok(FAMILIES.iter().filter(|family| only.is_empty() || only.iter().any(|name| name == family.name)).collect())
}

async fn measure(bench: &Bench, family: &'static Family) -> Measured {
    say(&format!("{}: {}", family.name, family.about));
    let begin = Instant::now();
    let (outcome, error) = match (family.run)(bench).await {
        Ok(outcome) => (outcome, None),
        Err(error) => {
            let error = lattice_core::error::chain(error.as_ref()).join(": ");
            say(&format!("  {error}"));
            (Outcome::default(), Some(error))
        }
    };
    Measured { row: family.name, seconds: begin.elapsed().as_secs_f64(), error, outcome }
}

fn show(report: &Report) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["row", "measured", "ratio", "90 % interval", "lattice", "compared with", "unit", "goal", "verdict", "note"]);
    for (row, line) in report.rows.iter().flat_map(|row| row.outcome.lines.iter().map(move |line| (row.row, line))) {
        table.add_row(cells(row, line));
    }
    for column in [2, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    print(&table.to_string());
    let mut checks = Table::new();
    checks.load_style(ASCII_MARKDOWN);
    checks.set_header([
        "row",
        "right",
        "lost",
        "doubled",
        "wrong",
        "others' CPU at worst",
        "rounds repeated",
        "disturbed",
        "seconds",
        "remark",
    ]);
    for row in &report.rows {
        let (found, load) = (&row.outcome.checks, &row.outcome.disturbance);
        let remark = row.error.as_ref().map(|error| format!("FAILED: {error}"));
        checks.add_row([
            row.row.to_owned(),
            found.right.to_string(),
            found.lost.to_string(),
            found.doubled.to_string(),
            found.wrong.to_string(),
            format!("{:.0} %", load.worst * 100.0),
            load.thrown_away.to_string(),
            load.kept.to_string(),
            format!("{:.1}", row.seconds),
            remark.or_else(|| row.outcome.skipped.as_ref().map(|why| format!("skipped: {why}"))).unwrap_or_default(),
        ]);
    }
    print(&format!("\n{checks}\n\n{}", report.machine));
    let kind = if report.quick { "quick run, its numbers do not count" } else { "medians over rounds" };
    print(&format!("{} rounds a row, {} s in all; {kind}", report.rounds, report.seconds));
}

fn cells(row: &str, line: &Line) -> [String; 10] {
    let interval = line.ratio.map(|ratio| format!("{}–{}", number(ratio.low), number(ratio.high)));
    let other = line.other_is.zip(line.other).map(|(name, value)| format!("{} ({name})", number(value)));
    let goal = line.goal.map(|goal| match goal {
        Goal::RatioAtMost(limit) => format!("ratio ≤ {}", number(limit)),
        Goal::RatioAtLeast(limit) => format!("ratio ≥ {}", number(limit)),
        Goal::AtMost(limit) => format!("≤ {}", number(limit)),
    });
    let verdict = line.met.map(|met| if met { "met" } else { "MISSED" });
    [
        row.to_owned(),
        line.what.clone(),
        line.ratio.map(|ratio| number(ratio.median)).unwrap_or_default(),
        interval.unwrap_or_default(),
        number(line.ours),
        other.unwrap_or_default(),
        line.unit.to_owned(),
        goal.unwrap_or_default(),
        verdict.unwrap_or_default().to_owned(),
        line.note.clone(),
    ]
}

/// Three digits that mean something, more before the point if there are more.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 || size == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[expect(clippy::print_stdout, reason = "the one place of this program that prints results of measurements")]
fn print(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(0.0, "0.00");
        check(0.1234, "0.123");
        check(1.234, "1.23");
        check(12.34, "12.3");
        check(1234.5, "1234");
    }

    #[test]
    fn an_unknown_row_is_refused_by_name() {
        let error = selected(&["nothing-like-it".to_owned()]).err().unwrap();
        assert!(error.to_string().contains("nothing-like-it"));
    }
}
