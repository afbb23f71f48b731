//! Names and numbers with a meaning of their own.
//!
//! Every name is checked when it is made, so that no later code has to: a value of these types can stand in a subject, a
//! key or a file name as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name in bytes: it is one token of a subject, one part of a key and often a file name.
pub const MAX_NAME_BYTES: usize = 63;

/// Why a text is no valid name. The message names the thing and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` {reason}")]
pub struct InvalidName {
    /// What the name would have been for: `actor id`, `host name`, …
    pub what: &'static str,
    /// The text, escaped and cut so that it can be shown.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        let text: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        Self { what, text, reason }
    }
}

fn check_token(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let reason = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME_BYTES {
        "is longer than 63 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        "may only hold letters, digits, `_` and `-`"
    } else {
        return Ok(());
    };
    Err(InvalidName::new(what, text, reason))
}

fn check_host_id(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let is_nkey = text.len() == 56 && text.starts_with('N') && text.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b));
    if is_nkey { Ok(()) } else { Err(InvalidName::new(what, text, "is no server nkey (N and 55 characters of A-Z2-7)")) }
}

fn check_digest(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let is_digest = text
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    if is_digest { Ok(()) } else { Err(InvalidName::new(what, text, "is not `sha256:` and 64 lower-case hex digits")) }
}

/// How a checked text is shown, and its ways from and to plain text, for a type of one `String` with a `new` that checks.
macro_rules! conversions {
    ($type:ident, $error:ty) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(text: $type) -> String {
                text.0
            }
        }
    };
}
pub(crate) use conversions;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                $check($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        conversions!($type, InvalidName);

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(/// Id of an actor, `[A-Za-z0-9_-]{1,63}`; the article's `MBCF…` fits.
    ActorId, "actor id", check_token);
name!(/// Id of a provider, same alphabet as an actor's.
    ProviderId, "provider id", check_token);
name!(/// Identity of a host: the public part of its server nkey, `N…`.
    HostId, "host id", check_host_id);
name!(/// Name that people give a host, `NEDGE01`; unique in a lattice as long as people keep it so.
    HostName, "host name", check_token);
name!(/// Name of a lattice: one token of a subject.
    LatticeName, "lattice name", check_token);
name!(/// A region, from the host label `region`; one token of a subject.
    Region, "region", check_token);
name!(/// Name of a link; a source may have several links of one contract under different names.
    LinkName, "link name", check_token);
name!(/// Name of a set of configuration values.
    ConfigName, "config name", check_token);
name!(/// Name of a bucket, a stream or a durable consumer.
    BucketName, "bucket name", check_token);
name!(/// One start of a host process: a new one each time, so that a stale message can be told from a fresh one.
    Incarnation, "incarnation", check_token);
name!(/// Digest of a component: `sha256:<hex>`.
    Digest, "digest", check_digest);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_sha256(&sha2::Sha256::digest(bytes))
    }

    /// The digest whose 32 bytes were computed elsewhere.
    pub(crate) fn from_sha256(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(bytes)))
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(/// Number of a plan; each committed plan has one more than its parent. 0: none yet.
    Generation);
number!(/// Last sequence of a control stream that a decision was based on.
    Revision);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, ok: bool| assert_eq!(ActorId::new(text).is_ok(), ok, "{text:?}");
        check("edge-processor", true);
        check("MBCFOPNG6DDWUTJYEQVP5A7PV7Y4MFSH5I2I2R4", true);
        check(&"a".repeat(63), true);
        for bad in ["", "a b", "a.b", "*", ">", "a\n", "../../etc", "é", "а", &"a".repeat(64)] {
            check(bad, false);
        }
        assert_eq!(ActorId::new("a b").unwrap_err().to_string(), "actor id `a b` may only hold letters, digits, `_` and `-`");
    }

    #[test]
    fn digest_of_the_empty_text() {
        assert_eq!(Digest::of(b"").hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(Digest::new("sha256:00").is_err());
    }

    #[test]
    fn names_are_checked_on_the_wire() {
        assert!(serde_json::from_str::<HostName>(r#""a.b""#).is_err());
        assert_eq!(serde_json::from_str::<HostName>(r#""NEDGE01""#).unwrap().as_str(), "NEDGE01");
    }
}
