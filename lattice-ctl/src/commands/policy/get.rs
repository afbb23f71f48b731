//! `policy get`, and `get policies`.

use clap::Args;
use lattice_core::id::ConfigName;
use lattice_core::policy::Bundle;
use lattice_core::policy::rules::Rule;
use lattice_core::trust::clock::date;
use lattice_nats::policies::StoredPolicy;
use serde::Serialize;

use super::document::{self, Opened};
use super::watch::Watch;
use crate::commands::signing::now_s;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};

/// Show the policies of the lattice, or one of them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl policy get
  lattice-ctl policy get edge-default -o json")]
pub(crate) struct Get {
    /// Only this one
    #[arg(value_name = "ID")]
    policy: Option<ConfigName>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A policy for people and programs.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    bundle: Bundle,
    /// What is wrong with it, or about to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    /// Which hosts refuse it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl Shown {
    fn notes(&self) -> impl Iterator<Item = &String> {
        self.warning.iter().chain(&self.refused)
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List(Vec<Shown>);

impl Get {
    pub(in crate::commands) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let watch = Watch::asked(&session).await?;
        let now = now_s();
        let shown = |policy: &ConfigName, stored: &StoredPolicy| {
            let opened = Opened::of(stored, policy, session.name())?;
            Some(Shown { warning: opened.warning(now), refused: watch.heard(policy).refusal(&opened.digest()), bundle: opened.bundle })
        };
        if let Some(policy) = &self.policy {
            let (found, _) = session.lattice.read_policy(policy).await?;
            let found = found.ok_or_else(|| document::missing(policy))?;
            return output.print(&shown(policy, &found).ok_or_else(|| document::unreadable(policy))?);
        }
        let stored = session.lattice.read_policies().await?;
        let opened = stored.iter().filter_map(|(policy, stored)| {
            let opened = shown(policy, stored);
            if opened.is_none() {
                output.note(&format!("note: {}", document::unreadable(policy).message));
            }
            opened
        });
        let list = List(opened.collect());
        if list.0.is_empty() {
            output.note("no policies; `lattice-ctl policy put <file>` puts one");
        }
        output.print(&list)
    }
}

impl Document for Shown {
    fn text(&self, _wide: bool) -> String {
        let (bundle, policy) = (&self.bundle, &self.bundle.policy);
        let mut lines = vec![
            ("Policy", format!("{} version {}", policy.policy_id, policy.version)),
            ("Scope", bundle.scope.to_string()),
            ("Allows", list(&policy.allowed_contracts)),
            ("Denies", list(&policy.denied_contracts)),
            ("Memory", policy.max_actor_memory_mb.map_or_else(|| "no cap".to_owned(), |cap| format!("{cap} MiB an actor"))),
            ("Network", if policy.network_restrictions.is_empty() { "free".to_owned() } else { policy.network_restrictions.join(", ") }),
            ("Valid", format!("{} to {}", date(bundle.not_before), date(bundle.expires))),
            ("Issuer", bundle.issuer.to_string()),
        ];
        lines.extend(bundle.revoked_keys.iter().map(|key| ("Revokes", key.to_string())));
        lines.extend(bundle.allow_older.iter().map(|permit| ("Lets in", format!("{} {}", permit.name, permit.digest))));
        lines.extend(self.notes().map(|note| ("Warning", note.clone())));
        lines.into_iter().map(|(name, value)| format!("{name:<8} {value}")).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![format!("policy/{}", self.bundle.policy.policy_id)]
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let header = ["POLICY", "VERSION", "SCOPE", "ALLOWS", "DENIES", "MEMORY", "NETWORK", "EXPIRES", "NOTE", "ISSUER"];
        let shown = if wide { header.len() } else { header.len() - 1 };
        let rows = self.0.iter().map(|shown| {
            let policy = &shown.bundle.policy;
            let mut row = vec![
                policy.policy_id.to_string(),
                policy.version.to_string(),
                shown.bundle.scope.to_string(),
                list(&policy.allowed_contracts),
                list(&policy.denied_contracts),
                policy.max_actor_memory_mb.map_or_else(|| "-".to_owned(), |cap| format!("{cap}Mi")),
                policy.network_restrictions.join(","),
                date(shown.bundle.expires).chars().take(10).collect(),
                shown.notes().cloned().collect::<Vec<_>>().join("; "),
            ];
            if wide {
                row.push(shown.bundle.issuer.to_string());
            }
            row
        });
        columns(header.get(..shown).unwrap_or(&header), rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().flat_map(Document::names).collect()
    }
}

/// The first rules, and how many more there are.
fn list(rules: &[Rule]) -> String {
    const SHOWN: usize = 5;
    let first: Vec<&str> = rules.iter().take(SHOWN).map(Rule::as_str).collect();
    match rules.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{} and {} more", first.join(", "), count - SHOWN),
        _ => first.join(", "),
    }
}
