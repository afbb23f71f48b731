//! `get hosts`.

use std::collections::BTreeMap;

use clap::Args;
use lattice_core::id::{Generation, HostId};
use lattice_core::inventory::Health;
use lattice_core::wire::report::Profile;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, pairs};
use crate::view::View;

/// List the hosts: Healthy, Degraded (it has errors or drains), Unhealthy (it does not answer)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl get hosts
  lattice-ctl get hosts --healthy-only -o name
  lattice-ctl get hosts NEDGE01 -o json")]
pub(crate) struct Hosts {
    /// Only these hosts: ids, names or unique beginnings
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,

    /// Only hosts that answer and take work
    #[arg(long)]
    healthy_only: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Host {
    id: HostId,
    name: String,
    labels: BTreeMap<String, String>,
    state: Health,
    /// Told to stop and gone since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stopped: bool,
    profile: Option<Profile>,
    applied_generation: Option<Generation>,
    uptime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<Host>);

impl Hosts {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let view = View::read(&Session::open(&self.connection).await?).await?;
        let wanted = self.hosts.iter().map(|text| view.inventory.find(text)).collect::<Result<Vec<_>, _>>()?;
        let mut hosts = all(&view);
        hosts.retain(|host| wanted.is_empty() || wanted.contains(&host.id));
        hosts.retain(|host| !self.healthy_only || host.state == Health::Healthy);
        if hosts.is_empty() {
            output.note("no hosts");
        }
        output.print(&List(hosts))
    }
}

fn all(view: &View) -> Vec<Host> {
    let live = view.inventory.hosts.values().map(|report| Host {
        id: report.id.clone(),
        name: report.name.to_string(),
        labels: report.labels.clone(),
        state: Health::of(report),
        stopped: false,
        profile: Some(report.profile),
        applied_generation: Some(report.applied_generation),
        uptime_seconds: Some(report.uptime_seconds),
        version: Some(report.version.clone()),
    });
    let absent = view.inventory.absent.keys().map(|id| Host {
        id: id.clone(),
        name: view.inventory.name_of(id),
        labels: BTreeMap::new(),
        state: Health::Unhealthy,
        stopped: view.was_stopped(id),
        profile: None,
        applied_generation: None,
        uptime_seconds: None,
        version: None,
    });
    let mut hosts: Vec<Host> = live.chain(absent).collect();
    hosts.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    hosts
}

impl Host {
    fn row(&self, wide: bool) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let state = if self.stopped { format!("{} (stopped)", self.state.as_str()) } else { self.state.as_str().to_owned() };
        let mut row = vec![self.name.clone(), state, pairs(&self.labels)];
        row.push(or_dash(self.profile.map(|p| format!("{}/{}m", p.cpu_used, p.cpu_capacity))));
        row.push(or_dash(self.profile.map(|p| format!("{}/{}Mi", p.memory_used_mb, p.memory_mb))));
        row.push(or_dash(self.applied_generation.map(|generation| generation.to_string())));
        row.push(or_dash(self.uptime_seconds.map(uptime)));
        if wide {
            row.extend([or_dash(self.version.clone()), self.id.to_string()]);
        }
        row
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["NAME", "STATE", "LABELS", "CPU", "MEMORY", "GENERATION", "UPTIME", "VERSION", "ID"];
        let shown = if wide { header.len() } else { header.len() - 2 };
        columns(header.get(..shown).unwrap_or(&header), self.0.iter().map(|host| host.row(wide)))
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|host| format!("host/{}", host.name)).collect()
    }
}

/// `3d4h`, `2h5m`, `7m12s`, `9s`.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn uptimes() {
        let check = |seconds: u64, expected: &str| assert_eq!(super::uptime(seconds), expected);
        check(9, "9s");
        check(432, "7m12s");
        check(7500, "2h5m");
        check(273_600, "3d4h");
    }
}
