//! `supervise`: what `up --detach` leaves behind. Not for people.
//!
//! It reads its [`Settings`] from standard input, says on standard output in one line how starting went ([`Started`]), and
//! is silent there afterwards; messages go to standard error, which is the log.

use std::io::{Read as _, Write as _};

use clap::Args;
use lattice_core::error::Problem;
use serde::{Deserialize, Serialize};

use crate::error::{CommandError, Outcome};
use crate::local::settings::Settings;
use crate::local::state::State;
use crate::local::supervisor;
use crate::output::Output;
use crate::problems;

/// Longest text of settings in bytes.
const MAX_SETTINGS_BYTES: u64 = 1024 * 1024;

/// Look after a lattice that `up --detach` starts
#[derive(Debug, Args)]
pub(crate) struct Supervise {}

/// How starting went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Started {
    /// Everything runs.
    Ready(State),
    /// Nothing runs.
    Failed(Problem),
}

impl Supervise {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        // A session of its own: the terminal that it was started from may go.
        if let Err(error) = rustix::process::setsid() {
            tracing::debug!("no session of its own: {error}");
        }
        let settings = read_settings()?;
        let ended = Box::pin(supervisor::supervise(settings, output, |state| tell(&Started::Ready(state.clone())))).await;
        if let Err(CommandError::Problem(problem)) = &ended {
            tell(&Started::Failed(Problem::clone(problem)))?;
        }
        ended
    }
}

fn read_settings() -> Result<Settings, Problem> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_SETTINGS_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| problems::failed("reading settings", &error))?;
    serde_json::from_str(&text).map_err(|error| problems::usage(format!("settings on standard input: {error}")))
}

fn tell(started: &Started) -> Outcome {
    let mut line = serde_json::to_vec(started).map_err(|error| problems::failed("writing JSON", &error))?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Whoever started this may have given up waiting; then nobody reads.
    let _ = out.write_all(&line).and_then(|()| out.flush());
    Ok(())
}
