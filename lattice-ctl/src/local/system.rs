//! Lattice's own actors in a lattice that `up` starts: their components, their place in desired state, their first answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lattice_core::desired::{ComponentSpec, Desired};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, BucketName, Digest};
use lattice_core::needs::Spread;
use lattice_core::subject::{self, SchedulerVerb};
use lattice_core::system::SystemActor;
use lattice_core::wire::assignment::{InstancePolicy, Limits};
use lattice_core::wire::schedule::SchedulerStatus;
use tokio::time::Instant;

use crate::artifact;
use crate::connection::{Session, environment};
use crate::error::Outcome;
use crate::problems;
use crate::system::noun;
use crate::{failover, scheduler};

/// Names the folder of the components before any other place is looked at.
const FOLDER_VARIABLE: &str = "LATTICE_ACTORS";
/// Where the build puts components, beside the folder of this program.
const BUILD_FOLDER: &str = "wasm32-wasip2/actor";
/// Label of hosts that may run the control plane, where hosts need credentials for it.
pub(crate) const CONTROL_LABEL: (&str, &str) = ("control", "true");
/// Hosts that shall run it rather than others.
const PREFERRED: (&str, &str) = ("tier", "cloud");
/// Replicas of each, where there are so many hosts.
const REPLICAS: u32 = 2;
/// What one message may cost: a plan of a thousand hosts takes a while on a small node.
const LIMITS: Limits = Limits { cpu_ms: 20_000, deadline_ms: 60_000, memory_mb: 256 };
/// How long one may take to be ready, compiled for the first time on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long one answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The flag of `up` that leaves the actor out.
fn flag(actor: SystemActor) -> &'static str {
    match actor {
        SystemActor::Scheduler => "--no-scheduler",
        SystemActor::Failover => "--no-failover",
    }
}

