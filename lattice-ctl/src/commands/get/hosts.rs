//! `get hosts`.

use std::collections::BTreeMap;

use clap::Args;
use lattice_core::id::{Generation, HostId, Region};
use lattice_core::inventory::Health;
use lattice_core::wire::report::Profile;
use lattice_core::wire::verdict::Standing;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns, pairs};
use crate::standing::{self, Judged};
use crate::view::View;

/// List the hosts: Healthy, Degraded (it has errors, drains or has just returned), Unhealthy (it does not answer, is suspect
/// or taken for gone)
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
    /// Nothing new is placed there.
    cordoned: bool,
    /// What runs there moves away.
    draining: bool,
    /// What the failover actors or the operator make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Standing>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    profile: Option<Profile>,
    applied_generation: Option<Generation>,
    uptime_seconds: Option<u64>,
    /// Round trip to a peer of each region in microseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rtt_us: BTreeMap<Region, u32>,
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
    let wanted = |id: &HostId| view.desired.nodes.get(id).cloned().unwrap_or_default();
    let judged = |id: &HostId| Judged::of(id, view);
    let live = view.inventory.hosts.values().map(|report| Host {
        id: report.id.clone(),
        name: report.name.to_string(),
        labels: report.labels.clone(),
        state: standing::health(report, view),
        verdict: judged(&report.id).map(|judged| judged.standing),
        reason: judged(&report.id).map(|judged| judged.reason),
        stopped: false,
        cordoned: wanted(&report.id).cordoned,
        draining: wanted(&report.id).draining,
        rtt_us: report.rtt_us.clone(),
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
        verdict: judged(id).map(|judged| judged.standing),
        reason: judged(id).map(|judged| judged.reason),
        stopped: view.was_stopped(id),
        cordoned: wanted(id).cordoned,
        draining: wanted(id).draining,
        rtt_us: BTreeMap::new(),
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
        let words = [(self.stopped, "stopped"), (self.cordoned, "cordoned"), (self.draining, "draining")];
        // One that was told to stop is gone on purpose.
        let verdict = self
            .verdict
            .filter(|standing| *standing != Standing::Healthy && !self.stopped)
            .map(|standing| standing.as_str().to_lowercase());
        let words = words.into_iter().filter(|(so, _)| *so).map(|(_, word)| word.to_owned());
        let words: Vec<String> = words.chain(verdict).collect();
        let state =
            if words.is_empty() { self.state.as_str().to_owned() } else { format!("{} ({})", self.state.as_str(), words.join(", ")) };
        let mut row = vec![self.name.clone(), state, pairs(&self.labels)];
        row.push(or_dash(self.profile.map(|p| format!("{}/{}m", p.cpu_used, p.cpu_capacity))));
        row.push(or_dash(self.profile.map(|p| format!("{}/{}Mi", p.memory_used_mb, p.memory_mb))));
        row.push(or_dash(self.applied_generation.map(|generation| generation.to_string())));
        row.push(or_dash(self.uptime_seconds.map(uptime)));
        if wide {
            let trips = self.rtt_us.iter().map(|(region, micros)| format!("{region}={}", milliseconds(*micros))).collect::<Vec<_>>();
            row.extend([or_dash((!trips.is_empty()).then(|| trips.join(","))), or_dash(self.version.clone()), self.id.to_string()]);
            row.push(or_dash(self.reason.clone()));
        }
        row
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["NAME", "STATE", "LABELS", "CPU", "MEMORY", "GENERATION", "UPTIME", "RTT", "VERSION", "ID", "VERDICT"];
        let shown = if wide { header.len() } else { header.len() - 4 };
        columns(header.get(..shown).unwrap_or(&header), self.0.iter().map(|host| host.row(wide)))
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|host| format!("host/{}", host.name)).collect()
    }
}

/// `0.2ms`.
fn milliseconds(micros: u32) -> String {
    format!("{}.{}ms", micros / 1000, micros % 1000 / 100)
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
    use super::*;
    use crate::view::tests::{host, view};
    use lattice_core::desired::Desired;

    #[test]
    fn what_is_wanted_of_a_host_is_shown() {
        let mut desired = Desired::default();
        desired.edit_node(&host(0), |node| node.cordoned = true);
        desired.edit_node(&host(1), |node| node.draining = true);
        let mut view = view(4, desired);
        let start = view.inventory.hosts[&host(3)].incarnation.clone();
        view.desired.edit_node(&host(3), |node| node.failed_over = Some(start));
        view.inventory.hosts.get_mut(&host(0)).unwrap().rtt_us.insert(Region::new("eu").unwrap(), 1250);
        let states: Vec<String> = all(&view).iter().map(|host| host.row(true)[1].clone()).collect();
        assert_eq!(states, ["Healthy (cordoned)", "Healthy (draining)", "Healthy", "Unhealthy (dead)"]);
        assert_eq!(all(&view)[3].row(true).last().unwrap(), "failed over by hand");
        assert_eq!(all(&view)[0].row(true)[7], "eu=1.2ms");
        let listed = serde_json::to_value(List(all(&view))).unwrap();
        assert_eq!((&listed[0]["cordoned"], &listed[1]["draining"], &listed[2]["cordoned"]), (&true.into(), &true.into(), &false.into()));
    }

    #[test]
    fn uptimes() {
        let check = |seconds: u64, expected: &str| assert_eq!(uptime(seconds), expected);
        check(9, "9s");
        check(432, "7m12s");
        check(7500, "2h5m");
        check(273_600, "3d4h");
    }
}
