//! What is in force on a host: all its policies, made into a table that answers a call at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::accept::Holding;
use super::network::is_internal;
use super::rules::{Point, Rule};
use super::{Bundle, INTERNAL_ONLY};
use crate::claims::Permit;
use crate::error::{ErrorCode, Problem};
use crate::id::ConfigName;
use crate::trust::PublicKey;
use crate::trust::clock::{Time, date};

/// What holds on a host that no policy was ever for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Everything that links and claims give: for development.
    #[default]
    Open,
    /// Nothing: for a fleet.
    Deny,
}

/// A policy, as it is named in a sentence: `edge-default v4`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The policy.
    pub policy: ConfigName,
    /// Its version.
    pub version: u64,
}

impl Named {
    fn of(bundle: &Bundle) -> Self {
        Self { policy: bundle.policy.policy_id.clone(), version: bundle.policy.version }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} v{}", self.policy, self.version)
    }
}

/// Why something is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A rule denies it.
    #[error("policy {policy} denies it (rule `{rule}`)")]
    ByRule {
        /// The policy.
        policy: Named,
        /// The rule.
        rule: Rule,
    },
    /// No rule allows it.
    #[error("no policy allows it (in force: {policies})")]
    Unlisted {
        /// The policies in force.
        policies: String,
    },
    /// Nothing is in force, and the lattice's preset is to deny.
    #[error("no policy has reached this host yet, and without one this lattice allows nothing")]
    Preset,
    /// A policy was in force and is gone.
    #[error("{why}: nothing is allowed until the host has its policies again")]
    Lost {
        /// What is gone.
        why: String,
    },
    /// A policy has expired: what runs may go on, nothing starts.
    #[error("policy {policy} expired {}: nothing starts until there is a newer one", date(*.expires))]
    Expired {
        /// The policy.
        policy: Named,
        /// End of its validity.
        expires: u64,
    },
    /// An address that `internal-only` shuts out.
    #[error("policy {policy} restricts the network to internal addresses, and {address} is none")]
    Outside {
        /// The policy.
        policy: Named,
        /// The address.
        address: IpAddr,
    },
}

impl Denied {
    /// `capability denied: <contract>: <why>`, with what to change.
    pub fn problem(&self, point: Point) -> Problem {
        let problem = Problem::capability_denied(point.contract().as_str(), &self.to_string());
        match self {
            Self::ByRule { policy, .. } | Self::Outside { policy, .. } => problem.hint(format!(
                "a link or a claim cannot lift it: `lattice-ctl policy get {}` shows the policy, `lattice-ctl policy put` replaces it",
                policy.policy
            )),
            Self::Unlisted { .. } => {
                problem.hint(format!("add `{}` to allowed_contracts: lattice-ctl policy put …", point.contract().as_str()))
            }
            Self::Preset => problem.hint("lattice-ctl policy put <file> --issuer keys/account.nk"),
            Self::Lost { .. } => problem.hint("lattice-ctl policy sync, once the host reaches the bus"),
            Self::Expired { policy, .. } => {
                problem.hint(format!("lattice-ctl policy put with a higher version of {}, or policy rollback", policy.policy))
            }
        }
    }

    /// The same for an actor that is not started.
    pub fn start_problem(&self) -> Problem {
        Problem::new(ErrorCode::Denied, format!("actor start failed: {self}")).hint("lattice-ctl policy status")
    }
}

/// What is in force on a host. Made when a policy or the time changes, and read by every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Why each point is denied, if it is.
    table: [Option<Denied>; Point::ALL.len()],
    memory_cap: Option<(u32, Named)>,
    internal_only: Option<Named>,
    start: Option<Denied>,
    next_expiry: Option<u64>,
    policies: BTreeMap<ConfigName, u64>,
    revoked: BTreeSet<PublicKey>,
    permits: BTreeSet<Permit>,
}

impl InForce {
    /// What is in force on a host that holds `holding`.
    pub fn new(holding: &Holding, preset: Preset, time: Time) -> Self {
        let bundles: Vec<&Bundle> = holding.bundles().collect();
        Self::of(&bundles, holding.lost(), preset, time)
    }

