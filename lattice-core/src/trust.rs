//! What makes a document trustworthy: who signed it, over which bytes, and what time it is.
//!
//! Signatures are checked through [`Verify`], so that this crate holds no cryptography but a hash. What is signed is always
//! an exact sequence of bytes behind a word that says what it is ([`envelope`]): a signed claim is never taken for a signed
//! policy, and nothing is encoded a second time in order to be checked.
//!
//! **Invariants.** A key that is not trusted, or of the wrong kind, is refused before its signature is looked at. Nothing of
//! a document but its issuer is read before the signature holds. Time can only take away: no state of a clock makes more
//! valid than was valid before ([`clock`]).

pub mod base64;
pub mod clock;
pub mod envelope;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{LatticeName, conversions};

/// Characters of a public nkey.
const KEY_CHARS: usize = 56;
/// Most keys that a host trusts or a policy revokes.
pub const MAX_KEYS: usize = 256;

/// What a key is for, by the first letter of its public part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// `A`: signs actors and policies.
    Account,
    /// `M`: identity of an actor.
    Module,
    /// `N`: identity of a host.
    Server,
    /// `O`: signs accounts and policies.
    Operator,
    /// `U`: logs in.
    User,
}

impl KeyKind {
    const ALL: [Self; 5] = [Self::Account, Self::Module, Self::Server, Self::Operator, Self::User];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Module => "module",
            Self::Server => "server",
            Self::Operator => "operator",
            Self::User => "user",
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Account => 'A',
            Self::Module => 'M',
            Self::Server => 'N',
            Self::Operator => 'O',
            Self::User => 'U',
        }
    }
}

/// Why a text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no public nkey (A, M, N, O or U, and 55 characters of A-Z2-7)")]
pub struct InvalidKey {
    /// The text, escaped and cut.
    pub text: String,
}

/// The public part of an nkey, as text. Its form is checked here, its checksum by whoever implements [`Verify`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

impl PublicKey {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let known = text.chars().next().is_some_and(|first| KeyKind::ALL.into_iter().any(|kind| kind.letter() == first));
        let fits = text.len() == KEY_CHARS && text.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b));
        if known && fits {
            return Ok(Self(text));
        }
        Err(InvalidKey { text: text.chars().take(KEY_CHARS).flat_map(char::escape_debug).collect() })
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is for.
    pub fn kind(&self) -> KeyKind {
        let first = self.0.chars().next();
        // Only known letters get through the check.
        KeyKind::ALL.into_iter().find(|kind| Some(kind.letter()) == first).unwrap_or(KeyKind::User)
    }

    /// The first letters, for a line that has no room for all.
    pub fn short(&self) -> &str {
        const SHOWN: usize = 10;
        self.0.get(..SHOWN).unwrap_or(&self.0)
    }
}

conversions!(PublicKey, InvalidKey);

/// Checks Ed25519 signatures.
pub trait Verify {
    /// Whether `signature` is one by `key` over `message`. A key whose checksum is wrong has signed nothing.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool;
}

/// Whom a host believes, as it was told when it started: never read from anything that came over the bus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustedKeys {
    /// Accounts that may sign actors. None: nobody was named, and actors need no signature.
    #[serde(default)]
    pub actors: BTreeSet<PublicKey>,
    /// Accounts and operators that may sign policies. None: no policy is accepted.
    #[serde(default)]
    pub policies: BTreeSet<PublicKey>,
}

/// Where the question is asked: what documents may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The lattice.
    pub lattice: &'a LatticeName,
    /// The time, and how far it can be relied on.
    pub time: clock::Time,
}

#[cfg(test)]
pub(crate) mod testing {
    //! Keys and signatures for tests: a hash instead of a curve.

    use super::*;
    use sha2::Digest as _;

    /// Some key of a kind; another for each letter.
    pub(crate) fn key(kind: char, letter: char) -> PublicKey {
        PublicKey::new(format!("{kind}{}", letter.to_string().repeat(KEY_CHARS - 1))).unwrap()
    }

    /// "Signs" like the owner of `key`.
    pub(crate) fn sign(key: &PublicKey, message: &[u8]) -> Vec<u8> {
        let half = sha2::Sha256::new().chain_update(key.as_str()).chain_update(message).finalize();
        half.iter().chain(half.iter()).copied().collect()
    }

    /// Checks what [`sign`] made.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Hashes;

    impl Verify for Hashes {
        fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
            sign(key, message) == signature
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_by_form() {
        let good = format!("A{}", "B7".repeat(27) + "C");
        assert_eq!(PublicKey::new(good.clone()).unwrap().kind(), KeyKind::Account);
        assert_eq!(testing::key('M', 'X').kind().as_str(), "module");
        for bad in ["", "A", &good.to_lowercase(), &format!("S{}", &good[1..]), &format!("{good}A"), &good.replace('7', "1")] {
            assert!(PublicKey::new(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<PublicKey>(r#""UABC""#).is_err());
    }
}
