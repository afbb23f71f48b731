//! `get inventory`.

use clap::Args;
use lattice_core::wire::report::HostReport;
use serde::Serialize;

use crate::args::HostsArg;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::view::View;

/// List what each host runs: actors and providers with their state
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl get inventory
  lattice-ctl get inventory NEDGE01 -o yaml")]
pub(crate) struct GetInventory {
    /// Only these hosts: ids, names or unique beginnings
    #[arg(value_name = "HOST")]
    names: Vec<String>,

    #[command(flatten)]
    hosts: HostsArg,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<HostReport>);

impl GetInventory {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let view = View::read(&Session::open(&self.connection).await?).await?;
        let hosts = HostsArg { hosts: [self.names, self.hosts.hosts].concat() };
        let wanted = hosts.find(&view.inventory)?;
        for id in wanted.iter().filter(|id| !view.inventory.hosts.contains_key(*id)) {
            output.note(&format!("note: {} does not answer", view.inventory.name_of(id)));
        }
        let mut reports: Vec<HostReport> =
            view.inventory.hosts.into_values().filter(|host| wanted.is_empty() || wanted.contains(&host.id)).collect();
        reports.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        output.print(&List(reports))
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        let header = ["HOST", "WHAT", "ID", "INSTANCES", "HANDLED", "FAILED", "STATE", "CODE"];
        let shown = if wide { header.len() } else { header.len() - 1 };
        let rows: Vec<Vec<String>> = self.0.iter().flat_map(|host| rows(host, wide)).collect();
        if rows.is_empty() {
            return self.0.iter().map(|host| format!("{} runs nothing", host.name)).collect::<Vec<_>>().join("\n");
        }
        columns(header.get(..shown).unwrap_or(&header), rows)
    }

    fn names(&self) -> Vec<String> {
        let actors = |host: &HostReport| host.components.keys().map(|id| format!("actor/{id}")).collect::<Vec<_>>();
        let providers = |host: &HostReport| host.providers.keys().map(|id| format!("provider/{id}")).collect::<Vec<_>>();
        let all: std::collections::BTreeSet<String> = self.0.iter().flat_map(|host| [actors(host), providers(host)].concat()).collect();
        all.into_iter().collect()
    }
}

fn rows(host: &HostReport, wide: bool) -> Vec<Vec<String>> {
    let name = host.name.to_string();
    let dash = || "-".to_owned();
    let actors = host.components.iter().map(|(id, actor)| {
        let troubles = actor.link_errors.iter().map(|(link, why)| format!("; link {link}: {why}"));
        let state = format!("{}{}", actor.state, troubles.collect::<String>());
        let counts = [actor.instances.to_string(), actor.handled.to_string(), actor.failed.to_string()];
        ("actor", id.to_string(), counts, state, actor.digest.to_string())
    });
    let providers = host.providers.iter().map(|(id, provider)| {
        let state = provider.error.as_ref().map_or_else(|| "running".to_owned(), |why| format!("failed: {why}"));
        ("provider", id.to_string(), [dash(), dash(), dash()], state, provider.kind.as_str().to_owned())
    });
    let row = |(what, id, [instances, handled, failed], state, code): (&str, String, [String; 3], String, String)| {
        let mut row = vec![name.clone(), what.to_owned(), id, instances, handled, failed, state];
        if wide {
            row.push(code);
        }
        row
    };
    actors.chain(providers).map(row).collect()
}
