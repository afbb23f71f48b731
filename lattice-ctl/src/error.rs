//! How a command ends without having done its work.

use lattice_core::error::Problem;

/// Why a command stops.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// A problem that the user is told about.
    Problem(Box<Problem>),
    /// Whoever reads standard output has seen enough; nothing is wrong.
    OutputClosed,
}

impl<E: Into<Problem>> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self::Problem(Box::new(error.into()))
    }
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, CommandError>;
