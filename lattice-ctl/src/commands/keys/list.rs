//! `keys list`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{EXTENSION, Folder, kind_name, read};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::problems;

/// List the keys in a folder: what each is for, and its public part
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Serialize)]
struct Key {
    name: String,
    kind: &'static str,
    public_key: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Found(Vec<Key>);

impl List {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let entries = std::fs::read_dir(&self.folder.dir).map_err(|error| problems::path("folder", &self.folder.dir, &error))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        paths.sort();
        let mut keys = Vec::new();
        for path in paths {
            match read(&path) {
                Ok(pair) => keys.push(Key {
                    name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                    kind: kind_name(&pair.key_pair_type()),
                    public_key: pair.public_key(),
                }),
                Err(problem) => output.note(&format!("note: {problem}")),
            }
        }
        output.print(&Found(keys))
    }
}

impl Document for Found {
    fn text(&self, _wide: bool) -> String {
        columns(
            &["NAME", "KIND", "PUBLIC KEY"],
            self.0.iter().map(|key| vec![key.name.clone(), key.kind.to_owned(), key.public_key.clone()]),
        )
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|key| key.name.clone()).collect()
    }
}
