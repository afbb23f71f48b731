//! `claim inspect`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use lattice_core::claims::Claim;
use lattice_core::claims::sections::Carried;
use lattice_core::claims::token::{self, Said};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::Digest;
use lattice_core::trust::clock::date;
use lattice_core::trust::envelope::{Envelope, Purpose};
use serde::Serialize;

use super::{carried, component};
use crate::commands::signing::Nkeys;
use crate::error::Outcome;
use crate::output::{Document, Output, printable};

/// Show what a component's claim says, and whether its signature holds
///
/// It is shown whether it is true or not; `claim verify` says whether a host would believe it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl claim inspect edge_processor.wasm
  lattice-ctl claim inspect edge_processor.wasm -o json")]
pub(crate) struct Inspect {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let artifact = component(&self.file, "reading")?;
        let carried = carried(&self.file, &artifact.bytes)?;
        if carried.claim.is_none() && carried.token.is_none() {
            let problem = Problem::new(ErrorCode::NotFound, format!("{} is not signed", self.file.display()));
            return Err(problem.hint(format!("lattice-ctl claim sign {} --name <name>", self.file.display())).into());
        }
        let signature = carried.claim.as_deref().map(|sealed| signature(sealed, &carried.digest));
        output.print(&Described::new(&self.file, carried, signature))
    }
}

/// How the signature stands, in words.
fn signature(sealed: &str, digest: &Digest) -> String {
    let envelope = match Envelope::read(sealed.as_bytes()) {
        Ok(envelope) => envelope,
        Err(error) => return format!("cannot be read: {error}"),
    };
    let words = match envelope.open(Purpose::Claim, &Nkeys).map(Claim::decode) {
        None => "is wrong",
        Some(Err(why)) => return format!("holds, over a claim that makes no sense: {why}"),
        Some(Ok(claim)) if claim.issuer != *envelope.issuer() => "is by somebody else",
        Some(Ok(claim)) if claim.digest != *digest => "holds, but the code was changed after it was signed",
        Some(Ok(_)) => "holds",
    };
    words.to_owned()
}

/// What a component says of itself.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Described {
    path: PathBuf,
    /// Digest of the code without claims.
    digest: Digest,
    /// How the signature of the claim stands; none without a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
    /// What the wascap token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Said>,
}

impl Described {
    /// Of the component in a file.
    pub(in crate::commands) fn new(path: &Path, carried: Carried, signature: Option<String>) -> Self {
        let claim = carried.unverified();
        let token = carried.token.as_deref().and_then(|token| token::unverified(token).ok());
        Self { path: path.to_owned(), digest: carried.digest, signature, claim, token }
    }
}

impl Document for Described {
    fn text(&self, wide: bool) -> String {
        let mut lines: Vec<(&str, String)> = Vec::new();
        if let Some(claim) = &self.claim {
            lines.extend([
                ("Name", format!("{} {} rev {}", claim.name, claim.version, claim.revision)),
                ("Issuer", claim.issuer.to_string()),
                ("Subject", claim.subject.to_string()),
                ("Allows", list(&claim.allow)),
                ("Valid", format!("{} to {}", date(claim.not_before), date(claim.expires))),
                ("Digest", claim.digest.to_string()),
            ]);
            lines.extend(claim.lattice.as_ref().map(|lattice| ("Lattice", lattice.to_string())));
        }
        lines.extend(self.signature.as_ref().map(|signature| ("Signature", signature.clone())));
        match (&self.token, &self.claim) {
            (Some(said), None) => lines.extend(token_lines(said)),
            (Some(said), Some(_)) if wide => lines.push(("Token", said.jti.clone())),
            (Some(_), Some(_)) => lines.push(("Token", "wascap".to_owned())),
            (None, _) => {}
        }
        let lines = lines.into_iter().map(|(name, value)| format!("{name:<10} {}", printable(&value)));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![format!("claim/{}", self.claim.as_ref().map_or("unsigned", |claim| claim.name.as_str()))]
    }
}

fn list(texts: &BTreeSet<String>) -> String {
    if texts.is_empty() { "nothing".to_owned() } else { texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ") }
}

/// A token that stands alone: no host decides by it.
fn token_lines(said: &Said) -> Vec<(&'static str, String)> {
    let metadata = said.wascap.as_ref();
    let caps = metadata.map(|metadata| metadata.caps.join(", ")).unwrap_or_default();
    vec![
        ("Name", metadata.and_then(|metadata| metadata.name.clone()).unwrap_or_default()),
        ("Issuer", said.iss.clone()),
        ("Subject", said.sub.clone()),
        ("Allows", caps),
        ("Signature", "none: a wascap token alone is not enough for a host".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::signing::public;
    use lattice_core::trust::envelope::{seal, signed_bytes};
    use nkeys::KeyPair;

    #[test]
    fn how_a_signature_stands() {
        let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
        let digest = Digest::of(b"code");
        let claim = Claim {
            name: "edge".to_owned(),
            version: "1.0.0".parse().unwrap(),
            revision: 0,
            digest: digest.clone(),
            allow: BTreeSet::new(),
            issued_at: 1,
            not_before: 1,
            expires: 2,
            issuer: public(&account).unwrap(),
            subject: public(&KeyPair::new_module()).unwrap(),
            lattice: None,
        };
        let check = |issuer: &KeyPair, signer: &KeyPair, body: &[u8], digest: &Digest, expected: &str| {
            let signature = signer.sign(&signed_bytes(Purpose::Claim, body)).unwrap();
            let sealed = String::from_utf8(seal(&public(issuer).unwrap(), &signature, body)).unwrap();
            let found = super::signature(&sealed, digest);
            assert!(found.starts_with(expected), "{found} ~ {expected}");
        };
        let body = claim.encode();
        check(&account, &account, &body, &digest, "holds");
        check(&account, &account, &body, &Digest::of(b"other"), "holds, but the code was changed");
        check(&account, &account, b"{}", &digest, "holds, over a claim that makes no sense");
        check(&account, &other, &body, &digest, "is wrong");
        check(&other, &other, &body, &digest, "is by somebody else");
        assert!(signature("{", &digest).starts_with("cannot be read"));
    }
}