    /// What would be in force on a host that held these and no other: for the plan, which judges by what is stored and leaves
    /// it to hosts to verify. A wrong document can misplace an actor, and never makes one run.
    pub fn of_bundles<'a>(bundles: impl IntoIterator<Item = &'a Bundle>, preset: Preset, time: Time) -> Self {
        let bundles: Vec<&Bundle> = bundles.into_iter().collect();
        Self::of(&bundles, None, preset, time)
    }

    fn of(bundles: &[&Bundle], lost: Option<&str>, preset: Preset, time: Time) -> Self {
        let lost = lost.map(|why| Denied::Lost { why: why.to_owned() });
        let table = match (&lost, bundles.is_empty()) {
            (Some(lost), _) => Point::ALL.map(|_| Some(lost.clone())),
            (None, true) => Point::ALL.map(|_| (preset == Preset::Deny).then_some(Denied::Preset)),
            (None, false) => Point::ALL.map(|point| denial(bundles, point)),
        };
        let expired = bundles.iter().find(|bundle| time.is_past(bundle.expires));
        let expired = expired.map(|bundle| Denied::Expired { policy: Named::of(bundle), expires: bundle.expires });
        let preset_denies = (bundles.is_empty() && preset == Preset::Deny).then_some(Denied::Preset);
        let restricts = |bundle: &&&Bundle| bundle.policy.network_restrictions.iter().any(|word| word == INTERNAL_ONLY);
        Self {
            table,
            memory_cap: bundles.iter().filter_map(|bundle| Some((bundle.policy.max_actor_memory_mb?, Named::of(bundle)))).min(),
            internal_only: bundles.iter().find(restricts).map(|bundle| Named::of(bundle)),
            start: lost.or(expired).or(preset_denies),
            next_expiry: bundles.iter().map(|bundle| bundle.expires).filter(|expires| !time.is_past(*expires)).min(),
            policies: bundles.iter().map(|bundle| (bundle.policy.policy_id.clone(), bundle.policy.version)).collect(),
            revoked: bundles.iter().flat_map(|bundle| bundle.revoked_keys.iter().cloned()).collect(),
            permits: bundles.iter().flat_map(|bundle| bundle.allow_older.iter().cloned()).collect(),
        }
    }

    /// Whether a call at `point` is allowed: the question that is asked for every call.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, point: Point) -> Result<(), &Denied> {
        match self.table.get(point.index()) {
            Some(Some(denied)) => Err(denied),
            Some(None) | None => Ok(()),
        }
    }

    /// Whether anything may be started that does not run yet.
    ///
    /// # Errors
    /// Why not.
    pub fn may_start(&self) -> Result<(), &Denied> {
        self.start.as_ref().map_or(Ok(()), Err)
    }

    /// Whether http-client and messaging may connect to `address`, once a name was resolved to it.
    ///
    /// # Errors
    /// Why not.
    pub fn may_connect(&self, address: IpAddr) -> Result<(), Denied> {
        match &self.internal_only {
            Some(policy) if !is_internal(address) => Err(Denied::Outside { policy: policy.clone(), address }),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether only internal addresses may be reached, and which policy says so.
    pub fn internal_only(&self) -> Option<&Named> {
        self.internal_only.as_ref()
    }

    /// What is left of the memory that an actor was given, in MiB.
    pub fn memory_mb(&self, given: u32) -> u32 {
        self.memory_cap.as_ref().map_or(given, |(cap, _)| given.min(*cap))
    }

    /// The smallest cap on an actor's memory in MiB, and which policy says so.
    pub fn memory_cap(&self) -> Option<(u32, &Named)> {
        self.memory_cap.as_ref().map(|(cap, policy)| (*cap, policy))
    }

    /// When a policy in force expires next, in seconds since 1970: what is in force is to be made anew then.
    pub fn next_expiry(&self) -> Option<u64> {
        self.next_expiry
    }

    /// Policies in force with their versions.
    pub fn policies(&self) -> &BTreeMap<ConfigName, u64> {
        &self.policies
    }

    /// Keys that sign nothing any more.
    pub fn revoked(&self) -> &BTreeSet<PublicKey> {
        &self.revoked
    }

    /// Older code that may run all the same.
    pub fn permits(&self) -> &BTreeSet<Permit> {
        &self.permits
    }
}

/// Why `point` is denied by `bundles`, of which there is at least one.
fn denial(bundles: &[&Bundle], point: Point) -> Option<Denied> {
    for bundle in bundles {
        if let Some(rule) = bundle.policy.denied_contracts.iter().find(|rule| rule.fits(point)) {
            return Some(Denied::ByRule { policy: Named::of(bundle), rule: rule.clone() });
        }
    }
    let allowed = bundles.iter().any(|bundle| bundle.policy.allowed_contracts.iter().any(|rule| rule.fits(point)));
    let names = || bundles.iter().map(|bundle| Named::of(bundle).to_string()).collect::<Vec<_>>().join(", ");
    (!allowed).then(|| Denied::Unlisted { policies: names() })
}
