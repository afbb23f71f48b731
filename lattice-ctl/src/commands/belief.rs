//! Whether hosts will believe an actor's claim, asked here where it is known whom they trust.

use std::collections::BTreeSet;

use lattice_core::admission::MAX_COMPONENT_BYTES;
use lattice_core::claims::marks::Marks;
use lattice_core::claims::sections::Carried;
use lattice_core::claims::{self, Claim, Refused, Rules};
use lattice_core::contract::Contract;
use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, LatticeName};
use lattice_core::trust::clock::Time;
use lattice_core::trust::{Place, PublicKey};

use super::signing::{Nkeys, now_s, public_key};
use crate::connection::Session;
use crate::error::Outcome;
use crate::local::trusted;

/// The claim of a component that shall be started, if the lattice is known to trust somebody.
///
/// # Errors
/// `actor start failed: invalid claim: <why>`, with the command that signs `file` so that it is believed.
pub(super) fn judge(session: &Session, file: &str, bytes: &[u8]) -> Result<Option<Claim>, Problem> {
    let Some(known) = trusted::at(session.connection().url()) else { return Ok(None) };
    let mut trusted = known.issuers;
    // Without the file nobody can have signed with it lately.
    trusted.extend(public_key(&known.signer.to_string_lossy()));
    verify(&trusted, session.name(), file, bytes).map(Some)
}

/// Older versions that hosts have seen, and what policies have revoked or let in, is left to them.
fn verify(trusted: &BTreeSet<PublicKey>, lattice: &LatticeName, file: &str, bytes: &[u8]) -> Result<Claim, Problem> {
    let carried = Carried::read(bytes).map_err(|error| Refused::from(error).problem(file, None, trusted))?;
    let (revoked, permits, marks) = (BTreeSet::new(), BTreeSet::new(), Marks::default());
    let place = Place { lattice, time: Time::exact(now_s()) };
    let rules = Rules { trusted, revoked: &revoked, permits: &permits, marks: &marks, place };
    let verified = claims::verify(&carried, &rules, &Nkeys).map_err(|refused| refused.problem(file, Some(&carried), trusted))?;
    Ok(verified.claim().clone())
}

/// Whether the claim of an actor that is there already allows a link to `contract`, as far as that is known here.
///
/// # Errors
/// `capability denied: <contract>`, with the command that allows it.
pub(super) async fn check_link(session: &Session, desired: &Desired, actor: &ActorId, contract: Contract) -> Outcome {
    if trusted::at(session.connection().url()).is_none() {
        return Ok(());
    }
    let Some(spec) = desired.components.get(actor) else { return Ok(()) };
    // Code that cannot be read here is judged by those who can.
    let Ok(code) = session.lattice.get_artifact(&spec.digest, MAX_COMPONENT_BYTES).await else { return Ok(()) };
    let claim = Carried::read(&code).ok().and_then(|carried| carried.unverified());
    claim.map_or(Ok(()), |claim| claim.check_link(actor.as_str(), contract, &spec.image)).map_err(Into::into)
}

/// Whether `claim` allows the links that an actor has already.
///
/// # Errors
/// As [`check_link`].
pub(super) fn check_links(claim: &Claim, actor: &ActorId, image: &str, desired: &Desired) -> Result<(), Problem> {
    desired.links_of(actor).try_for_each(|link| claim.check_link(actor.as_str(), link.contract, image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::error::ErrorCode;

    /// The smallest component.
    const EMPTY: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];

    #[test]
    fn what_nobody_signed_is_refused_with_the_command_that_signs_it() {
        let trusted = BTreeSet::from([PublicKey::new(nkeys::KeyPair::new_account().public_key()).unwrap()]);
        let problem = verify(&trusted, &LatticeName::new("default").unwrap(), "/x/a.wasm", &EMPTY).unwrap_err();
        assert_eq!((problem.code, problem.code.exit_code()), (ErrorCode::InvalidClaim, 6));
        assert_eq!(problem.message, "actor start failed: invalid claim: it is not signed");
        assert!(problem.hint.unwrap().contains("lattice-ctl claim sign /x/a.wasm"));
    }
}
