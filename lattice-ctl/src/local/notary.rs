//! Who signs lattice's own actors where hosts run signed code only.
//!
//! A key of the lattice on this machine, made once and kept in the data folder, is trusted by the hosts that `up` starts, for
//! actors and not for policies. Signed components are kept beside it: signed again only when the code is another one or the
//! signature grows old, so that nothing is compiled anew without need.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lattice_core::admission::ComponentShape;
use lattice_core::claims::sections::{self, Carried};
use lattice_core::claims::{Claim, Version};
use lattice_core::contract::Contract;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::policy::force::Preset;
use lattice_core::system::SystemActor;
use lattice_core::trust::PublicKey;
use lattice_core::trust::clock::MAX_SKEW_S;
use lattice_core::trust::envelope::Purpose;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::artifact;
use crate::commands::signing::{self, Signer, now_s};
use crate::problems;

/// How long a signature on one of lattice's own actors is valid, in seconds: five years.
const VALIDITY_S: u64 = 5 * 365 * 86_400;
/// What must be left of that, in seconds: half a year.
const LEFT_S: u64 = 182 * 86_400;
/// Mode of folders with keys.
const FOLDER_MODE: u32 = 0o700;
/// Mode of key files.
const KEY_MODE: u32 = 0o600;

/// Whom the hosts of `up` trust.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Trust {
    /// Accounts whose actors and policies count, none of them: anybody's actors; not said: what was said before.
    #[serde(default)]
    pub(crate) issuers: Option<BTreeSet<PublicKey>>,
    /// Key file that signs lattice's own actors instead of a key of our own.
    #[serde(default)]
    pub(crate) signer: Option<PathBuf>,
    /// What holds without any policy.
    #[serde(default)]
    pub(crate) preset: Option<Preset>,
}

impl Trust {
    /// This, with what was said when the lattice was started before where nothing is said now; kept for the next time.
    ///
    /// # Errors
    /// If the file of the last time cannot be read or written: nobody shall be trusted by mistake.
    pub(crate) fn settled(self, folder: &Folder) -> Result<Self, Problem> {
        let path = folder.root().join("trust.json");
        let failed = |error: std::io::Error| problems::path("trust settings", &path, &error);
        let before = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(failed(error)),
        };
        let settled =
            Self { issuers: self.issuers.or(before.issuers), signer: self.signer.or(before.signer), preset: self.preset.or(before.preset) };
        if settled != Self::default() {
            let text = serde_json::to_vec(&settled).map_err(|error| failed(error.into()))?;
            let beside = path.with_extension("new");
            std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path)).map_err(failed)?;
        }
        Ok(settled)
    }
}

/// Signs lattice's own actors.
pub(crate) struct Notary {
    signer: Signer,
    /// Where signed components are kept.
    signed: PathBuf,
}

impl Notary {
    /// The notary of a data folder whose hosts trust somebody.
    ///
    /// # Errors
    /// Names the file that cannot be made or read.
    pub(crate) fn open(folder: &Folder, trust: &Trust) -> Result<Option<Self>, Problem> {
        let keys = folder.root().join("keys");
        let own = keys.join("lattice.nk");
        if trust.issuers.as_ref().is_none_or(BTreeSet::is_empty) {
            return Ok(None);
        }
        if trust.signer.is_none() && !own.exists() {
            make_folder(&keys)?;
            make_key(&own)?;
        }
        let signer = Signer::read(trust.signer.as_deref().unwrap_or(&own), Purpose::Claim)?;
        Ok(Some(Self { signer, signed: keys.join("signed") }))
    }

    /// The key that hosts must trust besides.
    pub(crate) fn public(&self) -> &PublicKey {
        self.signer.public()
    }

    /// The file with the signed component of `actor`.
    ///
    /// # Errors
    /// Names what cannot be read or written.
    pub(crate) fn sign(&self, actor: SystemActor, component: &Path) -> Result<PathBuf, Problem> {
        let artifact = artifact::read(component)?;
        let failed = |error: &sections::SectionError| {
            Problem::new(ErrorCode::InvalidComponent, format!("signing failed: {}: {error}", component.display()))
        };
        let bare = sections::strip(&artifact.bytes).map_err(|error| failed(&error))?;
        let digest = Carried::read(&bare).map_err(|error| failed(&error))?.digest;
        let path = self.signed.join(actor.component());
        let now = now_s();
        let still_good = |claim: &Claim| {
            claim.digest == digest
                && claim.issuer == *self.public()
                && claim.expires > now.saturating_add(LEFT_S)
                && claim.not_before <= now
        };
        if known(&path).as_ref().is_some_and(still_good) {
            return Ok(path);
        }
        let claim = Claim {
            name: actor.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").parse().unwrap_or(Version::FIRST),
            // Whatever is signed later is newer, an older program of the same version, too.
            revision: u32::try_from(now).unwrap_or(u32::MAX),
            digest,
            allow: contracts(&artifact.shape),
            issued_at: now,
            not_before: now.saturating_sub(MAX_SKEW_S),
            expires: now.saturating_add(VALIDITY_S),
            issuer: self.public().clone(),
            subject: signing::public(&KeyPair::new_module())?,
            lattice: None,
        };
        let signed = signing::sign_component(bare, &claim, &self.signer)?;
        make_folder(&self.signed)?;
        let beside = path.with_extension("new");
        let written = std::fs::write(&beside, signed).and_then(|()| std::fs::rename(&beside, &path));
        written.map_err(|error| problems::path("signed component", &path, &error))?;
        Ok(path)
    }
}

