//! Which hosts a policy is for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{HostId, HostName, Region};

/// Longest label name or value in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// A host, as scopes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its identity.
    pub id: &'a HostId,
    /// Its name.
    pub name: &'a HostName,
    /// Its region.
    pub region: &'a Region,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Which hosts are meant: `all`, `region=ap-east-1`, `label:tier=edge`, `host=NEDGE01`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// All hosts.
    #[default]
    All,
    /// Hosts of a region.
    Region(Region),
    /// Hosts with a label.
    Label {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// One host, by name or id.
    Host(String),
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scope `{text}` is none of all, region=<region>, label:<name>=<value>, host=<name or id>")]
pub struct InvalidScope {
    /// The text, escaped and cut.
    pub text: String,
}

impl Scope {
    /// Whether `host` is meant.
    pub fn covers(&self, host: &Facts<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Region(region) => region == host.region,
            Self::Label { name, value } => host.labels.get(name) == Some(value),
            Self::Host(text) => text == host.id.as_str() || text == host.name.as_str(),
        }
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;
    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope { text: text.chars().take(80).flat_map(char::escape_debug).collect() };
        let fits = |part: &str| !part.is_empty() && part.len() <= MAX_LABEL_BYTES && !part.chars().any(char::is_control);
        match text.split_once('=') {
            None if text == "all" => Ok(Self::All),
            Some(("region", region)) => Region::new(region).map(Self::Region).map_err(|_| invalid()),
            Some(("host", host)) => HostName::new(host).map(|name| Self::Host(name.into())).map_err(|_| invalid()),
            Some((label, value)) if fits(value) => match label.strip_prefix("label:").filter(|name| fits(name)) {
                Some(name) => Ok(Self::Label { name: name.to_owned(), value: value.to_owned() }),
                None => Err(invalid()),
            },
            Some(_) | None => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;
    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::Region(region) => f.pad(&format!("region={region}")),
            Self::Label { name, value } => f.pad(&format!("label:{name}={value}")),
            Self::Host(host) => f.pad(&format!("host={host}")),
        }
    }
}
