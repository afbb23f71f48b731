//! `ctx use`.

use clap::Args;

use crate::context::Contexts;
use crate::error::Outcome;
use crate::output::Output;

/// Make a context the current one
#[derive(Debug, Args)]
pub(crate) struct Use {
    /// Name of the context
    #[arg(value_name = "NAME")]
    name: String,
}

impl Use {
    pub(super) fn run(self, contexts: &Contexts, output: &Output) -> Outcome {
        let (name, _) = contexts.find(&self.name)?;
        contexts.make_current(&name)?;
        output.note(&format!("context {name} is current"));
        Ok(())
    }
}
