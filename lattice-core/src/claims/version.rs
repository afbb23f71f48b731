//! Versions of signed code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Highest number in a version. Whoever signs a version near the end of numbers shuts out every later one.
const MAX_PART: u32 = 999_999;

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version `{text}` is not one to three numbers up to {MAX_PART}, like 1.4.0 (builds of one version are told apart by --rev)")]
pub struct InvalidVersion {
    /// The text, escaped and cut.
    pub text: String,
}

/// `1.4.0`: numbers only, so that everybody agrees on which of two is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version([u32; 3]);

impl Version {
    /// The first one, for who names none.
    pub const FIRST: Self = Self([0, 1, 0]);
}

impl FromStr for Version {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = || InvalidVersion { text: text.chars().take(40).flat_map(char::escape_debug).collect() };
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            let Some(part) = parts.next() else { break };
            let plain = part.bytes().all(|b| b.is_ascii_digit());
            *number = part.parse().ok().filter(|number| plain && *number <= MAX_PART).ok_or_else(invalid)?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(numbers)) }
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidVersion;
    fn try_from(text: String) -> Result<Self, InvalidVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(text.parse::<Version>().ok().map(|version| version.to_string()).as_deref(), expected, "{text}");
        };
        check("1", Some("1.0.0"));
        check("1.4", Some("1.4.0"));
        check("1.4.10", Some("1.4.10"));
        check("999999.0.0", Some("999999.0.0"));
        for bad in ["", ".", "1.", "1.2.3.4", "v1", "1.0.0-rc.1", "+1", "1000000", "1.0.1000000", "-1", "18446744073709551616", "１"] {
            check(bad, None);
        }
        let order = |a: &str, b: &str| assert!(a.parse::<Version>().unwrap() < b.parse::<Version>().unwrap(), "{a} < {b}");
        order("0.9.9", "1.0.0");
        order("1.9.0", "1.10.0");
    }
}
