//! What a command looks at before it decides: desired state, the plan, the verdicts, and the hosts that answer.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostId, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::plan::PlanState;
use lattice_core::policy::posted::Posted;
use lattice_core::subject::{self, Verb};
use lattice_core::wire::verdict::Verdicts;
use lattice_core::wire::{self, report::HostReport};
use lattice_nats::StoreError;

use crate::connection::Session;
use crate::error::Outcome;

/// How long hosts that should be there are waited for: a host behind a slow mobile link, or on a busy machine, answers within
/// half of it.
pub(crate) const ANSWER_WINDOW: Duration = Duration::from_secs(2);

/// A lattice at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What should be.
    pub(crate) desired: Desired,
    /// Revision on which a change of it may be committed.
    pub(crate) revision: Revision,
    /// What was planned.
    pub(crate) plan: PlanState,
    /// Who is taken for alive.
    pub(crate) verdicts: Verdicts,
    /// What is.
    pub(crate) inventory: Inventory,
}

impl View {
    /// Reads all of it.
    ///
    /// # Errors
    /// `lattice … does not exist`; what the store says.
    pub(crate) async fn read(session: &Session) -> Outcome<Self> {
        let Stored { plan, desired, revision, verdicts, policies } = stored(session).await?;
        let inventory = Inventory::new(reports(session, &plan).await?, plan.assignments.values()).under(policies);
        Ok(Self { desired, revision, plan, verdicts, inventory })
    }

    /// Reads again what is stored; the hosts are taken to be as they were a moment ago.
    ///
    /// # Errors
    /// As [`View::read`].
    pub(crate) async fn renewed(&self, session: &Session) -> Outcome<Self> {
        let Stored { plan, desired, revision, verdicts, policies } = stored(session).await?;
        let inventory = Inventory::new(self.inventory.hosts.values().cloned(), plan.assignments.values()).under(policies);
        Ok(Self { desired, revision, plan, verdicts, inventory })
    }

    /// Whether a host was told to stop and has not come back since.
    pub(crate) fn was_stopped(&self, host: &HostId) -> bool {
        self.plan.assignments.get(host).is_some_and(|assignment| assignment.stop.is_some()) && !self.inventory.hosts.contains_key(host)
    }
}

/// What the buckets hold.
struct Stored {
    plan: PlanState,
    desired: Desired,
    revision: Revision,
    verdicts: Verdicts,
    policies: Posted,
}

/// The plan first, so that none is ever made from a desired state or from verdicts that are older than those of its parent.
async fn stored(session: &Session) -> Outcome<Stored> {
    let plan = session.lattice.read_plan().await.map_err(|error| no_lattice(session, error))?;
    let verdicts = match session.lattice.read_verdicts().await {
        // A lattice that is older than verdicts; `up` makes what it lacks.
        Err(StoreError::Missing { .. }) => Verdicts::default(),
        other => other?,
    };
    let policies = posted(session).await?;
    let (desired, revision) = session.lattice.read_desired().await.map_err(|error| no_lattice(session, error))?;
    Ok(Stored { plan, desired, revision, verdicts, policies })
}

/// The policies, as the scheduler sees them: what cannot be read is as if it were not there.
async fn posted(session: &Session) -> Outcome<Posted> {
    let mut posted = Posted::default();
    for (policy, stored) in session.lattice.read_policies().await? {
        // `policy status` and `doctor` name it.
        let _ = posted.insert(&subject::policy_key(&policy), &stored.document);
    }
    Ok(posted)
}

/// Asks every host. Those that were told to stop are not waited for.
async fn reports(session: &Session, plan: &PlanState) -> Outcome<Vec<HostReport>> {
    let expected: BTreeSet<HostId> = plan.assignments.values().filter(|a| a.stop.is_none()).map(|a| a.host.clone()).collect();
    let answers = session.lattice.ask_all(Verb::Inventory, Bytes::new(), &expected, ANSWER_WINDOW).await?;
    Ok(answers.iter().filter_map(|answer| wire::decode(answer).ok()).collect())
}

fn no_lattice(session: &Session, error: StoreError) -> Problem {
    if !matches!(error, StoreError::Missing { what: "bucket" | "stream", .. }) {
        return error.into();
    }
    let message = format!("lattice `{}` does not exist on {}", session.name(), session.connection().url());
    Problem::new(ErrorCode::NotFound, message).hint("`lattice-ctl up` makes one; --lattice and --nats-url name another")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use lattice_core::desired::ComponentSpec;
    use lattice_core::id::{ActorId, Digest, Generation, HostName, Incarnation, LatticeName, Region};
    use lattice_core::plan;
    use lattice_core::wire::report::{HostState, Profile};

    pub(crate) fn host(n: u8) -> HostId {
        HostId::new(format!("N{}", char::from(b'A' + n).to_string().repeat(55))).unwrap()
    }

    pub(crate) fn actor(name: &str) -> ActorId {
        ActorId::new(name).unwrap()
    }

    pub(crate) fn report(n: u8) -> HostReport {
        HostReport {
            id: host(n),
            name: HostName::new(format!("NEDGE0{}", n + 1)).unwrap(),
            lattice: LatticeName::new("default").unwrap(),
            region: Region::new("local").unwrap(),
            labels: BTreeMap::new(),
            incarnation: Incarnation::new("01").unwrap(),
            seq: 1,
            version: String::new(),
            state: HostState::Ready,
            uptime_seconds: 1,
            profile: Profile::default(),
            applied_generation: Generation(0),
            error_count: 0,
            lease_rev: 0,
            rtt_us: BTreeMap::new(),
            components: BTreeMap::new(),
            providers: BTreeMap::new(),
            policy: None,
        }
    }

    pub(crate) fn component(hosts: &[u8]) -> ComponentSpec {
        ComponentSpec { hosts: hosts.iter().map(|n| host(*n)).collect(), ..ComponentSpec::new("file:///a.wasm", Digest::of(b"a")) }
    }

    /// A view of `hosts` hosts, NEDGE01 and so on, that carry out `desired`.
    pub(crate) fn view(hosts: u8, desired: Desired) -> View {
        let inventory = Inventory::new((0..hosts).map(report), []);
        let verdicts = Verdicts::default();
        let first = plan::plan(&desired, Revision(1), &inventory, &verdicts, &PlanState::default());
        let plan = PlanState::default().after(&first, Revision(1));
        View { desired, revision: Revision(1), plan, verdicts, inventory }
    }
}
