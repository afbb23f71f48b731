//! Every seeded bug is found: in some world with it a rule is broken, within a bounded number of worlds.
//!
//! That no rule is broken without them is what `worlds.rs` shows, on more worlds than any bug needs here.

use lattice_core::fault::Fault;
use sim::hunt::hunt;
use sim::invariants::Rule;
use sim::world::Options;

/// Worlds within which a bug must be found.
const WITHIN: u64 = 1_000;

/// The rules of which one must be the first to be broken.
fn expected(fault: Fault) -> &'static [Rule] {
    match fault {
        Fault::OwnedByRead | Fault::ConflictIsSuccess => &[Rule::OwnClaim],
        Fault::OldTermClaims => &[Rule::TermFell],
        Fault::DeafToFence => &[Rule::DeafOwner],
        Fault::LeaseNeverEnds => &[Rule::TwoOwners],
        Fault::ResumesAfterRevocation => &[Rule::TwoOwners, Rule::Resumed],
        Fault::NoFenceHeader => &[Rule::StaleWrite],
        Fault::AckBeforeCommit => &[Rule::Once],
        Fault::AppliedIsForgotten => &[Rule::Applied],
        Fault::RenewsWithoutTtl => &[Rule::LeaseTtl],
        Fault::RetriesUnderNewIds => &[Rule::Applied, Rule::Once],
        Fault::GapIsSilence => &[Rule::FalseVerdict],
        Fault::PolicyIgnoredByPlan => &[Rule::PolicyIgnored],
        Fault::OlderPolicyTaken => &[Rule::PolicyFell],
        Fault::StartsBeforePolicies => &[Rule::StartedEarly],
    }
}

#[test]
fn every_seeded_bug_is_found() {
    let seeds: Vec<u64> = (0..WITHIN).collect();
    for fault in Fault::ALL {
        // Only where leases end can anybody go on without one.
        let patient = matches!(fault, Fault::LeaseNeverEnds | Fault::ResumesAfterRevocation);
        let (found, worlds) = hunt(&seeds, Options { fault: Some(fault), patient, ..Options::default() });
        let (seed, outcome) = found.unwrap_or_else(|| panic!("{fault:?} breaks no rule in {WITHIN} worlds"));
        let breach = outcome.breach.expect("a rule was broken");
        println!("{fault:?}: world {seed} of {worlds}: {:?} at {} ms: {}", breach.rule, breach.at, breach.what);
        assert!(expected(fault).contains(&breach.rule), "{fault:?} breaks {:?}: {}", breach.rule, breach.what);
    }
}
