//! Keys that sign, and signatures that are checked: what claims and policies share.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use lattice_core::claims::{Claim, sections, token};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::trust::envelope::{self, Purpose};
use lattice_core::trust::{PublicKey, Verify};
use nkeys::KeyPair;

use super::keys::{self, Folder};
use crate::problems;

/// Characters of a token's id.
const TOKEN_ID_CHARS: usize = 22;
/// Bits of a key file's mode that let others in.
const OTHERS: u32 = 0o077;

/// Ed25519 by nkeys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nkeys;

impl Verify for Nkeys {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        KeyPair::from_public_key(key.as_str()).is_ok_and(|pair| pair.verify(message, signature).is_ok())
    }
}

/// Who signs.
#[derive(Debug, Args)]
pub(super) struct Issuer {
    /// Key file that signs: an account's, for policies an operator's too [default: account.nk in the folder of keys]
    #[arg(long, short = 'i', value_name = "KEYFILE", env = "LATTICE_ISSUER_KEY", hide_env = true)]
    issuer: Option<PathBuf>,

    #[command(flatten)]
    pub(super) folder: Folder,
}

impl Issuer {
    /// Its key, which must be of a kind that signs for `purpose`.
    pub(super) fn signer(&self, purpose: Purpose) -> Result<Signer, Problem> {
        let file = self.issuer.clone().unwrap_or_else(|| self.folder.file("account"));
        Signer::read(&file, purpose)
    }
}

/// A key that can sign.
pub(crate) struct Signer {
    pair: KeyPair,
    public: PublicKey,
}

impl Signer {
    /// Reads the seed at `path`, which must be of a kind that signs for `purpose` and readable by its owner only.
    ///
    /// # Errors
    /// With the command that makes a key, or makes it private.
    pub(crate) fn read(path: &Path, purpose: Purpose) -> Result<Self, Problem> {
        let pair = keys::read(path).map_err(|problem| {
            let is_missing = problem.code == ErrorCode::NotFound;
            if is_missing { problem.hint("lattice-ctl keys gen account makes one") } else { problem }
        })?;
        check_private(path)?;
        let public = public(&pair)?;
        if !purpose.signers().contains(&public.kind()) {
            let wanted: Vec<&str> = purpose.signers().iter().map(|kind| kind.as_str()).collect();
            let message =
                format!("key file {}: is of kind `{}`, needed is: {}", path.display(), public.kind().as_str(), wanted.join(" or "));
            return Err(problems::usage(message).hint("lattice-ctl keys gen account"));
        }
        Ok(Self { pair, public })
    }

    /// Its public part.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Its signature over `message`.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Problem> {
        self.pair.sign(message).map_err(|error| problems::failed("signing", &error))
    }

    /// A signed document.
    pub(super) fn seal(&self, purpose: Purpose, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let signature = self.sign(&envelope::signed_bytes(purpose, body))?;
        Ok(envelope::seal(&self.public, &signature, body))
    }
}

/// The component with claim and token; what was signed before must be gone from it.
pub(crate) fn sign_component(mut component: Vec<u8>, claim: &Claim, signer: &Signer) -> Result<Vec<u8>, Problem> {
    sections::append(&mut component, sections::CLAIM_SECTION, &signer.seal(Purpose::Claim, &claim.encode())?);
    // The token covers the claim as well.
    let hash = sections::token_hash(&component).map_err(|error| problems::usage(format!("signing failed: {error}")))?;
    let id: String = KeyPair::new_user().public_key().chars().rev().take(TOKEN_ID_CHARS).collect();
    let unsigned = token::unsigned(claim, &hash, &id);
    let signature = signer.sign(unsigned.as_bytes())?;
    sections::append(&mut component, sections::TOKEN_SECTION, token::signed(&unsigned, &signature).as_bytes());
    Ok(component)
}

/// The public key that `text` is, or that the key file of that name holds.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, Problem> {
    if let Ok(key) = PublicKey::new(text) {
        return match KeyPair::from_public_key(key.as_str()) {
            Ok(_) => Ok(key),
            Err(_) => Err(problems::usage(format!("key {key}: its checksum is wrong, so a letter must be"))),
        };
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(problems::usage(format!("`{}` is neither a public key (A…) nor a key file", text.escape_debug()))
            .hint("`lattice-ctl keys list` shows public keys"));
    }
    public(&keys::read(path)?)
}

