//! Seeded bugs, to test the tests: the simulator must find every one of them.
//!
//! `Fault` exists only with the cargo feature `faults`, which the simulator alone asks for; no program of this workspace
//! can switch one on. Without it every question below is answered by a constant.

/// One wrong decision that can be switched on.
#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A slot is taken for owned because a read says so, not because a claim was stored.
    OwnedByRead,
    /// A refused claim is taken for a stored one.
    ConflictIsSuccess,
    /// A claim for an older plan is made over that of a newer one.
    OldTermClaims,
    /// An owner goes on after one of its commits was refused.
    DeafToFence,
    /// What needs a lease goes on after its deadline.
    LeaseNeverEnds,
    /// After a lease was ended on its behalf a host goes on with what it had.
    ResumesAfterRevocation,
    /// Commits do not carry the epoch: in the shell that stores them.
    NoFenceHeader,
    /// A message is acknowledged before its effects are stored: in the shell.
    AckBeforeCommit,
    /// What was applied is not stored with the effects: in the shell.
    AppliedIsForgotten,
    /// Leases are renewed without a time to live: in the shell.
    RenewsWithoutTtl,
    /// A commit of which nothing was heard is made again under new ids: in the shell.
    RetriesUnderNewIds,
    /// Observation goes on over a gap of the observer's own as if nothing had been missed: in the failover actor.
    GapIsSilence,
    /// What a plan brings is not held against the policies in force, only what runs: in the agent.
    PolicyIgnoredByPlan,
    /// An older version of a policy is taken like a newer one: in the shell.
    OlderPolicyTaken,
    /// A host that comes back starts what the plan says before it has read the policies: in the shell.
    StartsBeforePolicies,
}

#[cfg(feature = "faults")]
impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OwnedByRead,
        Self::ConflictIsSuccess,
        Self::OldTermClaims,
        Self::DeafToFence,
        Self::LeaseNeverEnds,
        Self::ResumesAfterRevocation,
        Self::NoFenceHeader,
        Self::AckBeforeCommit,
        Self::AppliedIsForgotten,
        Self::RenewsWithoutTtl,
        Self::RetriesUnderNewIds,
        Self::GapIsSilence,
        Self::PolicyIgnoredByPlan,
        Self::OlderPolicyTaken,
        Self::StartsBeforePolicies,
    ];
}

/// The seeded bug of one state machine; none, unless a test says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    #[cfg(feature = "faults")]
    seeded: Option<Fault>,
}

#[cfg(feature = "faults")]
impl Faults {
    /// With one bug.
    pub fn seeded(fault: Fault) -> Self {
        Self { seeded: Some(fault) }
    }

    /// Whether that bug is on.
    pub fn is(self, fault: Fault) -> bool {
        self.seeded == Some(fault)
    }
}

macro_rules! questions {
    ($($name:ident => $fault:ident),* $(,)?) => {
        #[cfg(not(feature = "faults"))]
        impl Faults {
            $(pub(crate) const fn $name(self) -> bool { false })*
        }
        #[cfg(feature = "faults")]
        impl Faults {
            $(pub(crate) fn $name(self) -> bool { self.is(Fault::$fault) })*
        }
    };
}

questions! {
    owned_by_read => OwnedByRead,
    conflict_is_success => ConflictIsSuccess,
    old_term_claims => OldTermClaims,
    deaf_to_fence => DeafToFence,
    lease_never_ends => LeaseNeverEnds,
    resumes_after_revocation => ResumesAfterRevocation,
    gap_is_silence => GapIsSilence,
    starts_what_is_denied => PolicyIgnoredByPlan,
}
