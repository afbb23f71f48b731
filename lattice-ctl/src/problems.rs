//! Errors of libraries and of lattice-core's edits, as the problems that users see.

use std::path::Path;

use lattice_core::desired::{Desired, EditError};
use lattice_core::error::{ErrorCode, Problem, nearest};
use lattice_core::id::{ActorId, InvalidName};

/// `<what> failed`, with the chain of causes.
pub(crate) fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(ErrorCode::Failed, format!("{what} failed")).caused_by(error)
}

/// A file or folder that cannot be used.
pub(crate) fn path(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    let code = if error.kind() == std::io::ErrorKind::NotFound { ErrorCode::NotFound } else { ErrorCode::Failed };
    Problem::new(code, format!("{what} {}: {error}", path.display()))
}

/// A word on the command line that makes no sense.
pub(crate) fn usage(message: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::Usage, message)
}

/// A name that breaks the rules for names.
pub(crate) fn name(error: &InvalidName) -> Problem {
    usage(error.to_string())
}

/// No actor of that name, with the nearest one.
pub(crate) fn no_actor(id: &str, desired: &Desired) -> Problem {
    let names = desired.components.keys().map(ActorId::as_str);
    missing("actor", id, nearest(id, names), "lattice-ctl get actors")
}

/// A refused edit of desired state.
pub(crate) fn edit(error: &EditError, desired: &Desired) -> Problem {
    let failed = |message: String| Problem::new(ErrorCode::Failed, message);
    match error {
        EditError::Missing { what: "actor", name } => no_actor(name, desired),
        EditError::Missing { what: "provider", name } => {
            missing("provider", name, nearest(name, desired.providers.keys().map(AsRef::as_ref)), "lattice-ctl get inventory")
        }
        EditError::Missing { what: "config", name } => {
            missing("config", name, nearest(name, desired.configs.keys().map(AsRef::as_ref)), "lattice-ctl config get")
        }
        EditError::Missing { what, .. } => Problem::new(ErrorCode::NotFound, error.to_string()).hint(format!("lattice-ctl get {what}s")),
        EditError::OtherCode { .. } => failed(format!("actor start failed: {error}")).hint("--allow-update replaces the code"),
        EditError::OtherKind { provider, .. } => failed(format!("provider start failed: {error}"))
            .hint(format!("give it another id, or `lattice-ctl stop provider {provider}` first")),
        EditError::Bounds { .. } | EditError::Needs { .. } => usage(error.to_string()),
        EditError::InUse { provider, actors } => failed(format!("provider {provider} is used by {}", actors.join(", ")))
            .hint("delete the links first (`lattice-ctl get links`), or --force"),
    }
}

fn missing(what: &str, name: &str, near: Option<&str>, list: &str) -> Problem {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let hint = match near {
        Some(near) => format!("did you mean {near}? `{list}` lists all"),
        None => format!("`{list}` lists all"),
    };
    Problem::new(ErrorCode::NotFound, format!("{what} not found: {shown}")).hint(hint)
}
