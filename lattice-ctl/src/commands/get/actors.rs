//! `get actors`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::id::{ActorId, Digest, Generation, HostId};
use lattice_core::needs::Needs;
use lattice_core::system::SystemActor;
use lattice_core::wire::report::{ComponentReport, ComponentState, HostReport, SlotReport};
use serde::Serialize;

use crate::commands::needs;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::problems;
use crate::view::View;

/// List the actors: how each stands, and how many instances are ready on which host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl get actors
  lattice-ctl get actors -o wide                  # with what they ask for, who owns their slots, what was measured
  lattice-ctl get actors edge-processor -o json")]
pub(crate) struct Actors {
    /// Only these actors
    #[arg(value_name = "ID")]
    ids: Vec<ActorId>,

    /// Lattice's own actors, too
    #[arg(long, short = 'a')]
    all: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Actor {
    id: ActorId,
    /// `running`, `starting`, `waiting: …`, `failed: …`.
    state: String,
    instances: Vec<Instances>,
    /// Instances that may be ready at once in the whole lattice; none if it is being stopped.
    max: Option<u32>,
    /// What one instance asks of its host.
    #[serde(skip_serializing_if = "Needs::is_default")]
    needs: Needs,
    /// Slots that hosts own of it, by their best knowledge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owners: Vec<Owner>,
    /// CPU time of its code lately on all hosts, in thousandths of a core.
    cpu_used: u64,
    /// Largest memory of one instance, in MiB.
    memory_peak_mb: u32,
    /// Which of lattice's own it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<SystemActor>,
    image: Option<String>,
    digest: Option<Digest>,
}

/// Instances that are ready on one host.
#[derive(Debug, Serialize)]
struct Instances {
    host_id: HostId,
    host_name: String,
    count: u32,
}

/// A slot and its owner.
#[derive(Debug, Serialize)]
struct Owner {
    slot: u32,
    host_id: HostId,
    host_name: String,
    /// Plan that gave the slot to the host.
    term: Generation,
    /// Position of the host's claim in the stream of the bucket.
    epoch: u64,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<Actor>);

impl Actors {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let view = View::read(&Session::open(&self.connection).await?).await?;
        let mut actors = all(&view);
        if let Some(unknown) = self.ids.iter().find(|id| !actors.iter().any(|actor| actor.id == **id)) {
            return Err(problems::no_actor(unknown.as_str(), &view.desired).into());
        }
        let shown = |actor: &Actor| if self.ids.is_empty() { self.all || actor.system.is_none() } else { self.ids.contains(&actor.id) };
        actors.retain(shown);
        if actors.is_empty() {
            output.note("no actors; `lattice-ctl start actor file://… <id>` starts one");
        }
        output.print(&List(actors))
    }
}

/// Actors that should be, and those that still are.
fn all(view: &View) -> Vec<Actor> {
    let reported = view.inventory.hosts.values().flat_map(|report| report.components.keys());
    let ids: BTreeSet<&ActorId> = view.desired.components.keys().chain(reported).collect();
    ids.into_iter().map(|id| actor(id, view)).collect()
}

fn actor(id: &ActorId, view: &View) -> Actor {
    let spec = view.desired.components.get(id);
    let mut reports: Vec<(&HostReport, &ComponentReport)> =
        view.inventory.hosts.values().filter_map(|host| Some((host, host.components.get(id)?))).collect();
    reports.sort_by_key(|(host, _)| (&host.name, &host.id));
    let instances = reports.iter().filter(|(_, report)| report.instances > 0);
    Actor {
        id: id.clone(),
        state: state(id, view, &reports),
        instances: instances
            .map(|(host, report)| Instances { host_id: host.id.clone(), host_name: host.name.to_string(), count: report.instances })
            .collect(),
        max: spec.map(|spec| spec.max),
        needs: spec.map(|spec| spec.needs.clone()).unwrap_or_default(),
        owners: owners(&reports),
        cpu_used: reports.iter().fold(0, |sum, (_, report)| sum.saturating_add(u64::from(report.cpu_used))),
        memory_peak_mb: reports.iter().map(|(_, report)| report.memory_peak_mb).max().unwrap_or(0),
        system: spec.and_then(|spec| spec.system),
        image: spec.map(|spec| spec.image.clone()),
        digest: spec.map(|spec| spec.digest.clone()).or_else(|| reports.first().map(|(_, report)| report.digest.clone())),
    }
}

