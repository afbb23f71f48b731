//! Whether code may run here, by the claim that it carries.
//!
//! Asked at every load, whether the code comes over the bus, from the cache or is in memory: time passes, keys are revoked,
//! newer versions are seen. Needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lattice_core::claims::sections::Carried;
use lattice_core::claims::{self, Claim, Refused, Rules, Verified};
use lattice_core::id::LatticeName;
use lattice_core::trust::{Place, PublicKey};
use lattice_core::wire::event::EventKind;

use super::Nkeys;
use super::clock::Clock;
use super::ledger::Ledger;
use crate::recorder::Recorder;
use crate::runtime::{Gatekeeper, Shield};

/// Judges code.
pub(crate) struct Admission {
    /// Accounts that may sign actors. None: nothing is asked.
    pub(crate) trusted: BTreeSet<PublicKey>,
    pub(crate) lattice: LatticeName,
    pub(crate) clock: Arc<Clock>,
    pub(crate) ledger: Arc<Ledger>,
    /// What policies revoke and let in.
    pub(crate) shield: Arc<Shield>,
    pub(crate) recorder: Recorder,
}

impl Admission {
    fn verify(&self, carried: &Carried, marks: &claims::marks::Marks) -> Result<Verified, Refused> {
        let force = self.shield.in_force();
        let place = Place { lattice: &self.lattice, time: self.clock.now() };
        let rules = Rules { trusted: &self.trusted, revoked: force.revoked(), permits: force.permits(), marks, place };
        claims::verify(carried, &rules, &Nkeys)
    }

    fn record_forced(&self, verified: &Verified) {
        let (claim, Some(newer)) = (verified.claim(), verified.forced_below()) else { return };
        let message = format!("{} {} runs although {newer} was seen here: a policy lets it in", claim.name, claim.mark());
        tracing::warn!(target: "audit", name = claim.name, version = %claim.mark(), %newer, digest = %claim.digest, "older code let in by policy");
        let details = [("claim", claim.name.clone()), ("version", claim.mark().to_string()), ("newer", newer.to_string())];
        let details = details.map(|(name, value)| (name.to_owned(), value));
        self.recorder.record(EventKind::ClaimForced, message, BTreeMap::from(details));
    }
}

impl Gatekeeper for Admission {
    fn asks(&self) -> bool {
        !self.trusted.is_empty()
    }

    fn check(&self, carried: &Carried) -> Result<(), Refused> {
        if self.trusted.is_empty() {
            return Ok(());
        }
        self.ledger.judge_code(|marks| (self.verify(carried, marks).map(drop), false)).0
    }

    fn admit(&self, carried: &Carried) -> Result<Option<Claim>, Refused> {
        if self.trusted.is_empty() {
            return Ok(None);
        }
        let (verified, kept) = self.ledger.judge_code(|marks| match self.verify(carried, marks) {
            Ok(verified) => {
                let raised = verified.remember(marks);
                (Ok(verified), raised)
            }
            Err(refused) => (Err(refused), false),
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "versions that were seen cannot be written: after a restart older code would be taken for new");
        }
        let verified = verified?;
        self.clock.advance(Some(verified.claim().issued_at));
        self.record_forced(&verified);
        Ok(Some(verified.claim().clone()))
    }
}

#[cfg(test)]
mod tests;
