//! `ctx show`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};

use super::list::Named;
use crate::context::Contexts;
use crate::error::Outcome;
use crate::output::{Document, Output};

/// Show a context, the current one unless another is named
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Name of the context
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Show {
    pub(super) fn run(self, contexts: &Contexts, output: &Output) -> Outcome {
        let current = contexts.current()?;
        let wanted = match (&self.name, &current) {
            (Some(name), _) => name.clone(),
            (None, Some(current)) => current.to_string(),
            (None, None) => {
                return Err(Problem::new(ErrorCode::NotFound, "no context is current").hint("lattice-ctl ctx use <name>").into());
            }
        };
        let (name, context) = contexts.find(&wanted)?;
        output.print(&Named { current: current.as_ref() == Some(&name), name: name.to_string(), context })
    }
}

impl Document for Named {
    fn text(&self, _wide: bool) -> String {
        let context = &self.context;
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let facts = [
            ("name", Some(self.name.clone())),
            ("nats url", context.nats_url.clone()),
            ("lattice", context.lattice.as_ref().map(ToString::to_string)),
            ("creds", path(&context.creds)),
            ("tls ca", path(&context.tls_ca)),
            ("data folder", path(&context.data_dir)),
        ];
        facts.into_iter().filter_map(|(name, value)| Some(format!("{name:<11} {}", value?))).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
