//! What a host does about its assignment: the pure part of `lattice-host`.
//!
//! The host feeds in assignments and the outcomes of its own work (`handle_…`) and carries out what comes out
//! ([`Agent::poll_action`]). Nothing here waits, reads a clock or touches the network.
//!
//! **Invariants.** The generation of the assignment in force never falls. An actor runs only while its code is loaded, its
//! shape is admissible, every import that needs a link has one to a provider that works here, and neither its claim nor a
//! policy forbids it: what is forbidden is never told to run.

mod component;
pub mod crashes;
pub mod plan_gate;
mod policies;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::contract::Contract;
use crate::fault::Faults;
use crate::id::{ActorId, Digest, Generation, HostId, Incarnation, ProviderId};
use crate::policy::force::InForce;
use crate::policy::report::Enforced;
use crate::timing::{LOAD_BACKOFF, MAX_LOAD_BACKOFF};
use crate::wire::assignment::{Assignment, ComponentAssignment, LinkAssignment, ProviderAssignment};
use crate::wire::event::EventKind;
use crate::wire::report::ComponentState;
use component::{Code, Component, Running};
pub use component::{LoadedCode, Obstacle};

/// Something the host shall do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep the assignment on disk, so that a restart without network comes back with it.
    Persist(Box<Assignment>),
    /// Start a provider, or start it again with other settings; answer with [`Agent::handle_provider`].
    StartProvider(ProviderId, ProviderAssignment),
    /// Stop a provider.
    StopProvider(ProviderId),
    /// Fetch and compile code; answer with [`Agent::handle_loaded`].
    Load(ActorId, Digest),
    /// Let an actor take messages, or give a running one other settings. Its links hold only those whose provider works
    /// here. Answer with [`Agent::handle_run_failed`] if it does not work.
    Run(ActorId, Box<ComponentAssignment>),
    /// Stop an actor: no new messages, the running ones may end.
    Stop(ActorId),
    /// Finish what runs, say `bye`, exit.
    Drain,
    /// Send a heartbeat now.
    Report,
    /// Record a state change.
    Record(EventKind, String, BTreeMap<String, String>),
    /// Write down for the audit what an actor is or is not allowed.
    Audit(ActorId, String),
}

/// Why an assignment is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is older than the one in force.
    #[error("assignment of generation {offered} is stale: generation {current} is in force")]
    Stale {
        /// Generation that was offered.
        offered: Generation,
        /// Generation in force.
        current: Generation,
    },
    /// Same number, other content.
    #[error("assignment of generation {0} differs from the one of the same generation that is in force")]
    Equivocation(Generation),
    /// It is for another host.
    #[error("assignment is for host {0}")]
    OtherHost(HostId),
}

#[derive(Debug)]
struct Provider {
    spec: ProviderAssignment,
    state: ProviderState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ProviderState {
    Starting,
    Running,
    Failed { why: String, attempts: u32, retry_at: Duration },
}

/// The decisions of one host.
#[derive(Debug)]
pub struct Agent {
    host: HostId,
    incarnation: Incarnation,
    current: Option<Assignment>,
    applied: Generation,
    components: BTreeMap<ActorId, Component>,
    providers: BTreeMap<ProviderId, Provider>,
    draining: bool,
    /// What the policies leave actors.
    force: Arc<InForce>,
    /// What is acknowledged of it.
    enforced: Enforced,
    faults: Faults,
    actions: VecDeque<Action>,
}

impl Agent {
    /// A host that runs nothing yet, on which `force` is in force and which says that it enforces `enforced`.
    pub fn new(host: HostId, incarnation: Incarnation, force: Arc<InForce>, enforced: Enforced) -> Self {
        Self {
            host,
            incarnation,
            current: None,
            applied: Generation(0),
            components: BTreeMap::new(),
            providers: BTreeMap::new(),
            draining: false,
            force,
            enforced,
            faults: Faults::default(),
            actions: VecDeque::new(),
        }
    }

