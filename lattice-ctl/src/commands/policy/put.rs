//! `policy put`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use lattice_core::claims::Permit;
use lattice_core::id::Digest;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::trust::PublicKey;
use lattice_core::trust::clock::MAX_SKEW_S;
use lattice_core::trust::envelope::Purpose;

use super::document;
use super::lineage::Lineage;
use super::watch::{Done, Waiting, Watch};
use crate::commands::signing::{Issuer, now_s, public_key, validity};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;

/// Validity of a policy for which none was given.
const DEFAULT_EXPIRES: &str = "365d";

/// Sign a policy and push it to the hosts; waits until all of them enforce it
///
/// A contract may be used if a policy in force allows it and none denies it. When a policy expires, what runs goes on and
/// nothing new starts; what it denies stays denied.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy put policy.json --issuer keys/account.nk
  lattice-ctl policy put policy.json --scope region=ap-east-1 --bump
  lattice-ctl policy put policy.json --bump --allow-older edge-processor=sha256:…")]
pub(crate) struct Put {
    /// The policy: JSON with policy_id, version, allowed_contracts, denied_contracts, max_actor_memory_mb, network_restrictions
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    issuer: Issuer,

    /// Hosts that it is for: all, region=REGION, label:NAME=VALUE, host=NAME (or its id)
    #[arg(long, value_name = "SCOPE", default_value = "all")]
    scope: Scope,

    /// How long it is valid, from now: 30d, 12h, 1y
    #[arg(long, value_name = "TIME", default_value = DEFAULT_EXPIRES, value_parser = validity)]
    expires: u64,

    /// From when it is valid, from now [default: an hour ago, for clocks that are late]
    #[arg(long, value_name = "TIME", value_parser = validity)]
    not_before: Option<u64>,

    /// Give it the version after the newest, whatever the file says
    #[arg(long)]
    bump: bool,

    /// Keys that sign nothing any more: public keys or key files
    #[arg(long = "revoke", value_name = "KEY", value_delimiter = ',')]
    revoked: Vec<String>,

    /// Older code that may run although newer was seen, by name and digest as `claim inspect` shows them
    #[arg(long, value_name = "NAME=DIGEST", value_parser = permit)]
    allow_older: Vec<Permit>,

    /// Only say what would be put
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    waiting: Waiting,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Put {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let policy = document::read_file(&self.file)?;
        let signer = self.issuer.signer(Purpose::Policy)?;
        let session = Session::open(&self.connection).await?;
        if !self.dry_run {
            session.lattice.ensure_policies().await?;
        }
        // Asked before anything is written: from then on hosts say by themselves what they enforce.
        let watch = Watch::asked(&session).await?;
        let (kept, revision) = document::kept(&session, &policy.policy_id).await?;
        let before = Lineage::new(kept, revision, &watch.heard(&policy.policy_id), signer.public());
        let bundle = self.bundle(policy, &before, &session, signer.public())?;
        for rule in bundle.idle_rules() {
            output.note(&format!("note: rule `{rule}` fits no contract that lattice knows"));
        }
        let same = before.last().filter(|last| last.asks_the_same(&bundle));
        if self.dry_run {
            let from = Some(before.version()).filter(|version| *version > 0);
            return output.print(&Done::planned(&bundle, from, same.is_some()));
        }
        let since = tokio::time::Instant::now();
        let wanted = match same {
            Some(same) => {
                output.note(&format!("policy {} is version {} already", bundle.policy.policy_id, bundle.policy.version));
                if !before.stands() {
                    let document = same.stored.document.clone();
                    session.lattice.commit_policy(&bundle.policy.policy_id, document, revision).await?;
                    output.note("what stood in its place in the store did not count: it stands there again");
                }
                same.wanted()
            }
            None => document::commit(&session, &bundle, &before, revision, &signer).await?,
        };
        watch.until_enforced(output, wanted, since, &self.waiting).await
    }

    fn bundle(&self, mut policy: SecurityPolicy, before: &Lineage, session: &Session, issuer: &PublicKey) -> Outcome<Bundle> {
        let now = now_s();
        let not_before = self.not_before.map_or_else(|| now.saturating_sub(MAX_SKEW_S), |after| now.saturating_add(after));
        let revoked = self.revoked.iter().map(|text| public_key(text)).collect::<Result<BTreeSet<PublicKey>, _>>()?;
        if self.bump {
            policy.version = before.version().max(1);
        }
        let mut bundle = Bundle {
            policy,
            lattice: session.name().clone(),
            scope: self.scope.clone(),
            issued_at: now,
            not_before,
            expires: now.saturating_add(self.expires),
            issuer: issuer.clone(),
            revoked_keys: revoked,
            allow_older: self.allow_older.iter().cloned().collect(),
        };
        // The same policy keeps its version, so that putting it twice changes nothing; unless it is to be renewed.
        let is_as_it_was = before.last().is_some_and(|last| last.asks_the_same(&bundle) && last.warning(now).is_none());
        if self.bump && before.version() > 0 && !is_as_it_was {
            bundle.policy.version = bundle.policy.version.saturating_add(1);
        }
        Ok(bundle)
    }
}

fn permit(text: &str) -> Result<Permit, String> {
    let (name, digest) = text.split_once('=').ok_or("must be <name>=<digest>, as `lattice-ctl claim inspect` shows them")?;
    let digest = Digest::new(digest).map_err(|error| error.to_string())?;
    if name.trim().is_empty() { Err("the name is empty".to_owned()) } else { Ok(Permit { name: name.trim().to_owned(), digest }) }
}
