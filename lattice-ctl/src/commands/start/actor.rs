//! `start actor`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lattice_core::admission::{self, ComponentShape};
use lattice_core::claims::Claim;
use lattice_core::contract::Contract;
use lattice_core::desired::{ComponentSpec, Desired};
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, ConfigName, Digest};
use lattice_core::image::ActorImage;
use lattice_core::wire::assignment::{InstancePolicy, Limits};

use crate::args::{HostChoice, HostsArg};
use crate::artifact;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::commands::belief;
use crate::commands::needs::{self, NeedsArgs};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::ownership;
use crate::problems;
use crate::view::View;

/// Most CPU time that one message may ask for, in milliseconds: ten minutes is no message any more.
const MAX_CPU_MS: i64 = 600_000;
/// Longest deadline of one message, in milliseconds.
const MAX_DEADLINE_MS: i64 = 600_000;
/// Most memory that an actor may ask for on one host, in MiB: what 32-bit wasm can address.
const MAX_MEMORY_MB: i64 = 4096;

/// Start an actor, or add hosts to one that runs
///
/// The code is a WebAssembly component in a file. It is checked here, stored in the lattice, and fetched by the hosts. An
/// actor may do nothing until links allow it; until then it is shown as waiting.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl start actor file:///opt/actors/edge_processor.wasm edge-processor --host NEDGE01 --max 10
  lattice-ctl start actor ./edge_processor.wasm edge-processor --host NEDGE01,NEDGE02 --spread
  lattice-ctl start actor ./edge_processor.wasm edge-processor --max 4 --cpu 250 --memory 64 --region ap-east-1 --spread=region
  lattice-ctl start actor ./meter.wasm meter --class fenced --slots 2       # two owners, each of its own subscription
  lattice-ctl start actor edge-processor --host NEDGE03          # one that is known already, on one more host
  lattice-ctl start actor ./edge_processor.wasm edge-processor --allow-update")]
pub(crate) struct StartActor {
    /// A file (file:///absolute, file://relative, a path), or the id of an actor that is known already
    #[arg(value_name = "REFERENCE")]
    reference: String,

    /// Id of the actor; the file's name if it is left out
    #[arg(value_name = "ID")]
    id: Option<ActorId>,

    #[command(flatten)]
    hosts: HostsArg,

    /// Instances that may run at once in the whole lattice [default: one for each named host]
    #[arg(long, value_name = "N", alias = "max-instances", alias = "count", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,

    /// Named config that the actor sees besides the one that is named like it; later ones win
    #[arg(long, value_name = "NAME")]
    config: Vec<ConfigName>,

    /// A fresh instance for each message, or instances that keep their memory
    #[arg(long, value_enum, value_name = "POLICY")]
    policy: Option<Policy>,

    /// CPU time per message in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=MAX_CPU_MS))]
    cpu_ms: Option<u32>,

    /// Time from the start of a message to its end in milliseconds [default: 30000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=MAX_DEADLINE_MS))]
    deadline_ms: Option<u32>,

    /// Hard limit of the actor's memory on one host in MiB [default: 64, or what --memory asks for]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=MAX_MEMORY_MB))]
    memory_mb: Option<u32>,

    /// Replace the code of an actor that runs
    #[arg(long)]
    allow_update: bool,

    /// Accepted for old scripts: links name their actor themselves
    #[arg(long, hide = true, value_name = "NAME")]
    link_name: Option<String>,

    #[command(flatten)]
    needs: NeedsArgs,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// A fresh instance for each message
    PerMessage,
    /// Instances keep their memory and take messages in order
    Resident,
}

/// Where the code comes from.
enum Source {
    /// A file, checked and stored.
    Stored { image: String, digest: Digest, shape: ComponentShape, claim: Option<Box<Claim>> },
    /// What the actor runs already.
    Known,
}

