//! `get claims`.

use clap::Args;
use lattice_core::admission::MAX_COMPONENT_BYTES;
use lattice_core::claims::Claim;
use lattice_core::claims::sections::Carried;
use lattice_core::id::{ActorId, Digest};
use lattice_core::trust::clock::date;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::view::View;

/// List what the code of each actor claims: who signed it, and what it may be linked to
///
/// What is shown is read from the code and not judged; hosts judge it before they start it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl get claims
  lattice-ctl get claims -o json")]
pub(crate) struct Claims {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    actor: ActorId,
    /// Digest of the component as it is stored.
    digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    claims: Vec<Row>,
}

impl Claims {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let view = View::read(&session).await?;
        let mut claims = Vec::new();
        for (actor, spec) in &view.desired.components {
            let code = session.lattice.get_artifact(&spec.digest, MAX_COMPONENT_BYTES).await;
            let carried = code.map_err(|error| error.to_string()).and_then(|code| Carried::read(&code).map_err(|error| error.to_string()));
            let (claim, note) = match carried.map(|carried| carried.unverified()) {
                Ok(Some(claim)) => (Some(claim), None),
                Ok(None) => (None, Some("not signed".to_owned())),
                Err(why) => (None, Some(why)),
            };
            claims.push(Row { actor: actor.clone(), digest: spec.digest.clone(), claim, note });
        }
        output.print(&List { claims })
    }
}

impl Document for List {
    fn text(&self, wide: bool) -> String {
        if self.claims.is_empty() {
            return String::new();
        }
        let header = ["ACTOR", "NAME", "VERSION", "REVISION", "CAPABILITIES", "EXPIRES", "ISSUER", "SUBJECT"];
        let rows = self.claims.iter().map(|row| match &row.claim {
            Some(claim) => {
                let key = |key: &lattice_core::trust::PublicKey| if wide { key.to_string() } else { format!("{}…", key.short()) };
                let allow: Vec<&str> = claim.allow.iter().map(String::as_str).collect();
                vec![
                    row.actor.to_string(),
                    claim.name.clone(),
                    claim.version.to_string(),
                    claim.revision.to_string(),
                    allow.join(","),
                    date(claim.expires).chars().take(10).collect(),
                    key(&claim.issuer),
                    key(&claim.subject),
                ]
            }
            None => vec![row.actor.to_string(), row.note.clone().unwrap_or_default()],
        });
        columns(&header, rows)
    }

    fn names(&self) -> Vec<String> {
        self.claims.iter().map(|row| format!("claim/{}", row.actor)).collect()
    }
}
