//! What a host does about its assignment: the pure part of `lattice-host`.
//!
//! The host feeds in assignments and the outcomes of its own work (`handle_…`) and carries out what comes out
//! ([`Agent::poll_action`]). Nothing here waits, reads a clock or touches the network.
//!
//! **Invariants.** The generation of the assignment in force never falls. An actor runs only while its code is loaded, its
//! shape is admissible, every import that needs a link has one to a provider that works here, and nobody holds it.

pub mod crashes;
pub mod plan_gate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::admission::{self, ComponentShape};
use crate::contract::Contract;
use crate::id::{ActorId, Digest, Generation, HostId, Incarnation, ProviderId};
use crate::timing::{LOAD_BACKOFF, MAX_LOAD_BACKOFF};
use crate::wire::assignment::{Assignment, ComponentAssignment, LinkAssignment, ProviderAssignment};
use crate::wire::event::EventKind;
use crate::wire::report::ComponentState;

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

/// Why an actor does not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It does not work.
    Failed(String),
    /// It must not: a claim or a policy forbids it, and it has done nothing.
    Forbidden(String),
}

impl Obstacle {
    fn why(&self) -> &str {
        match self {
            Self::Failed(why) | Self::Forbidden(why) => why,
        }
    }

    fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }
}

/// How an actor stands and what the host knows of it.
#[derive(Debug)]
struct Component {
    spec: ComponentAssignment,
    code: Code,
    /// What [`Action::Run`] gave last, while it runs.
    running: Option<ComponentAssignment>,
    /// Why it did not work with these settings.
    run_failure: Option<(ComponentAssignment, Obstacle)>,
    /// Why it must not run although it could.
    held: Option<String>,
    state: ComponentState,
    /// Whether it is in this state because it must not run.
    forbidden: bool,
}

impl Component {
    /// The state that it is in.
    fn standing(&self) -> Result<ComponentState, Obstacle> {
        match &self.state {
            ComponentState::Failed(why) if self.forbidden => Err(Obstacle::Forbidden(why.clone())),
            ComponentState::Failed(why) => Err(Obstacle::Failed(why.clone())),
            state @ (ComponentState::Starting | ComponentState::Running | ComponentState::Waiting(_)) => Ok(state.clone()),
        }
    }
}

/// What is known of one actor: what whoever judges it needs.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What it shall be.
    pub spec: &'a ComponentAssignment,
    /// What its component imports and exports, once its code is loaded.
    pub shape: Option<&'a ComponentShape>,
    /// Why it is held.
    pub held: Option<&'a str>,
}

#[derive(Debug)]
enum Code {
    Loading { attempts: u32 },
    Loaded(ComponentShape),
    Failed { obstacle: Obstacle, attempts: u32, retry_at: Option<Duration> },
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
    actions: VecDeque<Action>,
}