    /// With a seeded bug, to test the tests.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Agent::handle_timeout`] wants to be called, if at all.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let code = self.components.values().filter_map(|component| match &component.code {
            Code::Failed { retry_at, .. } => *retry_at,
            Code::Loading { .. } | Code::Loaded(_) => None,
        });
        let providers = self.providers.values().filter_map(|provider| match &provider.state {
            ProviderState::Failed { retry_at, .. } => Some(*retry_at),
            ProviderState::Starting | ProviderState::Running => None,
        });
        code.chain(providers).min()
    }

    /// The assignment in force.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.current.as_ref()
    }

    /// The newest generation that was worked through.
    pub fn applied(&self) -> Generation {
        self.applied
    }

    /// Whether the host is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// State of each actor, with its code and its instances (0 unless it runs).
    pub fn components(&self) -> impl Iterator<Item = (&ActorId, &ComponentState, &Digest, u32)> {
        self.components.iter().map(|(id, component)| {
            let instances = component.running.as_ref().map_or(0, |running| running.settings.instances);
            (id, &component.standing.state, &component.spec.digest, instances)
        })
    }

    /// Whether claims or policies keep an actor from running.
    pub fn is_forbidden(&self, actor: &ActorId) -> bool {
        self.components.get(actor).is_some_and(|component| component.standing.forbidden)
    }

    /// Each provider with what is wrong with it.
    pub fn providers(&self) -> impl Iterator<Item = (&ProviderId, &ProviderAssignment, Option<&str>)> {
        self.providers.iter().map(|(id, provider)| match &provider.state {
            ProviderState::Failed { why, .. } => (id, &provider.spec, Some(why.as_str())),
            ProviderState::Starting | ProviderState::Running => (id, &provider.spec, None),
        })
    }

    /// Takes an assignment from the store, or (`from_disk`) the one that was kept.
    ///
    /// # Errors
    /// [`Refusal`] for one that is stale, for another host, or different under the same number; nothing changes then.
    pub fn handle_assignment(&mut self, assignment: Assignment, from_disk: bool) -> Result<(), Refusal> {
        if assignment.host != self.host {
            return Err(Refusal::OtherHost(assignment.host));
        }
        if let Some(current) = &self.current {
            if assignment.generation < current.generation {
                return Err(Refusal::Stale { offered: assignment.generation, current: current.generation });
            }
            if assignment.generation == current.generation {
                return if current.same_work(&assignment) { Ok(()) } else { Err(Refusal::Equivocation(assignment.generation)) };
            }
        }
        if !from_disk {
            self.actions.push_back(Action::Persist(Box::new(assignment.clone())));
        }
        self.take_providers(&assignment.providers);
        self.take_components(&assignment.components);
        let stop = assignment.stop.as_ref() == Some(&self.incarnation);
        self.current = Some(assignment);
        if stop {
            self.handle_drain();
        }
        self.settle();
        Ok(())
    }

    /// Stops everything and leaves: the plan, or a signal, says so.
    pub fn handle_drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.actions.extend([Action::Report, Action::Drain]);
        }
    }

    /// Code was fetched and compiled, or not (why, and whether trying again may help).
    pub fn handle_loaded(&mut self, actor: &ActorId, digest: &Digest, outcome: Result<LoadedCode, (Obstacle, bool)>, now: Duration) {
        let Some(component) = self.components.get_mut(actor).filter(|component| component.spec.digest == *digest) else { return };
        let attempts = match &component.code {
            Code::Loading { attempts } | Code::Failed { attempts, .. } => attempts.saturating_add(1),
            Code::Loaded(_) => 1,
        };
        if let Err((Obstacle::Forbidden(why), _)) = &outcome
            && component.refusal.as_ref() != Some(why)
        {
            component.refusal = Some(why.clone());
            self.tell_refused(actor, why);
        }
        let Some(component) = self.components.get_mut(actor) else { return };
        component.code = match outcome {
            Ok(code) => Code::Loaded(code),
            Err((obstacle, may_help)) => {
                Code::Failed { obstacle, attempts, retry_at: may_help.then(|| now.saturating_add(backoff(attempts))) }
            }
        };
        self.settle();
    }

    /// A provider works, or why not. It is tried again later.
    pub fn handle_provider(&mut self, id: &ProviderId, outcome: Result<(), String>, now: Duration) {
        let Some(provider) = self.providers.get_mut(id) else { return };
        let attempts = match &provider.state {
            ProviderState::Failed { attempts, .. } => attempts.saturating_add(1),
            ProviderState::Starting | ProviderState::Running => 1,
        };
        let details = BTreeMap::from([("provider".to_owned(), id.to_string())]);
        let (state, kind, message) = match outcome {
            Ok(()) => (ProviderState::Running, EventKind::ProviderRunning, format!("provider {id} runs")),
            Err(why) => {
                let message = format!("provider {id} failed: {why}");
                let retry_at = now.saturating_add(backoff(attempts));
                (ProviderState::Failed { why, attempts, retry_at }, EventKind::ProviderFailed, message)
            }
        };
        provider.state = state;
        self.actions.push_back(Action::Record(kind, message, details));
        self.settle();
    }

    /// An actor could not be run with the settings that [`Action::Run`] gave, and why.
    pub fn handle_run_failed(&mut self, actor: &ActorId, why: String) {
        if let Some(component) = self.components.get_mut(actor)
            && let Some(running) = component.running.take()
        {
            component.run_failure = Some((running.settings, why));
            self.settle();
        }
    }

    /// Time has come to `now`: whatever waits for another attempt gets it.
    pub fn handle_timeout(&mut self, now: Duration) {
        for (id, component) in &mut self.components {
            if let Code::Failed { attempts, retry_at: Some(at), .. } = component.code
                && at <= now
            {
                component.code = Code::Loading { attempts };
                self.actions.push_back(Action::Load(id.clone(), component.spec.digest.clone()));
            }
        }
        for (id, provider) in &mut self.providers {
            if let ProviderState::Failed { retry_at, .. } = &mut provider.state
                && *retry_at <= now
            {
                // The outcome sets the next time; until then nothing more is tried.
                *retry_at = now.saturating_add(MAX_LOAD_BACKOFF);
                let details = BTreeMap::from([("provider".to_owned(), id.to_string())]);
                self.actions.push_back(Action::Record(EventKind::Restarting, format!("provider {id} is started again"), details));
                self.actions.push_back(Action::StartProvider(id.clone(), provider.spec.clone()));
            }
        }
    }

    fn take_providers(&mut self, wanted: &BTreeMap<ProviderId, ProviderAssignment>) {
        let gone: Vec<ProviderId> = self.providers.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        for id in gone {
            self.providers.remove(&id);
            let details = BTreeMap::from([("provider".to_owned(), id.to_string())]);
            self.actions.push_back(Action::Record(EventKind::ProviderStopped, format!("provider {id} stopped"), details));
            self.actions.push_back(Action::StopProvider(id));
        }
        for (id, spec) in wanted {
            if self.providers.get(id).is_none_or(|provider| provider.spec != *spec) {
                self.providers.insert(id.clone(), Provider { spec: spec.clone(), state: ProviderState::Starting });
                self.actions.push_back(Action::StartProvider(id.clone(), spec.clone()));
            }
        }
    }

    fn take_components(&mut self, wanted: &BTreeMap<ActorId, ComponentAssignment>) {
        let gone: Vec<ActorId> = self.components.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        for id in gone {
            self.components.remove(&id);
            self.actions.push_back(Action::Stop(id.clone()));
            self.record_actor(EventKind::ActorStopped, &id, format!("actor {id} stopped"));
        }
        for (id, spec) in wanted {
            match self.components.get_mut(id) {
                Some(component) if component.spec.digest == spec.digest => component.spec = spec.clone(),
                // Other code: the running instances go on with the old until the new is loaded.
                Some(component) => {
                    component.replace(spec.clone());
                    self.actions.push_back(Action::Load(id.clone(), spec.digest.clone()));
                }
                None => {
                    self.components.insert(id.clone(), Component::new(spec.clone()));
                    self.actions.push_back(Action::Load(id.clone(), spec.digest.clone()));
                }
            }
        }
    }

    /// Brings every actor to the state that its code, links and providers allow, and notes what is applied.
    fn settle(&mut self) {
        let mut changed = false;
        for id in self.components.keys().cloned().collect::<Vec<_>>() {
            changed |= self.settle_component(&id);
        }
        let busy = self.components.values().any(|component| matches!(component.code, Code::Loading { attempts: 0 }))
            || self.providers.values().any(|provider| provider.state == ProviderState::Starting);
        let generation = self.current.as_ref().map_or(Generation(0), |assignment| assignment.generation);
        if !busy && generation > self.applied {
            self.applied = generation;
            let details = BTreeMap::from([("generation".to_owned(), generation.to_string())]);
            self.actions.push_back(Action::Record(EventKind::Applied, format!("generation {generation} applied"), details));
            changed = true;
        }
        if changed {
            self.actions.push_back(Action::Report);
        }
    }

    fn settle_component(&mut self, id: &ActorId) -> bool {
        let Some(component) = self.components.get(id) else { return false };
        let (links, troubles) = self.usable_links(&component.spec.links);
        let settings = ComponentAssignment { links, ..component.spec.clone() };
        let next = component.next(component.objection(id, &self.force, self.faults), &settings, &troubles);
        let Some(component) = self.components.get_mut(id) else { return false };
        let before = std::mem::replace(&mut component.standing, next.clone());
        match (&next.state, &component.code) {
            (ComponentState::Running, Code::Loaded(code)) if component.relink || !component.runs_with(&settings) => {
                component.running = Some(Running { settings: settings.clone(), code: code.clone() });
                (component.run_failure, component.relink) = (None, false);
                self.actions.push_back(Action::Run(id.clone(), Box::new(settings)));
            }
            (ComponentState::Running, Code::Loading { .. }) if std::mem::take(&mut component.relink) => {
                let settings = component.running.as_ref().map(|running| Box::new(running.settings.clone()));
                self.actions.extend(settings.map(|settings| Action::Run(id.clone(), settings)));
            }
            (ComponentState::Waiting(_) | ComponentState::Failed(_), _) if component.running.take().is_some() => {
                self.actions.push_back(Action::Stop(id.clone()));
            }
            (ComponentState::Running | ComponentState::Waiting(_) | ComponentState::Failed(_) | ComponentState::Starting, _) => {}
        }
        if before == next {
            return false;
        }
        let allowed = matches!(next.state, ComponentState::Running | ComponentState::Waiting(_)) && std::mem::take(&mut component.barred);
        component.barred |= next.forbidden;
        if next.forbidden || allowed {
            let what = if allowed { "allowed to run again".to_owned() } else { format!("not allowed to run: {}", next.state) };
            self.actions.push_back(Action::Audit(id.clone(), what));
        }
        match &next.state {
            ComponentState::Running => self.record_actor(EventKind::ActorRunning, id, format!("actor {id} runs")),
            ComponentState::Waiting(why) => self.record_actor(EventKind::ActorWaiting, id, format!("actor {id} waits: {why}")),
            ComponentState::Failed(why) => self.record_actor(EventKind::ActorFailed, id, format!("actor {id} failed: {why}")),
            ComponentState::Starting => {}
        }
        true
    }

    /// The links whose provider works here, and for the contracts of the others why not.
    fn usable_links(&self, links: &[LinkAssignment]) -> (Vec<LinkAssignment>, BTreeMap<Contract, String>) {
        let mut troubles = BTreeMap::new();
        let usable = links.iter().filter(|link| {
            let trouble = match self.providers.get(&link.provider).map(|provider| &provider.state) {
                Some(ProviderState::Running) => return true,
                Some(ProviderState::Starting) => format!("provider {} is starting", link.provider),
                Some(ProviderState::Failed { why, .. }) => format!("provider {} failed: {why}", link.provider),
                None => format!("provider {} does not run here", link.provider),
            };
            troubles.insert(link.contract, trouble);
            false
        });
        (usable.cloned().collect(), troubles)
    }

    fn record_actor(&mut self, kind: EventKind, id: &ActorId, message: String) {
        let details = BTreeMap::from([("actor".to_owned(), id.to_string())]);
        self.actions.push_back(Action::Record(kind, message, details));
    }
}

/// Pause before attempt `attempts + 1`.
fn backoff(attempts: u32) -> Duration {
    LOAD_BACKOFF.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(MAX_LOAD_BACKOFF)
}

#[cfg(test)]
mod tests;
