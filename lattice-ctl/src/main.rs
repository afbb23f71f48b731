//! `lattice-ctl`: the operator's command line.
//!
//! A table of contents. [`cli`] reads the command line; [`commands`] has one file per verb; [`change`] is the one path by
//! which anything is changed; [`local`] starts and stops a lattice on this machine; [`output`] is the only place that
//! prints.
//!
//! **Invariants.** Data goes to standard output, messages to standard error. Every failure is a [`Problem`] with a stable
//! code, an exit code and, where there is one, a hint. A change is planned before it is committed, so that nothing is half
//! applied.
//!
//! [`Problem`]: lattice_core::error::Problem
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

mod args;
mod artifact;
mod bus;
mod change;
mod cli;
mod commands;
mod connection;
mod context;
mod error;
mod failover;
mod local;
mod output;
mod ownership;
mod problems;
mod scheduler;
mod standing;
mod system;
mod view;

use std::process::ExitCode;

use output::Output;

fn main() -> ExitCode {
    // Several TLS libraries may be linked in; an explicit choice keeps the client from having to guess.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stopped) => return stopped,
    };
    let output = Output::new(cli.output);
    output.install_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.finish(Err(problems::failed("starting the runtime", &error).into())),
    };
    let result = runtime.block_on(cli.command.run(&output));
    // Work that was given up must not keep the program from ending.
    runtime.shutdown_background();
    output.finish(result)
}