/// Finds the component: in `$LATTICE_ACTORS`, else beside this program, else in the folder of the build.
///
/// # Errors
/// Says where it was looked for.
pub(crate) fn find_component(actor: SystemActor) -> Result<PathBuf, Problem> {
    let name = actor.component();
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let hint = format!("build it (`make actors`), name its folder in LATTICE_ACTORS, or leave it out with {}", flag(actor));
    let missing = |message: String| Problem::new(ErrorCode::NotFound, message).hint(hint);
    if let Some(folder) = environment(FOLDER_VARIABLE) {
        let path = Path::new(&folder).join(name);
        return if path.is_file() {
            Ok(absolute(path))
        } else {
            Err(missing(format!("{FOLDER_VARIABLE} names {folder}, which has no {name}")))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let built = beside.as_ref().and_then(|folder| folder.parent()).map(|target| target.join(BUILD_FOLDER));
    let found = beside.into_iter().chain(built).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.map(absolute).ok_or_else(|| missing(format!("no {name} beside this program or in the folder of the build")))
}

/// One of them, as desired state shall have it.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    actor: SystemActor,
    id: ActorId,
    image: String,
    digest: Digest,
    replicas: u32,
    /// Whether only hosts with [`CONTROL_LABEL`] may run it.
    guarded: bool,
}

impl Wanted {
    /// Checks the components, pushes them, and makes the actors' buckets.
    ///
    /// # Errors
    /// Names what cannot be read or written.
    pub(crate) async fn prepare_all(
        session: &Session,
        components: &BTreeMap<SystemActor, PathBuf>,
        hosts: usize,
        guarded: bool,
    ) -> Outcome<Vec<Self>> {
        let mut all = Vec::new();
        for (actor, component) in components {
            all.push(Self::prepare(session, *actor, component, hosts, guarded).await?);
        }
        Ok(all)
    }

    async fn prepare(session: &Session, actor: SystemActor, component: &Path, hosts: usize, guarded: bool) -> Outcome<Self> {
        let id = actor.id().map_err(|error| problems::name(&error))?;
        let artifact = artifact::read(component)?;
        let digest = session.lattice.put_artifact(artifact.bytes).await?;
        let bucket = match actor {
            SystemActor::Scheduler => subject::scheduler_bucket(session.name()),
            SystemActor::Failover => subject::failover_bucket(session.name()),
        };
        let bucket = BucketName::new(bucket).map_err(|error| problems::name(&error))?;
        session.lattice.ensure_bucket(&bucket, None).await?;
        let replicas = u32::try_from(hosts).unwrap_or(REPLICAS).clamp(1, REPLICAS);
        Ok(Self { actor, id, image: format!("file://{}", component.display()), digest, replicas, guarded })
    }

    /// Puts it into desired state. One that is there gets this code; what else the operator wants of it stays.
    ///
    /// # Errors
    /// If the id belongs to another actor.
    pub(crate) fn put(&self, desired: &mut Desired) -> Result<(), Problem> {
        let mut spec = match desired.components.remove(&self.id) {
            Some(spec) if spec.system == Some(self.actor) => spec,
            Some(_) => {
                let noun = noun(self.actor);
                let message = format!("actor `{}` is there and is no {noun}", self.id);
                return Err(
                    Problem::new(ErrorCode::Conflict, message).hint(format!("stop it, or start without a {noun}: {}", flag(self.actor)))
                );
            }
            None => self.fresh(),
        };
        spec.image.clone_from(&self.image);
        spec.digest = self.digest.clone();
        spec.max = spec.max.max(self.replicas);
        let (label, value) = CONTROL_LABEL;
        if self.guarded {
            spec.needs.labels.insert(label.to_owned(), value.to_owned());
        } else {
            spec.needs.labels.remove(label);
        }
        desired.components.insert(self.id.clone(), spec);
        Ok(())
    }

    /// Whether it is the one that judges hosts.
    pub(crate) fn judges(&self) -> bool {
        self.actor == SystemActor::Failover
    }

    fn fresh(&self) -> ComponentSpec {
        let mut spec = ComponentSpec {
            policy: InstancePolicy::Resident,
            limits: LIMITS,
            system: Some(self.actor),
            ..ComponentSpec::new(self.image.as_str(), self.digest.clone())
        };
        spec.needs.prefer.insert(PREFERRED.0.to_owned(), PREFERRED.1.to_owned());
        spec.needs.spread = Some(Spread::Host);
        // Nothing that an operator starts makes it leave.
        spec.needs.priority = u8::MAX;
        spec
    }

    /// Waits until a replica can do its work: the scheduler plans, the failover actor answers. That one judges nobody
    /// before it has listened for a while, which nobody has to wait for.
    ///
    /// # Errors
    /// If none can in time.
    pub(crate) async fn until_ready(&self, session: &Session) -> Result<(), Problem> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if is_ready(session, self.actor).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("the {} is not ready after {} s", noun(self.actor), READY_WITHIN.as_secs());
                return Err(Problem::new(ErrorCode::TimedOut, message).hint("`lattice-ctl get actors --all`, `lattice-ctl logs`"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

async fn is_ready(session: &Session, actor: SystemActor) -> bool {
    match actor {
        SystemActor::Scheduler => {
            let status = scheduler::ask::<SchedulerStatus>(session, SchedulerVerb::Status, Vec::new(), ANSWER_WITHIN).await;
            status.is_ok_and(|status| status.ready)
        }
        SystemActor::Failover => failover::status(session, ANSWER_WITHIN).await.is_ok(),
    }
}

/// Whether a scheduler answers now.
pub(crate) async fn scheduler_answers(session: &Session) -> bool {
    scheduler::ask::<SchedulerStatus>(session, SchedulerVerb::Status, Vec::new(), ANSWER_WITHIN).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(actor: SystemActor, code: &[u8], replicas: u32, guarded: bool) -> Wanted {
        Wanted { actor, id: actor.id().unwrap(), image: "file:///own.wasm".into(), digest: Digest::of(code), replicas, guarded }
    }

    #[test]
    fn other_code_replaces_what_is_there_and_the_rest_stays() {
        for actor in SystemActor::ALL {
            let mut desired = Desired::default();
            wanted(actor, b"1", 1, true).put(&mut desired).unwrap();
            let id = actor.id().unwrap();
            let first = desired.components[&id].clone();
            assert_eq!((first.max, first.policy, first.needs.labels["control"].as_str()), (1, InstancePolicy::Resident, "true"));
            first.needs.check(&id).unwrap();
            desired.components.get_mut(&id).unwrap().max = 3;
            wanted(actor, b"2", 2, false).put(&mut desired).unwrap();
            let second = &desired.components[&id];
            assert_eq!((second.max, &second.digest), (3, &Digest::of(b"2")));
            assert!(second.needs.labels.is_empty() && second.needs.prefer == first.needs.prefer);
            let before = desired.clone();
            wanted(actor, b"2", 2, false).put(&mut desired).unwrap();
            assert_eq!(desired, before, "nothing to change");
        }
    }

    #[test]
    fn somebody_elses_actor_is_not_touched() {
        for (actor, part) in [(SystemActor::Scheduler, "is no scheduler"), (SystemActor::Failover, "is no failover actor")] {
            let mut desired = Desired::default();
            desired.components.insert(actor.id().unwrap(), ComponentSpec::new("file://x.wasm", Digest::of(b"x")));
            let problem = wanted(actor, b"1", 1, false).put(&mut desired).unwrap_err();
            assert!(problem.message.contains(part), "{problem:?}");
        }
    }
}