impl StartActor {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let (path, id) = self.what()?;
        // Checked before anything is connected or sent.
        let artifact = path.as_deref().map(artifact::read).transpose()?;
        let session = Session::open(&self.connection).await?;
        let source = match (path, artifact) {
            (Some(path), Some(artifact)) => {
                let image = format!("file://{}", path.display());
                let claim = belief::judge(&session, &image, &artifact.bytes)?.map(Box::new);
                let digest = if self.change.dry_run { Digest::of(&artifact.bytes) } else { self.store(&session, artifact.bytes).await? };
                Source::Stored { image, digest, shape: artifact.shape, claim }
            }
            (Some(_) | None, _) => Source::Known,
        };
        if self.link_name.is_some() {
            output.note("note: --link-name is not needed: `lattice-ctl link put` names the link");
        }
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "actor", name: id.to_string(), done: "started" };
        writer.run(intent, &|view, desired| self.edit(&id, &source, view, desired)).await
    }

    /// The file to read, if any, and the actor's id.
    fn what(&self) -> Result<(Option<PathBuf>, ActorId), Problem> {
        match ActorImage::parse(&self.reference) {
            ActorImage::File(path) => {
                let path = artifact::absolute(&path);
                let id = match &self.id {
                    Some(id) => id.clone(),
                    None => artifact::default_id(&path)?,
                };
                Ok((Some(path), id))
            }
            ActorImage::Registry(reference) => match ActorId::new(&reference) {
                Ok(known) if self.id.as_ref().is_none_or(|id| *id == known) => Ok((None, known)),
                Ok(_) | Err(_) => Err(no_registry(&reference)),
            },
        }
    }

    async fn store(&self, session: &Session, bytes: bytes::Bytes) -> Outcome<Digest> {
        Ok(session.lattice.put_artifact(bytes).await?)
    }

    fn edit(&self, id: &ActorId, source: &Source, view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
        let running = desired.components.get(id).cloned();
        let before = running.as_ref().map_or(0, |running| needs::together(&running.needs, running.max));
        let mut spec = match (source, running.clone()) {
            (Source::Known, Some(running)) => running,
            (Source::Known, None) => return Err(unknown(id, desired)),
            (Source::Stored { image, digest, .. }, Some(running)) => {
                ComponentSpec { image: image.clone(), digest: digest.clone(), ..running }
            }
            (Source::Stored { image, digest, .. }, None) => ComponentSpec::new(image, digest.clone()),
        };
        match self.hosts.choice(&view.inventory)? {
            HostChoice::Unsaid => {}
            HostChoice::Any => spec.hosts = BTreeSet::new(),
            HostChoice::Named(mut hosts) => {
                if running.is_some_and(|running| running.hosts.is_empty()) {
                    // It stays where the plan has put it, and runs on the named hosts, too.
                    hosts.extend(view.plan.shares_of(id).into_keys());
                }
                spec.hosts = hosts;
            }
        }
        self.settings(&mut spec);
        spec.needs = self.needs.apply(&spec.needs)?;
        let max = ownership::instances(self.max, &spec.needs)?;
        desired.start_component(id.clone(), spec, max, self.allow_update).map_err(|error| problems::edit(&error, desired))?;
        if let Some(spec) = desired.components.get_mut(id) {
            self.hold(spec, before)?;
        }
        let mut edited = Edited { actors: BTreeSet::from([id.clone()]), ..Edited::default() };
        if let Source::Stored { shape, claim, image, .. } = source {
            claim.as_ref().map_or(Ok(()), |claim| belief::check_links(claim, id, image, desired))?;
            edited.notes.extend(missing_links(id, shape, desired));
        }
        edited.notes.extend(ownership::waits_for(id, desired));
        Ok(edited)
    }

    /// The limit of memory holds what the actor asks for, unless it was given and is lower than that.
    fn hold(&self, spec: &mut ComponentSpec, before: u32) -> Result<(), Problem> {
        match self.memory_mb {
            Some(limit) if limit < spec.needs.memory_mb => {
                let asked = spec.needs.memory_mb;
                Err(problems::usage(format!("--memory {asked} asks for more than --memory-mb {limit} allows on one host")))
            }
            Some(_) => Ok(()),
            None => {
                needs::hold(&mut spec.limits, before, needs::together(&spec.needs, spec.max));
                Ok(())
            }
        }
    }

    /// Takes over what was asked for and leaves the rest as it is.
    fn settings(&self, spec: &mut ComponentSpec) {
        if !self.config.is_empty() {
            spec.config.clone_from(&self.config);
        }
        match self.policy {
            Some(Policy::PerMessage) => spec.policy = InstancePolicy::PerMessage,
            Some(Policy::Resident) => spec.policy = InstancePolicy::Resident,
            None => {}
        }
        let Limits { cpu_ms, deadline_ms, memory_mb } = spec.limits;
        spec.limits = Limits {
            cpu_ms: self.cpu_ms.unwrap_or(cpu_ms),
            deadline_ms: self.deadline_ms.unwrap_or(deadline_ms),
            memory_mb: self.memory_mb.unwrap_or(memory_mb),
        };
    }
}

/// What the actor will wait for, or that nothing reaches it, with the commands that change it.
fn missing_links(id: &ActorId, shape: &ComponentShape, desired: &Desired) -> Option<String> {
    let linked: BTreeSet<Contract> = desired.links_of(id).map(|link| link.contract).collect();
    let missing = admission::missing_links(shape, &linked);
    let waits: BTreeSet<Contract> = missing.iter().filter_map(|import| Contract::parse(import).ok()).collect();
    let serves: BTreeSet<Contract> = Contract::ALL.into_iter().filter(|contract| admission::exports_contract(shape, *contract)).collect();
    let list = |contracts: &BTreeSet<Contract>| {
        let commands = contracts.iter().map(|contract| format!("`lattice-ctl link put {id} <provider> {contract} default`"));
        commands.collect::<Vec<_>>().join(", ")
    };
    match (waits.is_empty(), linked.is_disjoint(&serves)) {
        (false, _) => Some(format!("{id} waits for links: {}", list(&waits))),
        (true, true) => Some(format!("nothing reaches {id} yet: {}", list(&serves))),
        (true, false) => None,
    }
}

