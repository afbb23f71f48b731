//! Policies as files, as signed documents, and as the store keeps them.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ConfigName, Revision};
use lattice_core::policy::accept::{Mark, check_version};
use lattice_core::policy::report::Wanted;
use lattice_core::policy::{Bundle, MAX_BUNDLE_BYTES, SecurityPolicy};
use lattice_core::trust::clock::date;
use lattice_core::trust::envelope::{Envelope, Purpose};
use lattice_core::wire::json;
use lattice_nats::policies::StoredPolicy;

use crate::commands::signing::{Nkeys, Signer};
use crate::connection::Session;
use crate::error::Outcome;
use crate::problems;

/// Deepest nesting of a policy file.
const DEPTH: usize = 4;

/// Reads the operator's file.
///
/// # Errors
/// A usage problem that names what makes no sense.
pub(super) fn read_file(path: &Path) -> Result<SecurityPolicy, Problem> {
    let failed = |error: std::io::Error| problems::path("policy file", path, &error);
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file which is too large is seen to be.
    std::fs::File::open(path).map_err(failed)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    json::parse(&bytes, MAX_BUNDLE_BYTES, DEPTH).map_err(|error| {
        problems::usage(format!("policy file {}: {error}", path.display())).hint(
            "it needs policy_id, version and allowed_contracts ([\"*\"] allows all); denied_contracts, max_actor_memory_mb and \
             network_restrictions may be there",
        )
    })
}

/// A document of the store, opened.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// What it says.
    pub(super) bundle: Bundle,
    /// Its mark, as hosts keep it.
    pub(super) mark: Mark,
    /// Whether its signature holds.
    pub(super) holds: bool,
}

impl Opened {
    /// Opens a document; none if it cannot be read at all. Whether the key is one that hosts trust is for them to say.
    pub(super) fn of(stored: &StoredPolicy) -> Option<Self> {
        let envelope = Envelope::read(&stored.document).ok()?;
        let body = envelope.unverified();
        let bundle = Bundle::decode(body).ok()?;
        let holds = envelope.open(Purpose::Policy, &Nkeys).is_some() && bundle.issuer == *envelope.issuer();
        let mark = Mark { version: bundle.policy.version, digest: lattice_core::id::Digest::of(body), elsewhere: false };
        Some(Self { bundle, mark, holds })
    }

    /// Who must enforce it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { policy: self.bundle.policy.policy_id.clone(), version: self.bundle.policy.version, scope: self.bundle.scope.clone() }
    }

    /// Whether it asks hosts for the same as `other`, whenever both were signed.
    pub(super) fn asks_the_same(&self, other: &Bundle) -> bool {
        let mine = &self.bundle;
        mine.policy == other.policy
            && mine.lattice == other.lattice
            && mine.scope == other.scope
            && mine.revoked_keys == other.revoked_keys
            && mine.allow_older == other.allow_older
    }

    /// What is wrong with it, or about to be.
    pub(super) fn warning(&self, now_s: u64) -> Option<String> {
        /// How long before its end a policy is spoken of.
        const SOON_S: u64 = 30 * 86_400;
        let expires = self.bundle.expires;
        if !self.holds {
            Some("its signature is wrong: hosts keep what they had".to_owned())
        } else if expires <= now_s {
            Some(format!("expired {}: nothing new starts under it", date(expires)))
        } else if expires.saturating_sub(now_s) < SOON_S {
            Some(format!("expires {}", date(expires)))
        } else {
            None
        }
    }
}

/// The newest version of a policy, and the revision on which a newer one may be committed.
///
/// # Errors
/// As the store.
pub(super) async fn newest(session: &Session, policy: &ConfigName) -> Outcome<(Option<Opened>, Revision)> {
    let (stored, revision) = session.lattice.read_policy(policy).await?;
    Ok((stored.as_ref().and_then(Opened::of), revision))
}

/// Checks, signs and stores a new version.
///
/// # Errors
/// A usage problem if hosts would refuse it; a conflict if somebody else was faster.
pub(super) async fn commit(session: &Session, bundle: &Bundle, before: Option<&Opened>, revision: Revision, signer: &Signer) -> Outcome {
    let policy = &bundle.policy.policy_id;
    bundle.check().map_err(|error| problems::usage(format!("policy {policy}: {error}")))?;
    let body = bundle.encode();
    check_version(policy, bundle.policy.version, &lattice_core::id::Digest::of(&body), before.map(|before| &before.mark))
        .map_err(|refused| old_version(policy, before, &refused.to_string()))?;
    let document = signer.seal(Purpose::Policy, &body)?;
    if document.len() > MAX_BUNDLE_BYTES {
        return Err(
            problems::usage(format!("policy {policy}: signed it has {} bytes, at most {MAX_BUNDLE_BYTES} fit", document.len())).into()
        );
    }
    session.lattice.commit_policy(policy, Bytes::from(document), revision).await?;
    Ok(())
}

fn old_version(policy: &ConfigName, before: Option<&Opened>, why: &str) -> Problem {
    let next = before.map_or(1, |before| before.mark.version.saturating_add(1));
    Problem::new(ErrorCode::Conflict, format!("policy {policy}: {why}"))
        .hint(format!("give version {next} in the file, or --bump; `lattice-ctl policy get {policy}` shows what is in force"))
}

/// No policy of that name.
pub(super) fn missing(policy: &ConfigName) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("policy not found: {policy}")).hint("`lattice-ctl get policies` lists all")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::policy::watch::tests::opened;
    use crate::commands::signing::public;
    use lattice_core::trust::envelope::{seal, signed_bytes};
    use nkeys::KeyPair;

    #[test]
    fn what_holds_names_who_signed_it() {
        let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
        let holds = |issuer: &KeyPair, signer: &KeyPair| {
            let body = Bundle { issuer: public(issuer).unwrap(), ..opened(1, "*").bundle }.encode();
            let signature = signer.sign(&signed_bytes(Purpose::Policy, &body)).unwrap();
            let document = seal(&public(&account).unwrap(), &signature, &body).into();
            Opened::of(&StoredPolicy { document, revision: Revision(1) }).unwrap().holds
        };
        assert!(holds(&account, &account));
        assert!(!holds(&account, &other), "another signature");
        assert!(!holds(&other, &account), "another issuer than the line above says");
    }
}
