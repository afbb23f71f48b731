//! Load generator and measurements of Lattice.
//!
//! `readings` plays sensors: it publishes readings, waits for the results and alerts that edge-processor makes of them, and
//! checks every one. A run with a lost, doubled or wrong result fails.

mod readings;

use clap::Parser;

#[derive(Parser)]
#[command(name = "lattice-bench", version, about)]
enum Command {
    /// Publish sensor readings and check what comes out
    Readings(readings::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Command::parse() {
        Command::Readings(arguments) => readings::run(&arguments).await,
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

/// Messages for people go to standard error, data to standard output.
#[expect(clippy::print_stderr, reason = "the one place of this program that talks to people")]
fn say(text: &str) {
    eprintln!("{text}");
}
