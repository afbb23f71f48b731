//! Code of actors that run elsewhere, compiled ahead of need: a take-over must not wait for a compiler.
//!
//! The host hears which actors are wanted in the lattice and compiles those that it may get, one after the other, when it has
//! nothing else to compile. What it cannot fetch or compile now it meets again when the plan gives it the actor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use lattice_core::admission::MAX_COMPONENT_BYTES;
use lattice_core::desired::{ComponentSpec, Desired};
use lattice_core::id::{Digest, HostId};
use lattice_core::needs::Class;
use lattice_core::subject;
use lattice_nats::bucket::Bucket;
use lattice_nats::{ConnectionState, Lattice, StoreError};

use crate::reason;
use crate::runtime::{Prepared, Runtime};

/// Pause before each attempt: what is urgent goes first, and a burst of changes is over by then.
const PAUSE: Duration = Duration::from_secs(2);
/// Keys of desired state up to which all of it is read after each connect; in larger lattices a host learns of actors only as
/// they change.
const MAX_KEYS: u64 = 2_000;

/// For whom code is prepared.
pub(crate) struct Shelf {
    /// This host.
    pub(crate) host: HostId,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Most actors' code in one run of the host.
    pub(crate) limit: u32,
}

impl Shelf {
    /// Whether an actor may come to this host when another one fails.
    fn may_get(&self, spec: &ComponentSpec) -> bool {
        let labels = spec.needs.labels.iter().all(|(name, value)| self.labels.get(name) == Some(value));
        labels && (spec.hosts.is_empty() || spec.hosts.contains(&self.host)) && spec.needs.class != Class::Autonomous
    }
}

/// Runs as long as the connection.
///
/// # Errors
/// [`StoreError`] if nothing can be heard over it.
pub(crate) async fn run(lattice: Lattice, runtime: Runtime, shelf: Shelf) -> Result<(), StoreError> {
    let limit = usize::try_from(shelf.limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(());
    }
    let mut changes = lattice.subscribe(subject::component_changes(lattice.name())).await?;
    let mut state = lattice.connection().state();
    let (mut waiting, mut known) = (VecDeque::new(), BTreeSet::new());
    let mut look = true;
    loop {
        let connected = *state.borrow_and_update() == ConnectionState::Connected;
        if look && connected {
            look = false;
            note(&shelf, limit, &everything(&lattice).await, &mut known, &mut waiting);
        }
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { return Ok(()) };
                let mut desired = Desired::default();
                let key = change.subject.as_str().split_once(".desired.").map(|(_, key)| key);
                // What makes no sense is the scheduler's to report.
                if key.is_some_and(|key| desired.insert(key, &change.payload).is_ok()) {
                    note(&shelf, limit, &desired, &mut known, &mut waiting);
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                look = true;
            }
            () = tokio::time::sleep(PAUSE), if connected && !waiting.is_empty() => {
                if let Some(digest) = waiting.pop_front()
                    && prepare(&lattice, &runtime, &digest).await == Prepared::Later
                {
                    waiting.push_back(digest);
                }
            }
        }
    }
}

/// Desired state, if it is small enough to be read by every host.
async fn everything(lattice: &Lattice) -> Desired {
    let keys = Bucket::named(lattice.connection(), &subject::desired_bucket(lattice.name())).info().await.map(|info| info.keys);
    match keys {
        Ok(keys) if keys <= MAX_KEYS => lattice.read_desired().await.map(|(desired, _)| desired).unwrap_or_default(),
        Ok(_) | Err(_) => Desired::default(),
    }
}

/// Puts code that is not known yet into the queue, that of the most important actors first.
fn note(shelf: &Shelf, limit: usize, desired: &Desired, known: &mut BTreeSet<Digest>, waiting: &mut VecDeque<Digest>) {
    let mut specs: Vec<&ComponentSpec> = desired.components.values().filter(|spec| shelf.may_get(spec)).collect();
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.needs.priority));
    for spec in specs {
        if known.len() < limit && known.insert(spec.digest.clone()) {
            waiting.push_back(spec.digest.clone());
        }
    }
}

async fn prepare(lattice: &Lattice, runtime: &Runtime, digest: &Digest) -> Prepared {
    // Boxed: a fetch is large, and this is no hot path.
    match Box::pin(runtime.prepare(digest, lattice.get_artifact(digest, MAX_COMPONENT_BYTES))).await {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::debug!(%digest, error = reason::of(&error), "code is not prepared");
            Prepared::Done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(tier: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("tier".to_owned(), tier.to_owned())])
    }

    fn shelf() -> Shelf {
        Shelf { host: HostId::new(format!("N{}", "A".repeat(55))).unwrap(), labels: tier("edge"), limit: 2 }
    }

    fn spec(code: &[u8], edit: impl FnOnce(&mut ComponentSpec)) -> ComponentSpec {
        let mut spec = ComponentSpec::new("file://a.wasm", Digest::of(code));
        edit(&mut spec);
        spec
    }

    #[test]
    fn what_may_come_here() {
        let elsewhere = HostId::new(format!("N{}", "B".repeat(55))).unwrap();
        let check = |edit: fn(&mut ComponentSpec), expected: bool| assert_eq!(shelf().may_get(&spec(b"a", edit)), expected);
        check(|_| {}, true);
        check(|spec| spec.needs.labels = tier("edge"), true);
        check(|spec| spec.needs.labels = tier("cloud"), false);
        check(|spec| spec.needs.class = Class::Autonomous, false);
        check(|spec| spec.hosts = BTreeSet::from([shelf().host]), true);
        assert!(!shelf().may_get(&spec(b"a", |spec| spec.hosts = BTreeSet::from([elsewhere]))));
    }

    #[test]
    fn the_most_important_come_first_and_no_more_than_the_limit() {
        let (mut known, mut waiting) = (BTreeSet::new(), VecDeque::new());
        let mut desired = Desired::default();
        for (name, priority) in [("a", 1), ("b", 9), ("c", 5)] {
            let id = lattice_core::id::ActorId::new(name).unwrap();
            desired.components.insert(id, spec(name.as_bytes(), |spec| spec.needs.priority = priority));
        }
        note(&shelf(), 2, &desired, &mut known, &mut waiting);
        note(&shelf(), 2, &desired, &mut known, &mut waiting);
        assert_eq!(waiting, [Digest::of(b"b"), Digest::of(b"c")]);
    }
}