/// Contracts of all of lattice's own links, and what the component itself uses.
fn contracts(shape: &ComponentShape) -> BTreeSet<String> {
    let names = shape.imports.iter().chain(&shape.exports);
    let used = names.filter_map(|name| Contract::parse(name).ok());
    used.chain([Contract::Store, Contract::Messaging, Contract::KeyValue]).map(|contract| contract.as_str().to_owned()).collect()
}

/// The claim in a file that was signed before.
fn known(path: &Path) -> Option<Claim> {
    let carried = Carried::read(&std::fs::read(path).ok()?).ok()?;
    // The code must be the one that was signed, too.
    carried.unverified().filter(|claim| claim.digest == carried.digest)
}

fn make_folder(path: &Path) -> Result<(), Problem> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
    made.map_err(|error| problems::path("folder", path, &error))
}

fn make_key(path: &Path) -> Result<(), Problem> {
    let failed = |error: std::io::Error| problems::path("key file", path, &error);
    let seed = KeyPair::new_account().seed().map_err(|error| problems::failed("making a key", &error))?;
    let mut file = std::fs::File::options().write(true).create_new(true).mode(KEY_MODE).open(path).map_err(failed)?;
    writeln!(file, "{seed}").and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::LatticeName;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_only_where_somebody_is_trusted() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(data.path()), &LatticeName::new("default").unwrap()).unwrap();
        assert!(Notary::open(&folder, &Trust::default()).unwrap().is_none());
        let issuer = signing::public(&KeyPair::new_account()).unwrap();
        let trust = Trust { issuers: Some(BTreeSet::from([issuer])), ..Trust::default() }.settled(&folder).unwrap();
        let first = Notary::open(&folder, &trust).unwrap().unwrap();
        let path = data.path().join("keys/lattice.nk");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, KEY_MODE);
        let remembered = Trust::default().settled(&folder).unwrap();
        assert_eq!(remembered, trust);
        let again = Notary::open(&folder, &remembered).unwrap().unwrap();
        assert_eq!(first.public(), again.public());
        let off = Trust { issuers: Some(BTreeSet::new()), ..Trust::default() }.settled(&folder).unwrap();
        assert!(Notary::open(&folder, &off).unwrap().is_none());
    }
    #[test]
    fn settings_that_cannot_be_read_trust_nobody_by_mistake() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(data.path()), &LatticeName::new("default").unwrap()).unwrap();
        let path = folder.root().join("trust.json");
        std::fs::write(&path, r#"{"issuers":["A"#).unwrap();
        assert!(Trust::default().settled(&folder).unwrap_err().message.contains("trust.json"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(Trust::default().settled(&folder).unwrap_err().message.contains("trust.json"));
    }

    /// A component that exports a handler and does nothing, with a custom section of its own.
    fn component(tag: &str) -> Vec<u8> {
        const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        let mut section = |number: u8, content: &[u8]| {
            bytes.extend([number, u8::try_from(content.len()).unwrap()]);
            bytes.extend(content);
        };
        section(0, &[&[3], &b"tag"[..], tag.as_bytes()].concat());
        section(5, &[1, 1, 0]);
        section(11, &[&[1, 0, u8::try_from(HANDLER.len()).unwrap()], HANDLER.as_bytes(), &[5, 0, 0]].concat());
        bytes
    }

    #[test]
    fn signed_once_and_again_when_it_must_be() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(data.path()), &LatticeName::new("default").unwrap()).unwrap();
        let trust = Trust { issuers: Some(BTreeSet::from([signing::public(&KeyPair::new_account()).unwrap()])), ..Trust::default() };
        let notary = Notary::open(&folder, &trust).unwrap().unwrap();
        let source = data.path().join("actor.wasm");
        std::fs::write(&source, component("one")).unwrap();
        let sign = || notary.sign(SystemActor::Scheduler, &source).unwrap();
        let path = sign();
        let claim = known(&path).unwrap();
        assert_eq!((&claim.issuer, claim.name.as_str()), (notary.public(), SystemActor::Scheduler.as_str()));

        // Whatever stands there is kept as it is if it is good, and is replaced by a good one if it is not.
        let own = |bare: &[u8], edit: &dyn Fn(&mut Claim), signer: &Signer| {
            let mut claim = Claim { digest: Carried::read(bare).unwrap().digest, revision: 7, ..claim.clone() };
            edit(&mut claim);
            signing::sign_component(bare.to_vec(), &claim, signer).unwrap()
        };
        let (one, two, now) = (component("one"), component("two"), now_s());
        make_key(&data.path().join("other.nk")).unwrap();
        let other = Signer::read(&data.path().join("other.nk"), Purpose::Claim).unwrap();
        let moved = |claim: &mut Claim| claim.digest = Carried::read(&component("one")).unwrap().digest;
        let foreign = |claim: &mut Claim| claim.issuer = other.public().clone();
        let check = |what: &str, signed: Vec<u8>, is_kept: bool| {
            std::fs::write(&path, &signed).unwrap();
            sign();
            let found = std::fs::read(&path).unwrap();
            assert_eq!(found == signed, is_kept, "{what}");
            let found = Carried::read(&found).unwrap();
            assert_eq!(found.digest, Carried::read(&one).unwrap().digest, "{what}: the component of this program");
        };
        check("good", own(&one, &|_| {}, &notary.signer), true);
        check("about other code", own(&two, &|_| {}, &notary.signer), false);
        check("with other code", own(&two, &moved, &notary.signer), false);
        check("by another key", own(&one, &foreign, &other), false);
        check("soon at its end", own(&one, &|claim| claim.expires = now + LEFT_S - 1, &notary.signer), false);
        check("not yet valid", own(&one, &|claim| claim.not_before = now + 1000, &notary.signer), false);
        check("no component", b"x".to_vec(), false);
    }
}
