//! `policy rollback`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::ConfigName;
use lattice_core::policy::Bundle;
use lattice_core::trust::clock::MAX_SKEW_S;
use lattice_core::trust::envelope::Purpose;

use super::document::{self, Opened};
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
        let (before, revision) = document::newest(&session, &self.policy).await?;
        let before = before.ok_or_else(|| document::missing(&self.policy))?;
        let stored = session.lattice.policy_history(&self.policy).await?;
        let history: Vec<Opened> = stored.iter().filter_map(Opened::of).filter(|opened| opened.holds).collect();
        let bundle = again(&history, &before, self.to, now_s())?;
        let bundle = Bundle { issuer: signer.public().clone(), ..bundle };
        let watch = Watch::asked(&session).await?;
        let since = tokio::time::Instant::now();
        document::commit(&session, &bundle, Some(&before), revision, &signer).await?;
        watch.until_enforced(output, &bundle, since, &self.waiting).await
    }
}

/// What version `to` said, as the version after `before`, valid from `now` for as long as it was.
fn again(history: &[Opened], before: &Opened, to: Option<u64>, now: u64) -> Result<Bundle, Problem> {
    let newest = before.mark.version;
    let found = history.iter().rev().find(|opened| to.map_or(opened.mark.version < newest, |to| opened.mark.version == to));
    let old = found.ok_or_else(|| {
        let versions: Vec<String> = history.iter().map(|opened| opened.mark.version.to_string()).collect();
        let wanted = to.map_or_else(|| format!("no version before {newest}"), |to| format!("no version {to}"));
        let message = format!("policy {}: {wanted} is kept (kept: {})", before.bundle.policy.policy_id, versions.join(", "));
        Problem::new(ErrorCode::NotFound, message).hint("lattice-ctl policy put <file> --bump")
    })?;
    let validity = old.bundle.expires.saturating_sub(old.bundle.issued_at);
    let mut bundle = old.bundle.clone();
    bundle.policy.version = newest.saturating_add(1);
    (bundle.issued_at, bundle.not_before) = (now, now.saturating_sub(MAX_SKEW_S));
    bundle.expires = now.saturating_add(validity);
    // A key that was revoked since does not come back with an old version.
    bundle.revoked_keys.extend(before.bundle.revoked_keys.iter().cloned());
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::policy::watch::tests::opened;

    #[test]
    fn what_was_said_comes_again_under_the_next_number() {
        let history = [opened(1, "wasmcloud:keyvalue"), opened(2, "wasmcloud:messaging"), opened(5, "*")];
        let newest = &history[2];
        let check = |to: Option<u64>, expected: &str| {
            let bundle = again(&history, newest, to, 1_000_000).unwrap();
            assert_eq!((bundle.policy.version, bundle.policy.allowed_contracts[0].as_str()), (6, expected));
            assert_eq!((bundle.issued_at, bundle.expires), (1_000_000, 1_000_100));
        };
        check(None, "wasmcloud:messaging");
        check(Some(1), "wasmcloud:keyvalue");
        check(Some(5), "*");
        let missing = again(&history, newest, Some(3), 0).unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (ErrorCode::NotFound, "policy edge: no version 3 is kept (kept: 1, 2, 5)"));
        assert!(again(&history[2..], newest, None, 0).unwrap_err().message.contains("no version before 5"));
    }

    #[test]
    fn a_revoked_key_stays_revoked() {
        let mut newest = opened(2, "*");
        let key = crate::commands::signing::public(&nkeys::KeyPair::new_account()).unwrap();
        newest.bundle.revoked_keys.insert(key.clone());
        let bundle = again(&[opened(1, "*"), newest.clone()], &newest, None, 1_000_000).unwrap();
        assert!(bundle.revoked_keys.contains(&key));
    }
}
