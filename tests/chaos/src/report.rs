//! The table: fault by property, with counts.

use std::fmt;
use std::time::Instant;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;

use crate::check::Property;
use crate::rows::{Row, Run};

/// Longest remark in the table; all of it is in the JSON.
const MAX_REMARK: usize = 300;

/// All runs of all rows.
pub(crate) struct Report {
    begun: Instant,
    seed: u64,
    rows: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    row: &'static str,
    fault: &'static str,
    runs: Vec<Run>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { begun: Instant::now(), seed, rows: Vec::new() }
    }

    /// Adds a run.
    pub(crate) fn add(&mut self, row: &Row, run: Run) {
        for line in remarks(&run) {
            eprintln!("  {line}");
        }
        match self.rows.iter_mut().find(|measured| measured.row == row.name) {
            Some(measured) => measured.runs.push(run),
            None => self.rows.push(Measured { row: row.name, fault: row.about, runs: vec![run] }),
        }
    }

    /// Whether nothing was violated anywhere.
    pub(crate) fn is_good(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.runs).all(Run::is_good)
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> String {
        let report = serde_json::json!({
            "seed": self.seed,
            "seconds": self.begun.elapsed().as_secs(),
            "good": self.is_good(),
            "rows": self.rows,
        });
        serde_json::to_string_pretty(&report).expect("plain data")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        let heads = Property::ALL.into_iter().map(|property| property.head().to_owned());
        table.set_header(
            ["row", "fault", "runs"].into_iter().map(str::to_owned).chain(heads).chain(["seconds".to_owned(), "remark".to_owned()]),
        );
        for row in &self.rows {
            let cells = Property::ALL.into_iter().map(|property| cell(&row.runs, property));
            let seconds = row.runs.iter().map(|run| run.seconds).sum::<f64>();
            let mut remark: String = row.runs.iter().flat_map(remarks).collect::<Vec<_>>().join("; ");
            if let Some((cut, _)) = remark.char_indices().nth(MAX_REMARK) {
                remark.truncate(cut);
                remark.push('…');
            }
            let first = [row.row.to_owned(), row.fault.to_owned(), row.runs.len().to_string()];
            table.add_row(first.into_iter().chain(cells).chain([format!("{seconds:.0}"), remark]));
        }
        let verdict = if self.is_good() { "nothing violated" } else { "VIOLATED" };
        write!(
            f,
            "{table}\n\neach cell: violations of what was checked; seed {}, {} s in all: {verdict}",
            self.seed,
            self.begun.elapsed().as_secs()
        )
    }
}

/// `0 of 1234`, all runs together.
fn cell(runs: &[Run], property: Property) -> String {
    let found: Vec<_> = runs.iter().filter_map(|run| run.findings.get(&property)).collect();
    if found.is_empty() {
        return "-".to_owned();
    }
    let checked: u64 = found.iter().map(|finding| finding.checked).sum();
    let violated: u64 = found.iter().map(|finding| finding.violated).sum();
    let mark = if violated > 0 { "VIOLATED " } else { "" };
    format!("{mark}{violated} of {checked}")
}

/// What a reader must know of a run.
fn remarks(run: &Run) -> Vec<String> {
    let of_run = run.skipped.iter().map(|why| format!("skipped: {why}")).chain(run.broken.iter().map(|why| format!("BROKEN: {why}")));
    let noted = run.findings.iter().filter(|(_, finding)| !finding.notes.is_empty());
    of_run.chain(noted.map(|(property, finding)| format!("{}: {}", property.head(), finding.notes.join(", ")))).collect()
}
