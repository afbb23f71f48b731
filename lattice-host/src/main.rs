//! The node program. `lattice-host compile` is its other half: the limited child that compiles.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use lattice_core::error::{ErrorCode, Problem};
use lattice_host::args::{Args, LogFormat};
use lattice_host::node::Node;
use tracing_subscriber::EnvFilter;

/// Threads that work on messages and I/O: a node has few cores, and each thread costs memory.
const WORKERS: usize = 2;
/// Threads for files, above which such work waits.
const BLOCKING_THREADS: usize = 8;
/// The client library repeats what this program says better.
const QUIETER: &str = "async_nats=warn";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "compile") {
        return lattice_host::compile::main(arguments);
    }
    // Several TLS libraries may be linked in; an explicit choice keeps them from having to guess. Set already: fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody reads it if this fails.
            let _ = writeln!(std::io::stderr(), "{}", in_one_line(&problem));
            ExitCode::from(problem.code.exit_code())
        }
    }
}

fn start(args: &Args) -> Result<(), Problem> {
    start_logging(args)?;
    let node = Node::prepare(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Problem::new(ErrorCode::Failed, "threads cannot be started").caused_by(&error))?;
    let outcome = runtime.block_on(node.run());
    // What still runs in the background was told to end, and had its time.
    runtime.shutdown_background();
    outcome
}

fn start_logging(args: &Args) -> Result<(), Problem> {
    let filter = EnvFilter::try_new(format!("{QUIETER},{}", args.log_level))
        .map_err(|error| Problem::new(ErrorCode::Usage, format!("--log-level {}: {error}", args.log_level.escape_debug())))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

fn in_one_line(problem: &Problem) -> String {
    let mut line = format!(
        "lattice-host: {}",
        std::iter::once(&problem.message).chain(&problem.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    );
    if let Some(hint) = &problem.hint {
        line.push_str(" (");
        line.push_str(hint);
        line.push(')');
    }
    line
}
