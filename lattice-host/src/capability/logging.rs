//! `wasi:logging/logging`: lines of the actor, bounded and escaped (see [`crate::runtime::logs`]).

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::runtime::bindings::host::wasi::logging::logging::{Host, Level};
use crate::runtime::logs::LogLevel;
use crate::runtime::state::State;

/// The name without a version, which older toolchains import.
const UNVERSIONED: &str = "wasi:logging/logging";

impl Host for State {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        self.identity.log.line(level.into(), &context, &message);
        Ok(())
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
            Level::Critical => Self::Critical,
        }
    }
}

/// Serves the same interface under its name without a version.
pub(crate) fn add_unversioned(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(UNVERSIONED)?.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, State>, (level, context, message): (Level, String, String)| {
            store.data_mut().log(level, context, message)
        },
    )
}