fn no_registry(reference: &str) -> Problem {
    Problem::actor_image(reference, "registries cannot be reached yet")
        .hint("give a file: `lattice-ctl start actor file://./<name>.wasm <id>`")
}

fn unknown(id: &ActorId, desired: &Desired) -> Problem {
    let near = lattice_core::error::nearest(id.as_str(), desired.components.keys().map(ActorId::as_str));
    let hint = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("give its file: `lattice-ctl start actor file://./{id}.wasm {id}`"),
    };
    Problem::actor_image(id.as_str(), "no actor of that id is known here, and registries cannot be reached yet").hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        start: StartActor,
    }

    fn parse(line: &str) -> StartActor {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.start).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn edit(line: &str, before: Desired) -> Result<Desired, Problem> {
        let view = view(3, before);
        let mut next = view.desired.clone();
        let source =
            Source::Stored { image: "file:///b.wasm".into(), digest: Digest::of(b"b"), shape: ComponentShape::default(), claim: None };
        let start = parse(line);
        let source = if start.reference.ends_with(".wasm") { source } else { Source::Known };
        start.edit(&actor("a"), &source, &view, &mut next).map(|_| next)
    }

    fn running(hosts: &[u8]) -> Desired {
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(hosts), Some(5), false).unwrap();
        desired
    }

    #[test]
    fn references() {
        let what = |line: &str| parse(line).what();
        assert_eq!(what("start /x/edge_processor.wasm").unwrap(), (Some("/x/edge_processor.wasm".into()), actor("edge_processor")));
        assert_eq!(what("start file:///x/b.wasm id").unwrap(), (Some("/x/b.wasm".into()), actor("id")));
        assert!(what("start file://b.wasm").unwrap().0.unwrap().is_absolute());
        assert_eq!(what("start edge-processor").unwrap(), (None, actor("edge-processor")));
        for reference in ["ghcr.io/a/b:1", "oci://ghcr.io/a/b:1"] {
            let problem = what(&format!("start {reference} id")).unwrap_err();
            assert!(problem.message.starts_with("actor start failed: image pull: ghcr.io/a/b:1"), "{problem:?}");
        }
    }

    #[test]
    fn a_new_actor_gets_an_instance_for_each_named_host() {
        let next = edit("start b.wasm a --host NEDGE01,NEDGE03 --memory-mb 7", Desired::default()).unwrap();
        let spec = &next.components["a"];
        assert_eq!((spec.max, spec.hosts.len(), spec.limits.memory_mb, spec.limits.cpu_ms), (2, 2, 7, 1000));
        assert_eq!(edit("start b.wasm a", Desired::default()).unwrap().components["a"].max, 1);
        assert!(edit("start b.wasm a --host NEDGE09", Desired::default()).unwrap_err().message.contains("host not found: NEDGE09"));
    }

    #[test]
    fn a_known_actor_keeps_what_is_not_said_again() {
        let next = edit("start a --hosts NEDGE02 --link-name x", running(&[0])).unwrap();
        let spec = &next.components["a"];
        assert_eq!((spec.max, spec.hosts.clone()), (5, BTreeSet::from([host(0), host(1)])));
        assert!(edit("start a", Desired::default()).unwrap_err().message.starts_with("actor start failed: image pull"));
    }

    #[test]
    fn an_actor_that_the_plan_placed_stays_there_too() {
        let mut before = Desired::default();
        before.start_component(actor("a"), component(&[]), Some(1), false).unwrap();
        let next = edit("start a --host NEDGE02", before).unwrap();
        assert_eq!(next.components["a"].hosts, BTreeSet::from([host(0), host(1)]));
    }

    #[test]
    fn the_choice_goes_back_to_the_plan() {
        let next = edit("start a --hosts any --region eu --spread=region", running(&[0])).unwrap();
        let spec = &next.components["a"];
        assert!(spec.hosts.is_empty());
        assert_eq!(spec.needs.region.as_ref().map(ToString::to_string).as_deref(), Some("eu"));
    }

    #[test]
    fn the_memory_limit_holds_what_is_asked_for() {
        let limit =
            |flags: &str| edit(&format!("start b.wasm a {flags}"), Desired::default()).map(|next| next.components["a"].limits.memory_mb);
        assert_eq!(limit("--memory 100 --max 3").unwrap(), 300);
        assert_eq!(limit("--memory 10").unwrap(), 64);
        assert_eq!(limit("--memory 100 --max 3 --memory-mb 128").unwrap(), 128);
        let refused = limit("--memory 100 --memory-mb 64").unwrap_err();
        assert_eq!(refused.message, "--memory 100 asks for more than --memory-mb 64 allows on one host");
    }

    #[test]
    fn other_code_needs_to_be_allowed() {
        assert!(edit("start b.wasm a", running(&[0])).unwrap_err().hint.unwrap().contains("--allow-update"));
        let next = edit("start b.wasm a --allow-update", running(&[0])).unwrap();
        let spec = &next.components["a"];
        assert_eq!((spec.digest.clone(), spec.image.as_str(), spec.max, spec.hosts.len()), (Digest::of(b"b"), "file:///b.wasm", 5, 1));
    }
}