impl Agent {
    /// A host that runs nothing yet.
    pub fn new(host: HostId, incarnation: Incarnation) -> Self {
        Self {
            host,
            incarnation,
            current: None,
            applied: Generation(0),
            components: BTreeMap::new(),
            providers: BTreeMap::new(),
            draining: false,
            actions: VecDeque::new(),
        }
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
            let instances = component.running.as_ref().map_or(0, |running| running.instances);
            (id, &component.state, &component.spec.digest, instances)
        })
    }

    /// What is known of each actor.
    pub fn known(&self) -> impl Iterator<Item = (&ActorId, Known<'_>)> {
        self.components.iter().map(|(id, component)| {
            let shape = match &component.code {
                Code::Loaded(shape) => Some(shape),
                Code::Loading { .. } | Code::Failed { .. } => None,
            };
            (id, Known { spec: &component.spec, shape, held: component.held.as_deref() })
        })
    }

    /// Whether claims or policies keep an actor from running.
    pub fn is_forbidden(&self, actor: &ActorId) -> bool {
        self.components.get(actor).is_some_and(|component| component.forbidden)
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

    /// Code was fetched and compiled (its shape), or not (why, and whether trying again may help).
    pub fn handle_loaded(&mut self, actor: &ActorId, digest: &Digest, outcome: Result<ComponentShape, (Obstacle, bool)>, now: Duration) {
        let Some(component) = self.components.get_mut(actor).filter(|component| component.spec.digest == *digest) else { return };
        let attempts = match &component.code {
            Code::Loading { attempts } | Code::Failed { attempts, .. } => attempts.saturating_add(1),
            Code::Loaded(_) => 1,
        };
        component.code = match outcome {
            Ok(shape) => Code::Loaded(shape),
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

    /// An actor could not be run with the settings that [`Action::Run`] gave.
    pub fn handle_run_failed(&mut self, actor: &ActorId, obstacle: Obstacle) {
        if let Some(component) = self.components.get_mut(actor)
            && let Some(settings) = component.running.take()
        {
            component.run_failure = Some((settings, obstacle));
            self.settle();
        }
    }

    /// An actor must not run, and why; or nothing speaks against it any more. Its code stays, so that it is back at once.
    pub fn handle_hold(&mut self, actor: &ActorId, why: Option<String>) {
        if let Some(component) = self.components.get_mut(actor)
            && component.held != why
        {
            component.held = why;
            self.settle();
        }
    }

    /// What an actor may connect to has changed: its links are made anew, also those that could not be made.
    pub fn handle_relink(&mut self, actor: &ActorId) {
        if let Some(component) = self.components.get_mut(actor) {
            component.running = None;
            component.run_failure = None;
            self.settle();
        }
    }

    /// What counts as trustworthy has changed: code that was refused, and may be tried again at all, is tried at once.
    pub fn handle_trust(&mut self) {
        for (id, component) in &mut self.components {
            if let Code::Failed { attempts, retry_at: Some(_), .. } = component.code {
                component.code = Code::Loading { attempts };
                self.actions.push_back(Action::Load(id.clone(), component.spec.digest.clone()));
            }
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
                    component.spec = spec.clone();
                    component.code = Code::Loading { attempts: 0 };
                    self.actions.push_back(Action::Load(id.clone(), spec.digest.clone()));
                }
                None => {
                    let code = Code::Loading { attempts: 0 };
                    let component = Component {
                        spec: spec.clone(),
                        code,
                        running: None,
                        run_failure: None,
                        held: None,
                        state: ComponentState::Starting,
                        forbidden: false,
                    };
                    self.components.insert(id.clone(), component);
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
        let (next, forbidden) = match next_state(component, &settings, &troubles) {
            Ok(state) => (state, false),
            Err(obstacle) => (ComponentState::Failed(obstacle.why().to_owned()), obstacle.is_forbidden()),
        };
        let Some(component) = self.components.get_mut(id) else { return false };
        component.forbidden = forbidden;
        let previous = std::mem::replace(&mut component.state, next.clone());
        match &next {
            ComponentState::Running if matches!(component.code, Code::Loaded(_)) && component.running.as_ref() != Some(&settings) => {
                component.running = Some(settings.clone());
                component.run_failure = None;
                self.actions.push_back(Action::Run(id.clone(), Box::new(settings)));
            }
            ComponentState::Waiting(_) | ComponentState::Failed(_) if component.running.take().is_some() => {
                self.actions.push_back(Action::Stop(id.clone()));
            }
            ComponentState::Running | ComponentState::Waiting(_) | ComponentState::Failed(_) | ComponentState::Starting => {}
        }
        if previous == next {
            return false;
        }
        match &next {
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

/// The state that an actor should be in; an obstacle makes it a failed one.
fn next_state(
    component: &Component,
    settings: &ComponentAssignment,
    troubles: &BTreeMap<Contract, String>,
) -> Result<ComponentState, Obstacle> {
    if let Some(held) = &component.held {
        let why = if let Code::Failed { obstacle, .. } = &component.code { obstacle.why() } else { held };
        return Err(Obstacle::Forbidden(why.to_owned()));
    }
    let shape = match &component.code {
        Code::Loading { .. } if component.running.is_some() => return Ok(ComponentState::Running),
        Code::Loading { attempts: 0 } => return Ok(ComponentState::Starting),
        // Another attempt: until it is over everything is as it was.
        Code::Loading { .. } => return component.standing(),
        Code::Failed { obstacle, .. } => return Err(obstacle.clone()),
        Code::Loaded(shape) => shape,
    };
    if let Err(error) = admission::check_shape(shape) {
        return Err(Obstacle::Failed(error.to_string()));
    }
    let linked: BTreeSet<Contract> = settings.links.iter().map(|link| link.contract).collect();
    if let Some(missing) = admission::missing_links(shape, &linked).first() {
        let contract = Contract::parse(missing).ok();
        let trouble = contract.and_then(|contract| troubles.get(&contract));
        return Ok(ComponentState::Waiting(trouble.cloned().unwrap_or_else(|| format!("no link for {missing}"))));
    }
    match &component.run_failure {
        Some((failed, obstacle)) if failed == settings => Err(obstacle.clone()),
        Some(_) | None => Ok(ComponentState::Running),
    }
}

/// Pause before attempt `attempts + 1`.
fn backoff(attempts: u32) -> Duration {
    LOAD_BACKOFF.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(MAX_LOAD_BACKOFF)
}

#[cfg(test)]
mod tests;
