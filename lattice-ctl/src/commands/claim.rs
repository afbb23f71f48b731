//! `claim`: who says what about an actor's code.

mod inspect;
mod sign;
mod verify;

use std::path::Path;

use clap::Subcommand;
use lattice_core::claims::sections::Carried;
use lattice_core::error::{ErrorCode, Problem};

use crate::artifact::{self, Artifact};
use crate::error::Outcome;
use crate::output::Output;

pub(super) use inspect::Described;

/// Sign an actor's code, and see who signed it
#[derive(Debug, Subcommand)]
pub(crate) enum Claim {
    Sign(Box<sign::Sign>),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
}

impl Claim {
    pub(super) fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Sign(verb) => verb.run(output),
            Self::Inspect(verb) => verb.run(output),
            Self::Verify(verb) => verb.run(output),
        }
    }
}

/// The component in a file.
///
/// # Errors
/// What a start would say, in the words of this verb.
fn component(path: &Path, doing: &str) -> Result<Artifact, Problem> {
    artifact::read(path).map_err(|mut problem| {
        let why = problem.message.trim_start_matches("actor start failed: ").trim_start_matches("image pull: ");
        problem.message = format!("{doing} failed: {why}");
        problem
    })
}

/// What a component carries.
///
/// # Errors
/// `invalid claim` if its sections cannot be read.
fn carried(path: &Path, bytes: &[u8]) -> Result<Carried, Problem> {
    Carried::read(bytes).map_err(|error| Problem::new(ErrorCode::InvalidClaim, format!("invalid claim: {}: {error}", path.display())))
}
