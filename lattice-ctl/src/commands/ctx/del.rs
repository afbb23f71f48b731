//! `ctx del`.

use clap::Args;

use crate::context::Contexts;
use crate::error::Outcome;
use crate::output::Output;

/// Forget a context; what it names is left alone
#[derive(Debug, Args)]
pub(crate) struct Del {
    /// Name of the context
    #[arg(value_name = "NAME")]
    name: String,
}

impl Del {
    pub(super) fn run(self, contexts: &Contexts, output: &Output) -> Outcome {
        let (name, _) = contexts.find(&self.name)?;
        contexts.delete(&name)?;
        output.note(&format!("context {name} is forgotten"));
        Ok(())
    }
}
