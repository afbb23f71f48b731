//! The policies of a host: reads, verifies, keeps and enforces them, and says what it enforces.
//!
//! What is in force is on disk before anybody is told, and a plan waits until the policies were read: a host that was away
//! complies before it starts anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::agent::plan_gate::PlanGate;
use lattice_core::contract::Contract;
use lattice_core::desired::Desired;
use lattice_core::fault::Fault;
use lattice_core::id::{ActorId, ConfigName};
use lattice_core::policy::accept::{Documents, Holding, Judge, Marks, Stored};
use lattice_core::policy::effects::{self, Effect};
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::report::{Enforced, Refusal};
use lattice_core::policy::scope::Facts;
use lattice_core::timing::{OFFLINE_START_AFTER, RESYNC_INTERVAL};
use lattice_core::trust::Place;
use lattice_core::trust::clock::{Standing, Time};
use lattice_core::wire::assignment::Assignment;

use super::calls::After;
use super::{Host, REREAD};
use crate::clock::Millis;
use crate::env::{Call, Env, Event, HostEvent, Reply};
use crate::invariants::Rule;
use crate::policy::{NOW_S, Seals, name, stream, trusted};
use crate::scene;

/// What a host has on its disk about policies.
pub(super) type Disk = (Marks, Documents);

/// The policies of one start of a host.
#[derive(Debug)]
pub(super) struct Policies {
    holding: Holding,
    refused: BTreeMap<ConfigName, Refusal>,
    reading: bool,
    read_again: bool,
    /// Counts reads, so that only the last one's timer counts.
    resync: u32,
    pub(super) gate: PlanGate<Option<Assignment>>,
    /// For the rule: since when there is a connection, unless they were read over it.
    unread_since: Option<Duration>,
}

/// Does something with the question that every check of a document asks.
fn judged<T>(host: &Host, question: impl FnOnce(&Judge<'_>) -> T) -> T {
    let (keys, lattice, labels) = ([trusted()].into(), scene::lattice(), host.labels());
    let facts = Facts { id: &host.id, name: &host.name, region: &host.region, labels: &labels };
    question(&Judge { keys: &keys, host: facts, place: Place { lattice: &lattice, time: Time::exact(NOW_S) } })
}

impl Policies {
    /// From what is on the disk, with what is in force of it; `awaited`: plans wait for them. The host starts at `now`.
    pub(super) fn restore(host: &Host, awaited: bool, now: Duration) -> (Self, Arc<InForce>) {
        let (marks, documents) = match &host.policies {
            Some((marks, documents)) => (Stored::Found(marks.clone()), Stored::Found(documents.clone())),
            None => (Stored::Absent, Stored::Absent),
        };
        let holding = judged(host, |judge| Holding::restore(marks, documents, judge, &Seals));
        let force = in_force(&holding);
        let policies = Self {
            holding,
            refused: BTreeMap::new(),
            reading: false,
            read_again: false,
            resync: 0,
            gate: PlanGate::new(awaited, host.disk.clone().map(Some), now),
            unread_since: None,
        };
        (policies, force)
    }

    /// What the host says that it enforces.
    pub(super) fn enforced(&self, force: &InForce) -> Enforced {
        Enforced::new(&self.holding, force, Preset::Open, Standing::Trusted, &self.refused)
    }

    /// The version that the host knows.
    fn version(&self) -> u64 {
        self.holding.marks().get(&name()).map_or(0, |mark| mark.version)
    }

    /// Whether it is too early to follow a plan.
    pub(super) fn are_awaited(&self, now: Duration) -> bool {
        self.unread_since.is_some_and(|at| now < at.saturating_add(OFFLINE_START_AFTER))
    }
}

fn in_force(holding: &Holding) -> Arc<InForce> {
    Arc::new(InForce::new(holding, Preset::Open, Time::exact(NOW_S)))
}

impl Host {
    /// The connection has come, or gone.
    pub(super) fn note_connection(&mut self, connected: bool, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        process.policies.unread_since = connected.then_some(now);
        if connected {
            process.policies.gate.handle_connected(now);
            let until = self.clock.when(now.saturating_add(OFFLINE_START_AFTER));
            env.at(until, Event::Host(self.ix, self.boot, HostEvent::Follow));
            self.read_policies(env);
        } else {
            process.policies.gate.handle_disconnected();
        }
    }

    pub(super) fn read_policies(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        if process.policies.reading {
            process.policies.read_again = true;
            return;
        }
        process.policies.reading = true;
        self.call(After::Policies, Call::List(stream()), 1, env);
    }

    pub(super) fn resync_policies(&mut self, number: u32, env: &mut Env) {
        if self.process.as_ref().is_some_and(|process| process.policies.resync == number) {
            self.read_policies(env);
        }
    }

    pub(super) fn handle_policies_read(&mut self, reply: Reply, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        let policies = &mut process.policies;
        let again = std::mem::take(&mut policies.read_again);
        (policies.reading, policies.resync) = (false, policies.resync + 1);
        let number = policies.resync;
        let pause = match reply {
            Reply::Listed(entries, _) => {
                policies.unread_since = None;
                policies.gate.handle_policies_read();
                self.offer(entries.iter().map(|(_, document, _)| &**document), env);
                if again { 1 } else { RESYNC_INTERVAL.as_millis() as Millis }
            }
            _ => REREAD,
        };
        env.at(env.now + pause, Event::Host(self.ix, self.boot, HostEvent::PolicyResync(number)));
    }

    /// Takes what is newer, keeps it, enforces it and says so.
    fn offer<'a>(&mut self, documents: impl Iterator<Item = &'a [u8]>, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let (mut holding, mut refused) = (process.policies.holding.clone(), BTreeMap::new());
        for document in documents {
            let before = holding.clone();
            if env.fault == Some(Fault::OlderPolicyTaken) {
                holding = Holding::default();
            }
            if let Err(why) = judged(self, |judge| holding.offer(document, judge, &Seals)) {
                holding = before;
                refused.insert(name(), Refusal::new(document, &why.to_string()));
            }
        }
        holding.complete();
        self.policies = Some((holding.marks().clone(), holding.documents()));
        let Some(process) = &mut self.process else { return };
        process.agent.handle_force(in_force(&holding));
        (process.policies.holding, process.policies.refused) = (holding, refused);
        process.agent.handle_enforced(process.policies.enforced(process.agent.force()));
        let version = process.policies.version();
        env.watch.handle_policy(&self.id, version);
        env.note(format_args!("h{} knows policy v{version}", self.ix));
    }

    /// Nothing runs that the policies in force stop.
    pub(super) fn check_policy(&self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let force = in_force(&process.policies.holding);
        for (actor, settings) in &process.running {
            if let Effect::Stops { point, why } = effects::effect(&force, settings, Some(&scene::shape(actor))) {
                env.watch.fail(Rule::PolicyIgnored, format!("h{} runs {actor}: capability denied: {}: {why}", self.ix, point.contract()));
            }
        }
    }

    /// The version of the policy that a host knows, whether it is meant for it or not.
    pub fn policy_version(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.policies.version())
    }

    /// Whether the policies in force here let an actor run.
    pub fn allows(&self, desired: &Desired, actor: &ActorId) -> bool {
        let contracts = desired.links_of(actor).map(|link| link.contract).collect::<std::collections::BTreeSet<Contract>>();
        let system = desired.components.get(actor).is_some_and(|spec| spec.system.is_some());
        let Some(process) = &self.process else { return true };
        system || effects::keeps(process.agent.force(), &contracts).is_ok()
    }
}
