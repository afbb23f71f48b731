//! One actor on a host: what it shall be, what there is of it, and the state that follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{self, ComponentShape};
use crate::claims::Claim;
use crate::contract::Contract;
use crate::error::{ErrorCode, Problem};
use crate::fault::Faults;
use crate::id::ActorId;
use crate::policy::effects::{self, Effect};
use crate::policy::force::InForce;
use crate::wire::assignment::ComponentAssignment;
use crate::wire::report::ComponentState;

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
}

/// The state of an actor, and whether it is in it because it must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: ComponentState,
    pub(super) forbidden: bool,
}

impl From<ComponentState> for Standing {
    fn from(state: ComponentState) -> Self {
        Self { state, forbidden: false }
    }
}

impl From<Obstacle> for Standing {
    fn from(obstacle: Obstacle) -> Self {
        let forbidden = matches!(obstacle, Obstacle::Forbidden(_));
        let (Obstacle::Failed(why) | Obstacle::Forbidden(why)) = obstacle;
        Self { state: ComponentState::Failed(why), forbidden }
    }
}

/// Code that is loaded: what it is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCode {
    /// What it imports and exports.
    pub shape: ComponentShape,
    /// What its issuer says of it, where claims are asked for.
    pub claim: Option<Arc<Claim>>,
}

/// How an actor stands and what the host knows of it.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) spec: ComponentAssignment,
    pub(super) code: Code,
    pub(super) running: Option<Running>,
    /// Whether its links must be made anew although its settings are the same.
    pub(super) relink: bool,
    /// Why it did not work with these settings.
    pub(super) run_failure: Option<(ComponentAssignment, String)>,
    pub(super) standing: Standing,
    /// Why its code was refused, as that was told last.
    pub(super) refusal: Option<String>,
    /// Whether the audit says that it is not allowed to run.
    pub(super) barred: bool,
}

#[derive(Debug)]
pub(super) enum Code {
    Loading { attempts: u32 },
    Loaded(LoadedCode),
    Failed { obstacle: Obstacle, attempts: u32, retry_at: Option<Duration> },
}

/// What was told to run last.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) settings: ComponentAssignment,
    pub(super) code: LoadedCode,
}

impl Component {
    pub(super) fn new(spec: ComponentAssignment) -> Self {
        Self {
            spec,
            code: Code::Loading { attempts: 0 },
            running: None,
            relink: false,
            run_failure: None,
            standing: ComponentState::Starting.into(),
            refusal: None,
            barred: false,
        }
    }

    /// Its code is another one from now on; what runs goes on until that is there.
    pub(super) fn replace(&mut self, spec: ComponentAssignment) {
        self.spec = spec;
        self.code = Code::Loading { attempts: 0 };
        self.refusal = None;
    }

    pub(super) fn runs_with(&self, settings: &ComponentAssignment) -> bool {
        self.running.as_ref().is_some_and(|running| running.settings == *settings)
    }

    /// What `force` does to it.
    pub(super) fn effect(&self, force: &InForce) -> Effect {
        let (spec, code) = self.judged();
        effects::effect(force, spec, code.map(|code| &code.shape))
    }

    /// Why its claim or `force` forbids that it runs.
    pub(super) fn objection(&self, id: &ActorId, force: &InForce, faults: Faults) -> Option<Problem> {
        let (spec, code) = self.judged();
        let runs = self.running.as_ref().is_some_and(|running| running.settings.digest == spec.digest);
        if faults.starts_what_is_denied() && !runs {
            return None;
        }
        let claim = code.and_then(|code| code.claim.as_deref());
        if let Some(claim) = claim.filter(|claim| force.revoked().contains(&claim.issuer)) {
            return Some(revoked(claim));
        }
        let shape = code.map(|code| &code.shape);
        let denied = if runs {
            // What runs may go on when a policy has expired.
            match effects::effect(force, spec, shape) {
                Effect::Stops { point, why } => Some((Some(point), why)),
                Effect::Runs { .. } => None,
            }
        } else {
            effects::may_start(force, spec, shape).err()
        };
        match denied {
            Some((Some(point), why)) => Some(why.problem(point)),
            Some((None, why)) => Some(why.start_problem()),
            None => claim.and_then(|claim| check_links(id, spec, claim).err()),
        }
    }

    /// What claims and policies are held against: what runs until other code is there, else what shall run.
    fn judged(&self) -> (&ComponentAssignment, Option<&LoadedCode>) {
        match (&self.code, &self.running) {
            (Code::Loaded(code), _) => (&self.spec, Some(code)),
            (Code::Loading { .. }, Some(running)) => (&running.settings, Some(&running.code)),
            (Code::Loading { .. } | Code::Failed { .. }, _) => (&self.spec, None),
        }
    }

    /// How it should stand, with the links of `settings`; of those that cannot be used `troubles` says why.
    pub(super) fn next(
        &self,
        objection: Option<Problem>,
        settings: &ComponentAssignment,
        troubles: &BTreeMap<Contract, String>,
    ) -> Standing {
        if let Some(objection) = objection {
            let why = match (&self.code, &self.run_failure) {
                // Another attempt: until it is over everything is as it was.
                (Code::Loading { attempts: 1.. }, _) if self.standing.forbidden => return self.standing.clone(),
                (Code::Failed { obstacle, .. }, _) => obstacle.why().to_owned(),
                (_, Some((failed, why))) if failed == settings => why.clone(),
                _ => objection.line(),
            };
            return Obstacle::Forbidden(why).into();
        }
        let shape = match &self.code {
            Code::Loading { .. } if self.running.is_some() => return ComponentState::Running.into(),
            Code::Loading { attempts: 0 } => return ComponentState::Starting.into(),
            Code::Loading { .. } => return self.standing.clone(),
            Code::Failed { obstacle, .. } => return obstacle.clone().into(),
            Code::Loaded(code) => &code.shape,
        };
        if let Err(error) = admission::check_shape(shape) {
            return Obstacle::Failed(error.to_string()).into();
        }
        let linked: BTreeSet<Contract> = settings.links.iter().map(|link| link.contract).collect();
        if let Some(missing) = admission::missing_links(shape, &linked).first() {
            let contract = Contract::parse(missing).ok();
            let trouble = contract.and_then(|contract| troubles.get(&contract));
            return ComponentState::Waiting(trouble.cloned().unwrap_or_else(|| format!("no link for {missing}"))).into();
        }
        match &self.run_failure {
            Some((failed, why)) if failed == settings => Obstacle::Failed(why.clone()).into(),
            Some(_) | None => ComponentState::Running.into(),
        }
    }
}

/// Whether the claim of an actor allows the contract of each of its links. What is linked as one of lattice's own is beyond
/// policy, so that its issuer must have said that it is one.
fn check_links(actor: &ActorId, spec: &ComponentAssignment, claim: &Claim) -> Result<(), Problem> {
    let own = effects::is_system(spec).then_some(Contract::Store);
    let mut contracts = spec.links.iter().map(|link| link.contract).chain(own);
    contracts.try_for_each(|contract| claim.check_link(actor.as_str(), contract, &spec.image))
}

fn revoked(claim: &Claim) -> Problem {
    let message = format!("actor start failed: invalid claim: the key of its issuer {} was revoked", claim.issuer);
    Problem::new(ErrorCode::InvalidClaim, message).hint("sign it with another key")
}
