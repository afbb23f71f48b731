//! `down`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::LatticeName;
use rustix::process::Signal;
use serde::Serialize;

use crate::connection::{ConnectionArgs, environment};
use crate::context::Contexts;
use crate::error::Outcome;
use crate::local::context;
use crate::local::folder::Folder;
use crate::local::state::State;
use crate::output::{Document, Output};

/// How long the supervisor may take: hosts drain, then the server ends.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(60);
/// How long a process that nobody looks after any more may take.
const ORPHAN_GRACE: Duration = Duration::from_secs(15);

/// Stop a lattice that `up` started on this machine
///
/// Hosts finish what they have, then the server ends. The data folder stays: `up` goes on from there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl down
  lattice-ctl down --data-dir /tmp/test --yes")]
pub(crate) struct Down {
    /// Data folder [default: that of the current context, else the lattice's name below $XDG_DATA_HOME/lattice]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Name of the lattice, if it is in its own folder
    #[arg(long, short = 'x', value_name = "NAME")]
    lattice: Option<LatticeName>,

    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Stopped {
    lattice: LatticeName,
    data_dir: PathBuf,
    /// Whether the server was ours, so that the lattice itself is stopped and not only some of its hosts.
    server: bool,
}

impl Down {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let folder = self.folder()?;
        let Some(state) = State::read(&folder)? else {
            let message = format!("no lattice runs on {}", folder.root().display());
            return Err(Problem::new(ErrorCode::NotFound, message)
                .hint("--data-dir names another folder; `lattice-ctl ctx list -o wide` lists those that are known")
                .into());
        };
        self.confirm(&state, &folder, output)?;
        let mut live = output.live();
        live.show(format!("stopping lattice {}", state.lattice));
        let server = state.fsync.is_some();
        end(&state, &folder).await?;
        context::remove(&folder)?;
        drop(live);
        output.print(&Stopped { lattice: state.lattice, data_dir: folder.root().to_owned(), server })
    }

    /// The folder that is meant.
    fn folder(&self) -> Result<Folder, Problem> {
        let args = ConnectionArgs { lattice: self.lattice.clone(), ..ConnectionArgs::default() };
        let lattice = args.own_lattice()?;
        if let Some(named) = &self.data_dir {
            return Folder::new(Some(named), &lattice);
        }
        if self.lattice.is_none()
            && let Some(contexts) = Contexts::of_user(&environment)
            && let Some(current) = contexts.current()?
            && let Some(data_dir) = contexts.read(&current)?.and_then(|context| context.data_dir)
        {
            return Folder::new(Some(&data_dir), &lattice);
        }
        Folder::new(None, &lattice)
    }

    fn confirm(&self, state: &State, folder: &Folder, output: &Output) -> Result<(), Problem> {
        if self.yes {
            return Ok(());
        }
        let question = format!("Stop lattice {} with {} hosts in {}?", state.lattice, state.hosts.len(), folder.root().display());
        match output.ask(&question) {
            Some(true) => Ok(()),
            Some(false) => Err(Problem::new(ErrorCode::Failed, "nothing was stopped")),
            None => Err(Problem::new(ErrorCode::Usage, "nobody is there to be asked").hint("--yes stops it without asking")),
        }
    }
}

/// Ends the supervisor, and what it left behind if it was killed.
async fn end(state: &State, folder: &Folder) -> Result<(), Problem> {
    let _ = state.supervisor.signal(Signal::TERM);
    if !state.supervisor.ended_within(SUPERVISOR_GRACE).await {
        let _ = state.supervisor.signal(Signal::KILL);
        state.supervisor.ended_within(ORPHAN_GRACE).await;
    }
    // It may have started things again since; what it wrote last counts.
    let last = State::read(folder)?.unwrap_or_else(|| state.clone());
    let mut left = Vec::new();
    for process in last.processes().into_iter().chain(state.processes()) {
        if !process.end(ORPHAN_GRACE).await {
            left.push(process.pid.to_string());
        }
    }
    if !left.is_empty() {
        return Err(Problem::new(ErrorCode::Failed, format!("processes {} do not end", left.join(", "))).hint("are they yours?"));
    }
    State::remove(folder);
    Ok(())
}

impl Document for Stopped {
    fn text(&self, _wide: bool) -> String {
        let what = if self.server { "" } else { "hosts of " };
        let are = if self.server { "is" } else { "are" };
        format!("{what}lattice {} {are} stopped; the data stay in {}", self.lattice, self.data_dir.display())
    }

    fn names(&self) -> Vec<String> {
        vec![format!("lattice/{}", self.lattice)]
    }
}
