//! `policy history`.

use clap::Args;
use lattice_core::id::ConfigName;
use lattice_core::trust::clock::date;
use serde::Serialize;

use super::document::{self, Flaw, Opened};
use super::watch::Watch;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};

/// What is said of a version that no host has taken.
const UNKNOWN: &str = "no host knows it";

/// List the versions of a policy that are kept, the newest last
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy history edge-default")]
pub(crate) struct History {
    /// The policy
    #[arg(value_name = "ID")]
    policy: ConfigName,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Version {
    policy: ConfigName,
    version: u64,
    issued_at: u64,
    issuer: String,
    scope: String,
    allowed: usize,
    denied: usize,
    /// Whether its signature holds.
    signed: bool,
    /// Why it does not count, or which hosts refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Versions(Vec<Version>);

impl History {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let heard = Watch::asked(&session).await?.heard(&self.policy);
        let (kept, newest) = document::kept(&session, &self.policy).await?;
        let limit = heard.limit(&kept, newest);
        let unknown = |opened: &Opened| (opened.mark.version > limit).then(|| UNKNOWN.to_owned());
        let note = |opened: &Opened| {
            let flaw = opened.flaw.as_ref().map(ToString::to_string);
            flaw.or_else(|| heard.refusal(&opened.digest())).or_else(|| unknown(opened))
        };
        let versions: Vec<Version> = kept.into_iter().map(|opened| Version { note: note(&opened), ..Version::of(opened) }).collect();
        if versions.is_empty() {
            return Err(document::missing(&self.policy).into());
        }
        output.print(&Versions(versions))
    }
}

impl Version {
    fn of(opened: Opened) -> Self {
        let bundle = opened.bundle;
        Self {
            version: bundle.policy.version,
            issued_at: bundle.issued_at,
            issuer: bundle.issuer.to_string(),
            scope: bundle.scope.to_string(),
            allowed: bundle.policy.allowed_contracts.len(),
            denied: bundle.policy.denied_contracts.len(),
            signed: opened.flaw != Some(Flaw::Signature),
            note: None,
            policy: bundle.policy.policy_id,
        }
    }
}

impl Document for Versions {
    fn text(&self, _wide: bool) -> String {
        let rows = self.0.iter().map(|version| {
            vec![
                version.version.to_string(),
                date(version.issued_at),
                version.scope.clone(),
                version.allowed.to_string(),
                version.denied.to_string(),
                version.issuer.clone(),
                version.note.clone().unwrap_or_default(),
            ]
        });
        columns(&["VERSION", "SIGNED", "SCOPE", "ALLOWED", "DENIED", "ISSUER", "NOTE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|version| format!("policy/{}@{}", version.policy, version.version)).collect()
    }
}
