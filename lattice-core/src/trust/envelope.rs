//! A signed document: one line that says who signed it, and the exact bytes that were signed.
//!
//! ```text
//! {"v":1,"issuer":"A…","signature":"…"}
//! {…the document as it was signed…}
//! ```
//!
//! The signature is over a word for the kind of document, a zero byte, and the document.

use serde::{Deserialize, Serialize};

use super::{KeyKind, PublicKey, Verify, base64};
use crate::wire::json;

/// Version of the form above.
const VERSION: u32 = 1;
/// Longest first line in bytes; key and signature need some 180.
const MAX_HEADER_BYTES: usize = 512;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A claim about a component.
    Claim,
    /// A policy.
    Policy,
}

impl Purpose {
    /// The word before what is signed: no signature of one kind serves for another, or for anything else that the same key
    /// signs (tokens, logins).
    fn word(self) -> &'static [u8] {
        match self {
            Self::Claim => b"lattice claim 1",
            Self::Policy => b"lattice policy 1",
        }
    }

    /// Kinds of key that may sign it.
    pub fn signers(self) -> &'static [KeyKind] {
        match self {
            Self::Claim => &[KeyKind::Account],
            Self::Policy => &[KeyKind::Account, KeyKind::Operator],
        }
    }
}

/// The bytes that the signature is over.
pub fn signed_bytes(purpose: Purpose, body: &[u8]) -> Vec<u8> {
    [purpose.word(), b"\0", body].concat()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    v: u32,
    issuer: PublicKey,
    signature: String,
}

/// Why bytes are no signed document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// There is no line that says who signed.
    #[error("it has no line that says who signed it")]
    NoHeader,
    /// That line makes no sense.
    #[error("the line that says who signed it makes no sense: {reason}")]
    Header {
        /// Why not.
        reason: String,
    },
    /// A newer form.
    #[error("it has version {found}, this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
}

/// A signed document as it came: whether the signature holds is not said yet, so the document itself stays shut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    issuer: PublicKey,
    signature: Vec<u8>,
    body: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Takes the bytes apart.
    ///
    /// # Errors
    /// [`EnvelopeError`]; nothing of the document itself is looked at.
    pub fn read(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let line = bytes.iter().position(|byte| *byte == b'\n').ok_or(EnvelopeError::NoHeader)?;
        let (header, rest) = bytes.split_at(line);
        let failed = |reason: String| EnvelopeError::Header { reason };
        let header: Header = json::parse(header, MAX_HEADER_BYTES, 1).map_err(|error| failed(error.to_string()))?;
        if header.v != VERSION {
            return Err(EnvelopeError::Version { found: header.v });
        }
        let signature = base64::decode(&header.signature).filter(|signature| signature.len() == SIGNATURE_BYTES);
        let signature = signature.ok_or_else(|| failed("the signature is not 64 bytes of base 64".to_owned()))?;
        Ok(Self { issuer: header.issuer, signature, body: rest.get(1..).unwrap_or_default() })
    }

    /// Who says to have signed it.
    pub fn issuer(&self) -> &PublicKey {
        &self.issuer
    }

    /// The document, if `issuer` really signed it for this purpose.
    pub fn open(&self, purpose: Purpose, verify: &impl Verify) -> Option<&'a [u8]> {
        verify.verify(&self.issuer, &signed_bytes(purpose, self.body), &self.signature).then_some(self.body)
    }

    /// The document without any check: to show it to people, and nothing else.
    pub fn unverified(&self) -> &'a [u8] {
        self.body
    }
}

/// A signed document: `signature` is over [`signed_bytes`] of `body`.
pub fn seal(issuer: &PublicKey, signature: &[u8], body: &[u8]) -> Vec<u8> {
    let header = Header { v: VERSION, issuer: issuer.clone(), signature: base64::encode(signature) };
    // Three plain fields always encode.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    [header.as_slice(), b"\n", body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::{Hashes, key, sign};

    fn sealed(purpose: Purpose, body: &[u8]) -> Vec<u8> {
        let issuer = key('A', 'B');
        seal(&issuer, &sign(&issuer, &signed_bytes(purpose, body)), body)
    }

    #[test]
    fn only_what_was_signed_opens() {
        let bytes = sealed(Purpose::Claim, b"{}\n{}");
        let envelope = Envelope::read(&bytes).unwrap();
        assert_eq!(envelope.open(Purpose::Claim, &Hashes), Some(&b"{}\n{}"[..]));
        assert_eq!(envelope.open(Purpose::Policy, &Hashes), None, "one kind does not serve for another");
        let text = String::from_utf8(bytes).unwrap();
        for changed in [text.replace("{}\n{}", "{}\n{ }"), text.replace(key('A', 'B').as_str(), key('A', 'C').as_str()), format!("{text} ")]
        {
            assert_eq!(Envelope::read(changed.as_bytes()).unwrap().open(Purpose::Claim, &Hashes), None);
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = String::from_utf8(sealed(Purpose::Claim, b"{}")).unwrap();
        let check = |text: &str, part: &str| {
            let found = Envelope::read(text.as_bytes()).unwrap_err().to_string();
            assert!(found.contains(part), "{text}: {found}");
        };
        check("", "no line");
        check(good.lines().next().unwrap(), "no line");
        check(&" ".repeat(MAX_HEADER_BYTES + 1), "no line");
        check(&format!("{}\n", " ".repeat(MAX_HEADER_BYTES + 1)), "at most");
        check("{}\n", "missing field");
        check("{\"v\":[1]}\n", "nested deeper");
        check(&good.replace("\"v\":1", "\"v\":2"), "version 2");
        check(&good.replace("\"v\":1", "\"v\":1,\"alg\":\"none\""), "unknown field `alg`");
        check(&good.replace("\"v\":1", "\"v\":1,\"v\":1"), "duplicate field");
        check(&good.replace("\"signature\":\"", "\"signature\":\"A"), "64 bytes");
        check("{\"v\":1,\"issuer\":\"x\",\"signature\":\"\"}\n", "no public nkey");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Ok(envelope) = Envelope::read(&bytes) {
                proptest::prop_assert_eq!(envelope.open(Purpose::Policy, &Hashes), None);
            }
        }
    }
}
