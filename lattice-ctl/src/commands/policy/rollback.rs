//! `policy rollback`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::ConfigName;
use lattice_core::policy::Bundle;
use lattice_core::trust::clock::MAX_SKEW_S;
use lattice_core::trust::envelope::Purpose;

use super::document;
use super::lineage::{Lineage, Lost};
use super::watch::{Waiting, Watch};
use crate::commands::signing::{Issuer, now_s};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;

/// Put what an earlier version of a policy said, as a new version
///
/// Hosts refuse lower versions, so nothing goes back: what it said comes again under the next number, signed anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy rollback edge-default                 # to what was before the newest
  lattice-ctl policy rollback edge-default --to 3")]
pub(crate) struct Rollback {
    /// The policy
    #[arg(value_name = "ID")]
    policy: ConfigName,

    /// The version whose content comes again [default: the one before the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,

    #[command(flatten)]
    issuer: Issuer,

    #[command(flatten)]
    waiting: Waiting,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Rollback {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let signer = self.issuer.signer(Purpose::Policy)?;
        let session = Session::open(&self.connection).await?;
        let watch = Watch::asked(&session).await?;
        let (kept, revision) = document::kept(&session, &self.policy).await?;
        let before = Lineage::new(kept, revision, &watch.heard(&self.policy), signer.public());
        if before.version() == 0 {
            return Err(document::missing(&self.policy).into());
        }
        let (last, old) = before.earlier(self.to).map_err(|lost| self.lost(&lost))?;
        let bundle = Bundle { issuer: signer.public().clone(), ..again(&old.bundle, &last.bundle, now_s()) };
        let since = tokio::time::Instant::now();
        let wanted = document::commit(&session, &bundle, &before, revision, &signer).await?;
        watch.until_enforced(output, wanted, since, &self.waiting).await
    }

    fn lost(&self, lost: &Lost) -> Problem {
        let policy = &self.policy;
        let code = match lost {
            Lost::Gone { .. } | Lost::Unknown { .. } => ErrorCode::NotFound,
            Lost::Foreign { .. } => ErrorCode::Denied,
        };
        Problem::new(code, format!("policy {policy}: {lost}")).hint(format!(
            "`lattice-ctl policy history {policy}` shows who signed what, --to names a version, and `lattice-ctl policy put <file> --bump` \
             says it anew"
        ))
    }
}

/// What `old` said, as the version after `last`, valid from `now` for as long as it was.
fn again(old: &Bundle, last: &Bundle, now: u64) -> Bundle {
    let mut bundle = old.clone();
    bundle.policy.version = last.policy.version.saturating_add(1);
    (bundle.issued_at, bundle.not_before) = (now, now.saturating_sub(MAX_SKEW_S));
    bundle.expires = now.saturating_add(old.expires.saturating_sub(old.issued_at));
    // A key that was revoked since does not come back with an old version.
    bundle.revoked_keys.extend(last.revoked_keys.iter().cloned());
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::policy::watch::tests::opened;

    #[test]
    fn what_was_said_comes_again_under_the_next_number() {
        let bundle = again(&opened(1, "wasmcloud:keyvalue").bundle, &opened(5, "*").bundle, 1_000_000);
        assert_eq!((bundle.policy.version, bundle.policy.allowed_contracts[0].as_str()), (6, "wasmcloud:keyvalue"));
        assert_eq!((bundle.issued_at, bundle.expires), (1_000_000, 1_000_100));
    }

    #[test]
    fn a_revoked_key_stays_revoked() {
        let mut last = opened(2, "*").bundle;
        let key = crate::commands::signing::public(&nkeys::KeyPair::new_account()).unwrap();
        last.revoked_keys.insert(key.clone());
        assert!(again(&opened(1, "*").bundle, &last, 1_000_000).revoked_keys.contains(&key));
    }
}
