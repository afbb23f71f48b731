//! `get links`, which is also `link query`.

use clap::Args;
use lattice_core::link::LinkSpec;
use lattice_core::plan;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, pairs};
use crate::view::View;

/// List the links
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl get links
  lattice-ctl link query edge-processor -o json")]
pub(crate) struct Links {
    /// Only links of these actors or providers
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<LinkSpec>);

impl Links {
    pub(crate) async fn run(self, output: &Output) -> Outcome {
        let view = View::read(&Session::open(&self.connection).await?).await?;
        let wanted =
            |link: &LinkSpec| self.ids.is_empty() || self.ids.iter().any(|id| id == link.source.as_str() || id == link.target.as_str());
        for (_, link) in plan::dangling_links(&view.desired).into_iter().filter(|(_, link)| wanted(link)) {
            output.note(&format!("note: {} waits for provider {}: `lattice-ctl start provider …`", link.source, link.target));
        }
        let links: Vec<LinkSpec> = view.desired.links.values().filter(|link| wanted(link)).cloned().collect();
        if links.is_empty() {
            output.note("no links; `lattice-ctl link put <actor> <provider> <contract> default` makes one");
        }
        output.print(&List(links))
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["ACTOR", "PROVIDER", "CONTRACT", "NAME", "VALUES", "PERMISSIONS", "CONFIG", "ENV"];
        let shown = if wide { header.len() } else { header.len() - 3 };
        let rows = self.0.iter().map(|link| {
            let mut row = vec![
                link.source.to_string(),
                link.target.to_string(),
                link.contract.to_string(),
                link.name.to_string(),
                pairs(&link.values),
            ];
            if wide {
                let permissions: Vec<&str> = link.permissions.iter().map(String::as_str).collect();
                let config: Vec<&str> = link.config.iter().map(AsRef::as_ref).collect();
                row.extend([
                    if permissions.is_empty() { "all".to_owned() } else { permissions.join(",") },
                    config.join(","),
                    pairs(&link.env_mapping),
                ]);
            }
            row
        });
        columns(header.get(..shown).unwrap_or(&header), rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|link| format!("link/{}/{}/{}", link.source, link.contract, link.name)).collect()
    }
}