/// Who says that it owns which slot, by slot.
fn owners(reports: &[(&HostReport, &ComponentReport)]) -> Vec<Owner> {
    let of_host = |(host, report): &(&HostReport, &ComponentReport)| {
        let owner = |(slot, owned): (&u32, &SlotReport)| Owner {
            slot: *slot,
            host_id: host.id.clone(),
            host_name: host.name.to_string(),
            term: owned.term,
            epoch: owned.epoch,
        };
        report.slots.iter().map(owner).collect::<Vec<_>>()
    };
    let mut owners: Vec<Owner> = reports.iter().flat_map(of_host).collect();
    owners.sort_by(|a, b| (a.slot, a.term, &a.host_name).cmp(&(b.slot, b.term, &b.host_name)));
    owners
}

/// `running` if it runs anywhere, else how it stands on the host that knows most.
fn state(id: &ActorId, view: &View, reports: &[(&HostReport, &ComponentReport)]) -> String {
    let rank = |state: &ComponentState| match state {
        ComponentState::Running => 0,
        ComponentState::Failed(_) => 1,
        ComponentState::Waiting(_) => 2,
        ComponentState::Starting => 3,
    };
    let best = reports.iter().map(|(_, report)| &report.state).min_by_key(|state| rank(state));
    match best {
        Some(state) => state.to_string(),
        None => {
            let hosts: Vec<String> = view.plan.shares_of(id).keys().map(|host| view.inventory.name_of(host)).collect();
            if hosts.is_empty() { "waiting: not planned yet".to_owned() } else { format!("waiting: {} does not answer", hosts.join(", ")) }
        }
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["ID", "INSTANCES", "MAX", "HOSTS", "STATE", "NEEDS", "OWNERS", "CPU", "MEMORY", "IMAGE", "DIGEST"];
        let shown = if wide { header.len() } else { header.len() - 6 };
        let rows = self.0.iter().map(|actor| {
            let ready: u64 = actor.instances.iter().map(|on| u64::from(on.count)).sum();
            let hosts: Vec<String> = actor.instances.iter().map(|on| format!("{}:{}", on.host_name, on.count)).collect();
            let max = actor.max.map_or_else(|| "-".to_owned(), |max| max.to_string());
            let mut row = vec![actor.id.to_string(), ready.to_string(), max, hosts.join(","), actor.state.clone()];
            if wide {
                let owners = actor.owners.iter().map(|owner| format!("{}:{}", owner.slot, owner.host_name)).collect::<Vec<_>>();
                row.extend([
                    needs::describe(&actor.needs),
                    owners.join(","),
                    format!("{}m", actor.cpu_used),
                    format!("{}Mi", actor.memory_peak_mb),
                ]);
                row.extend([actor.image.clone().unwrap_or_default(), actor.digest.as_ref().map(ToString::to_string).unwrap_or_default()]);
            }
            row
        });
        columns(header.get(..shown).unwrap_or(&header), rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|actor| format!("actor/{}", actor.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{component, host, view};
    use lattice_core::desired::Desired;
    use lattice_core::needs::Class;

    #[test]
    fn owners_are_shown_by_slot() {
        let mut desired = Desired::default();
        let mut spec = component(&[]);
        (spec.needs.class, spec.needs.slots) = (Class::Fenced, 2);
        let id = crate::view::tests::actor("a");
        desired.start_component(id.clone(), spec, Some(2), false).unwrap();
        let mut view = view(2, desired);
        for (n, slot) in [(0, 1), (1, 0)] {
            let mut report = ComponentReport::new(Digest::of(b"a"), ComponentState::Running, 1);
            report.slots.insert(slot, SlotReport { term: Generation(3), epoch: 17 });
            view.inventory.hosts.get_mut(&host(n)).unwrap().components.insert(id.clone(), report);
        }
        let shown = List(all(&view)).text(true);
        assert!(shown.contains("fenced, 2 slots  0:NEDGE02,1:NEDGE01"), "{shown}");
        let listed = serde_json::to_value(List(all(&view))).unwrap();
        assert_eq!((&listed[0]["owners"][1]["host_name"], &listed[0]["owners"][1]["epoch"]), (&"NEDGE01".into(), &17.into()));
    }
}