/// The public part of a key.
pub(crate) fn public(pair: &KeyPair) -> Result<PublicKey, Problem> {
    PublicKey::new(pair.public_key()).map_err(|error| problems::usage(format!("{error}: this kind of key signs nothing here")))
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads a time of validity: `30d`, `12h`, `10m`, `90s`, `1y`; a plain number is days, as in wash.
pub(super) fn validity(text: &str) -> Result<u64, String> {
    const WRONG: &str = "give a time like 30d, 12h or 1y; a plain number is days";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "" | "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return Err(WRONG.to_owned()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(|| WRONG.to_owned())
}

fn check_private(path: &Path) -> Result<(), Problem> {
    let metadata = std::fs::metadata(path).map_err(|error| problems::path("key file", path, &error))?;
    let mode = metadata.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let message = format!("key file {}: others may read it (mode {:04o}), so it is no secret", path.display(), mode & 0o7777);
    Err(Problem::new(ErrorCode::Denied, message).hint(format!("chmod 600 {}", path.display())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key file of its own, as `keys gen` writes them.
    pub(in crate::commands) fn key(folder: &Path, name: &str, pair: &KeyPair) -> PathBuf {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = folder.join(format!("{name}.nk"));
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        writeln!(file, "{}", pair.seed().unwrap()).unwrap();
        path
    }

    #[test]
    fn what_one_key_signed_no_other_did() {
        let folder = tempfile::tempdir().unwrap();
        let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
        let signer = Signer::read(&key(folder.path(), "account", &account), Purpose::Claim).unwrap();
        let signature = signer.sign(b"message").unwrap();
        let other = public(&other).unwrap();
        assert!(Nkeys.verify(signer.public(), b"message", &signature));
        assert!(!Nkeys.verify(signer.public(), b"massage", &signature));
        assert!(!Nkeys.verify(&other, b"message", &signature));
        assert!(!Nkeys.verify(signer.public(), b"message", &signature[..63]));
        assert!(!Nkeys.verify(&PublicKey::new(format!("A{}", "A".repeat(55))).unwrap(), b"message", &signature), "no checksum");
    }

    #[test]
    fn keys_that_may_not_sign() {
        let folder = tempfile::tempdir().unwrap();
        let operator = key(folder.path(), "operator", &KeyPair::new_operator());
        let user = key(folder.path(), "user", &KeyPair::new_user());
        let why = |path: &Path, purpose| Signer::read(path, purpose).err().map(|problem| problem.message).unwrap_or_default();
        assert_eq!(why(&operator, Purpose::Policy), "");
        assert!(why(&operator, Purpose::Claim).ends_with("is of kind `operator`, needed is: account"));
        assert!(why(&user, Purpose::Policy).ends_with("needed is: account or operator"));
        std::fs::set_permissions(&operator, std::fs::Permissions::from_mode(0o640)).unwrap();
        let problem = Signer::read(&operator, Purpose::Policy).err().unwrap();
        assert_eq!((problem.code, problem.hint.unwrap().starts_with("chmod 600 ")), (ErrorCode::Denied, true));
        let missing = Signer::read(&folder.path().join("none.nk"), Purpose::Claim).err().unwrap();
        assert_eq!((missing.code, missing.hint.unwrap().as_str()), (ErrorCode::NotFound, "lattice-ctl keys gen account makes one"));
        std::fs::write(folder.path().join("x.nk"), "no seed").unwrap();
        assert!(why(&folder.path().join("x.nk"), Purpose::Claim).contains("holds no seed"));
    }

    #[test]
    fn public_keys_by_text_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let pair = KeyPair::new_account();
        let path = key(folder.path(), "account", &pair);
        assert_eq!(public_key(&pair.public_key()).unwrap().as_str(), pair.public_key());
        assert_eq!(public_key(path.to_str().unwrap()).unwrap().as_str(), pair.public_key());
        assert!(public_key(&format!("A{}", "B".repeat(55))).unwrap_err().message.contains("checksum is wrong"));
        assert!(public_key("nothing").unwrap_err().message.contains("neither"));
    }

    #[test]
    fn times_of_validity() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(validity(text).ok(), expected, "{text}");
        check("30d", Some(30 * 86_400));
        check("30", Some(30 * 86_400));
        check("12h", Some(43_200));
        check("2w", Some(14 * 86_400));
        check("1y", Some(31_536_000));
        check("0s", Some(0));
        for bad in ["", "d", "-1d", "1.5d", "1x", "99999999999999999999", "999999999999999999y"] {
            check(bad, None);
        }
    }
}
