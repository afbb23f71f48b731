//! `ctx list`.

use clap::Args;
use serde::Serialize;

use crate::context::{Context, Contexts};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};

/// List the contexts
#[derive(Debug, Args)]
pub(crate) struct List {}

/// A context under its name.
#[derive(Debug, Serialize)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) current: bool,
    #[serde(flatten)]
    pub(super) context: Context,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct All(Vec<Named>);

impl List {
    pub(super) fn run(self, contexts: &Contexts, output: &Output) -> Outcome {
        let current = contexts.current()?;
        let mut all = Vec::new();
        for name in contexts.names()? {
            match contexts.read(&name) {
                Ok(Some(context)) => all.push(Named { name: name.to_string(), current: current.as_ref() == Some(&name), context }),
                Ok(None) => {}
                Err(problem) => output.note(&format!("note: {problem}")),
            }
        }
        if all.is_empty() {
            output.note(&format!("no contexts in {}; `lattice-ctl up` makes one", contexts.folder().display()));
        }
        output.print(&All(all))
    }
}

impl Document for All {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["", "NAME", "LATTICE", "NATS URL", "CREDENTIALS", "DATA FOLDER"];
        let shown = if wide { header.len() } else { header.len() - 2 };
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let rows = self.0.iter().map(|Named { name, current, context }| {
            let lattice = context.lattice.as_ref().map(ToString::to_string).unwrap_or_default();
            let mark = if *current { "*" } else { "" };
            let mut row = vec![mark.to_owned(), name.clone(), lattice, context.nats_url.clone().unwrap_or_default()];
            if wide {
                row.extend([path(&context.creds), path(&context.data_dir)]);
            }
            row
        });
        columns(header.get(..shown).unwrap_or(&header), rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|named| named.name.clone()).collect()
    }
}
