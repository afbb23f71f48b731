//! Contracts: what a link is about, in the seed's spelling (`wasmcloud:keyvalue`) or as a WIT interface
//! (`wasi:keyvalue/store`). Both name the same four things; a fifth, the store of the control plane, is for system actors
//! alone.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of capability that a provider can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contract {
    /// `wasmcloud:keyvalue`, imported as `wasi:keyvalue/{store,atomics,batch}`.
    KeyValue,
    /// `wasmcloud:messaging`, imported as `consumer`, exported as `handler`.
    Messaging,
    /// `wasmcloud:httpserver`, exported as `wasi:http/incoming-handler`.
    HttpServer,
    /// `wasmcloud:httpclient`, imported as `wasi:http/outgoing-handler`.
    HttpClient,
    /// `lattice:store`, imported as `lattice:actor/store`: buckets of the control plane. Only the links of system actors
    /// ([`crate::system`]) have it; no operator can give one.
    Store,
}

/// Why a text names no contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown contract `{text}`: known are wasmcloud:keyvalue, wasmcloud:messaging, wasmcloud:httpserver, wasmcloud:httpclient and the wasi: interfaces they stand for"
)]
pub struct UnknownContract {
    /// The text.
    pub text: String,
}

impl Contract {
    /// All contracts.
    pub const ALL: [Self; 5] = [Self::KeyValue, Self::Messaging, Self::HttpServer, Self::HttpClient, Self::Store];

    /// The seed's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyValue => "wasmcloud:keyvalue",
            Self::Messaging => "wasmcloud:messaging",
            Self::HttpServer => "wasmcloud:httpserver",
            Self::HttpClient => "wasmcloud:httpclient",
            Self::Store => "lattice:store",
        }
    }

    /// The WIT package, without version.
    pub fn package(self) -> &'static str {
        match self {
            Self::KeyValue => "wasi:keyvalue",
            Self::Messaging => "wasmcloud:messaging",
            Self::HttpServer | Self::HttpClient => "wasi:http",
            Self::Store => "lattice:actor",
        }
    }

    /// Interfaces that an actor imports to use it.
    pub fn imports(self) -> &'static [&'static str] {
        match self {
            Self::KeyValue => &["atomics", "batch", "store"],
            Self::Messaging => &["consumer"],
            Self::HttpServer => &[],
            Self::HttpClient => &["outgoing-handler"],
            Self::Store => &["store"],
        }
    }

    /// Interfaces that an actor exports to be called through it.
    pub fn exports(self) -> &'static [&'static str] {
        match self {
            Self::KeyValue | Self::HttpClient | Self::Store => &[],
            Self::Messaging => &["handler"],
            Self::HttpServer => &["incoming-handler"],
        }
    }

    /// Names of the operations that a link's `permissions` may list; an empty list allows all.
    pub fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::KeyValue => &["get", "set", "delete", "exists", "list", "increment", "read", "write"],
            Self::Messaging => &["publish", "request"],
            Self::HttpServer | Self::HttpClient => &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            // What may be written stands with each bucket.
            Self::Store => &[],
        }
    }

    /// Reads either spelling: `wasmcloud:keyvalue`, `wasi:keyvalue`, `wasi:keyvalue/store@0.2.0-draft`, …
    ///
    /// # Errors
    /// [`UnknownContract`] for any other text; `wasi:http` alone is ambiguous and means the server.
    pub fn parse(text: &str) -> Result<Self, UnknownContract> {
        let (path, _version) = text.split_once('@').unwrap_or((text, ""));
        let (package, interface) = path.split_once('/').map_or((path, None), |(package, interface)| (package, Some(interface)));
        let found = match (package, interface) {
            ("wasmcloud:httpserver", None) | ("wasi:http", None) => Some(Self::HttpServer),
            ("wasmcloud:httpclient", None) => Some(Self::HttpClient),
            ("wasmcloud:keyvalue", None) | ("wasi:keyvalue", None) => Some(Self::KeyValue),
            ("wasmcloud:messaging", None) => Some(Self::Messaging),
            ("lattice:store", None) => Some(Self::Store),
            (package, Some(interface)) => Self::of_interface(package, interface),
            _ => None,
        };
        found.ok_or_else(|| UnknownContract { text: text.chars().take(80).flat_map(char::escape_debug).collect() })
    }

    /// The contract that `package/interface` belongs to, imported or exported.
    pub fn of_interface(package: &str, interface: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contract| {
            contract.package() == package && (contract.imports().contains(&interface) || contract.exports().contains(&interface))
        })
    }

    /// Whether all of `interfaces` are ones that an actor exports (so that the provider calls the actor).
    pub fn is_export(self, interfaces: &BTreeSet<String>) -> bool {
        !interfaces.is_empty() && interfaces.iter().all(|name| self.exports().contains(&name.as_str()))
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        let check = |text: &str, expected: Option<Contract>| assert_eq!(Contract::parse(text).ok(), expected, "{text}");
        check("wasmcloud:keyvalue", Some(Contract::KeyValue));
        check("wasi:keyvalue", Some(Contract::KeyValue));
        check("wasi:keyvalue/store@0.2.0-draft", Some(Contract::KeyValue));
        check("wasmcloud:httpserver", Some(Contract::HttpServer));
        check("wasi:http/incoming-handler", Some(Contract::HttpServer));
        check("wasi:http/outgoing-handler@0.2.4", Some(Contract::HttpClient));
        check("wasmcloud:messaging/handler@0.2.0", Some(Contract::Messaging));
        check("lattice:store", Some(Contract::Store));
        check("lattice:actor/store@0.1.0", Some(Contract::Store));
        check("lattice:actor/snapshot@0.1.0", None);
        check("wasi:http/types", None);
        check("wasi:filesystem/types", None);
        check("wasmcloud:messaging/types", None);
    }
}
