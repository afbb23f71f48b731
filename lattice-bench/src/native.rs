//! The other side of each comparison: plain Rust programs that do by hand what an actor does through the host.
//!
//! Each is a hidden subcommand and runs as a process of its own, so that its CPU time and memory are its own. They use the
//! client libraries as their documentation shows and the same shape of runtime as the host: two worker threads.
//!
//! **Invariants.** Such a program says `ready` on standard output once it can be used, with its port if it has one, and
//! ends when its standard input does, so that none outlives the benchmark, however that ends.

mod http;
mod pipeline;
mod responder;

use std::io::Write as _;

use tokio::io::AsyncReadExt as _;

/// Threads that work, as many as the host has.
const WORKERS: usize = 2;

/// Anything that goes wrong in such a program ends it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Which program.
#[derive(clap::Subcommand)]
pub(crate) enum Native {
    /// Answers each message with its own payload
    Responder(responder::Arguments),
    /// Does with readings what edge-processor does
    Pipeline(pipeline::Arguments),
    /// Answers HTTP requests with what they said
    Http,
}

impl Native {
    /// Runs until standard input ends.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub(crate) fn run(self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
        let outcome = runtime.block_on(async {
            let work = async {
                match self {
                    Self::Responder(arguments) => responder::run(arguments).await,
                    Self::Pipeline(arguments) => pipeline::run(arguments).await,
                    Self::Http => http::run().await,
                }
            };
            tokio::select! {
                outcome = work => outcome,
                () = parent_gone() => Ok(()),
            }
        });
        // The thread that reads standard input may never come back.
        runtime.shutdown_background();
        outcome
    }
}

/// Tells whoever started this program that it can be used.
fn ready(port: u16) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {port}")?;
    out.flush()?;
    Ok(())
}

async fn parent_gone() {
    let mut nothing = [0; 1];
    while tokio::io::stdin().read(&mut nothing).await.is_ok_and(|read| read > 0) {}
}
