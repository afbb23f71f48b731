//! `claim sign`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use lattice_core::admission::ComponentShape;
use lattice_core::claims::sections::{self, Carried};
use lattice_core::claims::{Claim, Version};
use lattice_core::contract::Contract;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::LatticeName;
use lattice_core::trust::clock::MAX_SKEW_S;
use lattice_core::trust::envelope::Purpose;
use lattice_core::trust::{KeyKind, PublicKey};
use nkeys::KeyPair;

use super::{Described, carried, component};
use crate::commands::signing::{self, Issuer, now_s, validity};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;

/// Validity of a claim for which none was given.
const DEFAULT_EXPIRES: &str = "365d";

/// Sign an actor's code: its name, version, what it may be linked to, and until when
///
/// The claim is written into the component, beside a wascap token that other tools can read. Signing again replaces both; what
/// is not given is taken from the claim that is there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl claim sign edge_processor.wasm --name edge-processor --issuer keys/account.nk --subject keys/module.nk \\
      --expires 30d --allow wasmcloud:keyvalue,wasmcloud:messaging
  lattice-ctl claim sign edge_processor.wasm --rev 2 --allow wasmcloud:messaging")]
pub(crate) struct Sign {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What it is called; versions are counted by this name [default: the file's name]
    #[arg(long, short = 'n', value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    issuer: Issuer,

    /// Key file, or public key, of the module that is signed [default: module.nk in the folder of keys, or a new key]
    #[arg(long, short = 's', value_name = "KEY", env = "LATTICE_SUBJECT_KEY", hide_env = true)]
    subject: Option<String>,

    /// Contracts that it may be linked to, in either spelling [default: those that it imports and exports]
    #[arg(long, value_name = "CONTRACT", value_delimiter = ',')]
    allow: Option<Vec<String>>,

    /// How long it is valid, from now: 30d, 12h, 1y
    #[arg(long, short = 'x', value_name = "TIME", default_value = DEFAULT_EXPIRES, value_parser = validity)]
    expires: u64,

    /// From when it is valid, from now [default: an hour ago, for clocks that are late]
    #[arg(long, short = 'b', visible_alias = "nbf", value_name = "TIME", value_parser = validity)]
    not_before: Option<u64>,

    /// Version, one to three numbers [default: 0.1.0]
    #[arg(long, short = 'v', value_name = "VERSION")]
    ver: Option<Version>,

    /// Build of that version [default: 0]
    #[arg(long, short = 'r', value_name = "N")]
    rev: Option<u32>,

    /// The only lattice that it is for
    #[arg(long, value_name = "NAME")]
    lattice: Option<LatticeName>,

    /// Where to write the signed component [default: over the file]
    #[arg(long, short = 'd', value_name = "FILE")]
    destination: Option<PathBuf>,
}

impl Sign {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let artifact = component(&self.file, "signing")?;
        let bare = sections::strip(&artifact.bytes).map_err(|error| failed(&self.file, &error))?;
        // A claim that cannot be read is replaced like any other.
        let before = Carried::read(&artifact.bytes).ok().and_then(|carried| carried.unverified());
        let signer = self.issuer.signer(Purpose::Claim)?;
        let claim = self.claim(&bare, &artifact.shape, before, signer.public())?;
        let signed = signing::sign_component(bare, &claim, &signer)?;
        let carried = carried(&self.file, &signed)?;
        let path = self.destination.as_deref().unwrap_or(&self.file);
        write(path, &signed).map_err(|error| problems::path("component", path, &error))?;
        for contract in unlisted(&claim, &artifact.shape) {
            output.note(&format!("note: it uses {contract}, which its claim does not allow: no link to it will be accepted"));
        }
        output.print(&Described::new(path, carried, Some("holds".to_owned())))
    }

    fn claim(&self, bare: &[u8], shape: &ComponentShape, before: Option<Claim>, issuer: &PublicKey) -> Result<Claim, Problem> {
        let now = now_s();
        let not_before = self.not_before.map_or_else(|| now.saturating_sub(MAX_SKEW_S), |after| now.saturating_add(after));
        let digest = Carried::read(bare).map_err(|error| failed(&self.file, &error))?.digest;
        let allow = match (&self.allow, &before) {
            (Some(texts), _) => contracts(texts)?,
            (None, Some(before)) => before.allow.clone(),
            (None, None) => used(shape),
        };
        let stem = || self.file.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default();
        let before = before.as_ref();
        let claim = Claim {
            name: self.name.clone().or_else(|| before.map(|before| before.name.clone())).unwrap_or_else(stem),
            version: self.ver.or_else(|| before.map(|before| before.version)).unwrap_or(Version::FIRST),
            revision: self.rev.or_else(|| before.map(|before| before.revision)).unwrap_or(0),
            digest,
            allow,
            issued_at: now,
            not_before,
            expires: now.saturating_add(self.expires),
            issuer: issuer.clone(),
            subject: self.subject(before)?,
            lattice: self.lattice.clone().or_else(|| before.and_then(|before| before.lattice.clone())),
        };
        claim.check().map_err(|why| problems::usage(format!("signing failed: {why}")))?;
        Ok(claim)
    }

    /// The module that is signed: the one that is named, the one that was signed before, the one in the folder, a new one.
    fn subject(&self, before: Option<&Claim>) -> Result<PublicKey, Problem> {
        let default = self.issuer.folder.file("module");
        let subject = match (&self.subject, before) {
            (Some(text), _) => signing::public_key(text)?,
            (None, Some(before)) => before.subject.clone(),
            (None, None) if default.exists() => signing::public_key(&default.to_string_lossy())?,
            // Nothing is ever signed with a module's key, so nobody misses its seed.
            (None, None) => signing::public(&KeyPair::new_module())?,
        };
        if subject.kind() != KeyKind::Module {
            return Err(problems::usage(format!("--subject is of kind `{}`, needed is a module key", subject.kind().as_str()))
                .hint("lattice-ctl keys gen module"));
        }
        Ok(subject)
    }
}

/// Contracts in the spelling that claims have.
fn contracts(texts: &[String]) -> Result<BTreeSet<String>, Problem> {
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    texts
        .map(|text| Contract::parse(text).map(|contract| contract.as_str().to_owned()).map_err(|error| problems::usage(error.to_string())))
        .collect()
}

/// Contracts that a component imports or exports.
fn used(shape: &ComponentShape) -> BTreeSet<String> {
    let names = shape.imports.iter().chain(&shape.exports);
    names.filter_map(|name| Contract::parse(name).ok()).map(|contract| contract.as_str().to_owned()).collect()
}

fn unlisted(claim: &Claim, shape: &ComponentShape) -> Vec<String> {
    used(shape).into_iter().filter(|text| Contract::parse(text).is_ok_and(|contract| !claim.allows(contract))).collect()
}

fn failed(path: &Path, error: &sections::SectionError) -> Problem {
    Problem::new(ErrorCode::InvalidComponent, format!("signing failed: {}: {error}", path.display()))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        if let Ok(old) = std::fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| drop(std::fs::remove_file(&beside)))
}
