//! What every row needs: how many rounds, and where programs and guests are.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Error;

/// Rounds of a run that counts.
const ROUNDS: usize = 15;
/// Rounds of a run that only shows whether everything works.
const QUICK_ROUNDS: usize = 3;

/// The surroundings of a row.
pub(crate) struct Bench {
    /// How many rounds to run.
    pub(crate) rounds: usize,
    /// Whether this run only shows that everything works: rows do less per round, too.
    pub(crate) quick: bool,
    /// Whether rows that wait for something that should not happen wait for as long as the goal says.
    pub(crate) long: bool,
    /// A folder that is gone after the run.
    pub(crate) scratch: PathBuf,
    programs: PathBuf,
    actors: PathBuf,
    binaries: PathBuf,
}

impl Bench {
    /// Binaries are looked for beside this one, guests where cargo puts them under the same target folder; the variables
    /// `LATTICE_PROGRAMS` and `LATTICE_ACTORS` name others.
    ///
    /// # Errors
    /// This program has no path.
    pub(crate) fn new(quick: bool, scratch: &Path) -> Result<Self, Error> {
        let own = std::env::current_exe()?;
        let binaries = own.parent().ok_or("this program is in no folder")?.to_owned();
        let guests = binaries.parent().unwrap_or(&binaries).join("wasm32-wasip2/actor");
        let given = |name: &str, default: PathBuf| std::env::var_os(name).map_or(default, PathBuf::from);
        Ok(Self {
            rounds: if quick { QUICK_ROUNDS } else { ROUNDS },
            quick,
            long: false,
            scratch: scratch.to_owned(),
            programs: given("LATTICE_PROGRAMS", guests.join("examples")),
            actors: given("LATTICE_ACTORS", guests),
            binaries,
        })
    }

    /// `full` pieces of work, or a tenth of it in a quick run.
    pub(crate) fn work(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }

    /// Bytes of the guest program `name`, one of `tests/programs`.
    ///
    /// # Errors
    /// It is not built.
    pub(crate) fn program(&self, name: &str) -> Result<Bytes, Error> {
        read(&self.program_path(name), "make programs")
    }

    /// Path of the guest program `name`, for whoever hands it to another process.
    pub(crate) fn program_path(&self, name: &str) -> PathBuf {
        self.programs.join(format!("{}.wasm", name.replace('-', "_")))
    }

    /// Path of the actor `name`, `edge_processor`.
    pub(crate) fn actor(&self, name: &str) -> PathBuf {
        self.actors.join(format!("{name}.wasm"))
    }

    /// Path of the binary `name`, built like this one.
    ///
    /// # Errors
    /// It is not built.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.binaries.join(name);
        if path.exists() { Ok(path) } else { Err(format!("{} is not there: build it in the same profile", path.display()).into()) }
    }
}

fn read(path: &Path, remedy: &str) -> Result<Bytes, Error> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}; {remedy}", path.display()))?;
    Ok(bytes.into())
}
