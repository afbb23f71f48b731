//! Load generator and measurements of Lattice.
//!
//! `readings` plays sensors: it publishes readings, waits for the results and alerts that edge-processor makes of them, and
//! checks every one. A run with a lost, doubled or wrong result fails.
//!
//! `table` measures: each of its [`rows`] compares sides within one run, in [`rounds`] that are interleaved; [`stats`] makes
//! medians and intervals of them, [`table`] shows them. Numbers count in release builds on a quiet machine only.

mod bare;
mod bench;
mod counters;
mod dirty;
mod fixed;
mod fleet;
mod flow;
mod followers;
mod gate;
mod load;
mod machine;
mod native;
mod process;
mod readings;
mod rounds;
mod rows;
mod stage;
mod stats;
mod table;
mod world;

use clap::Parser;

#[derive(Parser)]
#[command(name = "lattice-bench", version, about)]
enum Command {
    /// Publish sensor readings and check what comes out
    Readings(readings::Arguments),
    /// Measure Lattice against floors and native programs, and print one table
    Table(table::Arguments),
    /// Count instructions and system calls of fixed runs and compare them with recorded bounds
    Counters(gate::Arguments),
    /// One fixed run, to be counted by a tool
    #[command(hide = true)]
    Fixed(fixed::Arguments),
    /// The programs that actors are compared with
    #[command(subcommand, hide = true)]
    Native(native::Native),
    /// Starts instances and prints what they hold
    #[command(hide = true)]
    Residents(rows::residents::Arguments),
}

#[global_allocator]
static ALLOCATOR: counters::Counting = counters::Counting;

fn main() -> std::process::ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Command::parse() {
        Command::Readings(arguments) => wait(readings::run(&arguments)),
        Command::Table(arguments) => wait(table::run(&arguments)),
        Command::Counters(arguments) => gate::run(&arguments),
        Command::Fixed(arguments) => wait(fixed::run(&arguments)),
        Command::Native(native) => native.run(),
        Command::Residents(arguments) => wait(rows::residents::hold(&arguments)),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("lattice-bench: {error}");
            for cause in lattice_core::error::chain(error.as_ref()).iter().skip(1) {
                text.push_str(&format!("\n  because: {cause}"));
            }
            say(&text);
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs to the end on this thread, or until Ctrl-C: then what was started ends, too.
fn wait<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })
}

/// Whatever went wrong.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Messages for people go to standard error, data to standard output.
#[expect(clippy::print_stderr, reason = "the one place of this program that talks to people")]
fn say(text: &str) {
    eprintln!("{text}");
}
