//! `lattice-chaos`: faults against a lattice of real processes, and what was lost, doubled or late because of them.
//!
//! Each [row](rows) starts everything it needs, sends confirmed readings at a steady rate, makes its fault, ends it, lets
//! everything settle and hands over to the one [checker](check). The table says for each fault and property how much was
//! checked and how much of it was violated.
//!
//! **Invariant.** Everything that a row starts ends with it. Exit code 1 means that something was violated or that a row did
//! not come to its end; a row that this machine cannot run is skipped and says why.

mod arena;
mod check;
mod code;
mod dice;
mod disk;
mod load;
mod logs;
mod observer;
mod proxy;
mod report;
mod rows;
mod server;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use rows::{ROWS, Row};

/// Break a lattice of real processes, in all the ways of the matrix, and check what comes out
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  lattice-chaos                  # every row once\n  lattice-chaos F1 F5 --runs 20\n  lattice-chaos F23 --seconds 600 --seed 7"
)]
struct Arguments {
    /// Rows to run [default: all]
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// How often to run each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// What chance begins with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long everything at random goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    seconds: u64,
    /// Keep the logs of what did not hold here
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// List the rows and end
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        ROWS.iter().for_each(|row| println!("{:<4} {}", row.name, row.about));
        return ExitCode::SUCCESS;
    }
    let wanted = |row: &&Row| arguments.rows.is_empty() || arguments.rows.iter().any(|name| name.eq_ignore_ascii_case(row.name));
    if let Some(unknown) = arguments.rows.iter().find(|name| !ROWS.iter().any(|row| name.eq_ignore_ascii_case(row.name))) {
        eprintln!("lattice-chaos: no row {unknown}; --list shows them");
        return ExitCode::from(2);
    }
    let cache = tempfile::tempdir().expect("a folder");
    let mut report = report::Report::new(arguments.seed);
    for row in ROWS.iter().filter(wanted) {
        for number in 0..arguments.runs {
            eprintln!("{} {}", row.name, row.about);
            let seed = arguments.seed + u64::from(number);
            let logs = arguments.logs.as_ref().map(|folder| folder.join(format!("{}-{seed}", row.name)));
            let run = row.run(seed, Duration::from_secs(arguments.seconds), cache.path(), logs);
            report.add(row, run);
        }
    }
    match arguments.output {
        Format::Table => println!("{report}"),
        Format::Json => println!("{}", report.json()),
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
