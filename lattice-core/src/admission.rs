//! May this code run here, and is everything there that it needs?
//!
//! Pure questions about the names that a component imports and exports. Whether the bytes are a valid component is the
//! compiler's to say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::contract::Contract;

/// Largest component in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 20 * 1024 * 1024;

/// Packages of WASI 0.2 whose interfaces every actor may import; nothing stands behind the dangerous ones.
const BASE_PACKAGES: [&str; 6] = ["wasi:cli", "wasi:clocks", "wasi:io", "wasi:random", "wasi:filesystem", "wasi:sockets"];

/// Exact versions of the draft packages that the host serves; a pre-release matches nothing but itself.
const DRAFTS: [(&str, &[&str]); 5] = [
    ("wasi:config", &["0.2.0-draft", "0.2.0-rc.1"]),
    ("wasi:logging", &["0.1.0-draft", ""]),
    ("wasi:keyvalue", &["0.2.0-draft"]),
    ("wasmcloud:messaging", &["0.2.0"]),
    ("lattice:actor", &["0.1.0"]),
];

/// The outside of a component: full names of interfaces, `wasi:keyvalue/store@0.2.0-draft`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ComponentShape {
    /// What it needs.
    pub imports: BTreeSet<String>,
    /// What it offers.
    pub exports: BTreeSet<String>,
}

/// Why code is refused, whatever links there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// No wasm at all.
    #[error("not a WebAssembly file: it starts with {found}")]
    NotWasm {
        /// The first bytes, in hex.
        found: String,
    },
    /// A core module.
    #[error("a core WebAssembly module, not a component: build it for wasm32-wasip2, or wrap it with `wasm-tools component new`")]
    CoreModule,
    /// Too large.
    #[error("{size} bytes, at most {MAX_COMPONENT_BYTES} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// It exports nothing that could be called.
    #[error("it exports neither wasmcloud:messaging/handler@0.2.0 nor wasi:http/incoming-handler@0.2.x, so nothing could ever call it")]
    NoHandler,
    /// An import that no provider could ever serve.
    #[error("it imports {import}, which no provider serves{}", did_you_mean(.served))]
    UnknownImport {
        /// Its full name.
        import: String,
        /// A version of the same interface that is served.
        served: Option<String>,
    },
}

fn did_you_mean(served: &Option<String>) -> String {
    served.as_ref().map(|name| format!("; {name} is served")).unwrap_or_default()
}

/// Looks at the first bytes: is it wasm, is it a component, is it too large?
///
/// # Errors
/// [`AdmissionError::NotWasm`], [`AdmissionError::CoreModule`], [`AdmissionError::TooLarge`].
pub fn check_preamble(bytes: &[u8]) -> Result<(), AdmissionError> {
    const MAGIC: &[u8] = b"\0asm";
    const COMPONENT_LAYER: &[u8] = &[0x0d, 0x00, 0x01, 0x00];
    const CORE_VERSION: &[u8] = &[0x01, 0x00, 0x00, 0x00];
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > MAX_COMPONENT_BYTES {
        return Err(AdmissionError::TooLarge { size });
    }
    let (magic, rest) = bytes.split_at(bytes.len().min(MAGIC.len()));
    let version = rest.get(..4).unwrap_or_default();
    match (magic, version) {
        (MAGIC, COMPONENT_LAYER) => Ok(()),
        (MAGIC, CORE_VERSION) => Err(AdmissionError::CoreModule),
        _ => {
            let found = if bytes.is_empty() { "nothing".to_owned() } else { crate::id::hex(bytes.get(..8).unwrap_or(bytes)) };
            Err(AdmissionError::NotWasm { found })
        }
    }
}

/// Whether a component of this shape could run here if it had the right links.
///
/// # Errors
/// [`AdmissionError::NoHandler`], [`AdmissionError::UnknownImport`].
pub fn check_shape(shape: &ComponentShape) -> Result<(), AdmissionError> {
    if let Some(import) = shape.imports.iter().find(|import| !is_servable(import)) {
        return Err(AdmissionError::UnknownImport { import: import.clone(), served: served_version(import) });
    }
    if !exports_contract(shape, Contract::Messaging) && !exports_contract(shape, Contract::HttpServer) {
        return Err(AdmissionError::NoHandler);
    }
    Ok(())
}

/// Imports that need a link of a contract which is not in `linked`, without versions: `wasi:keyvalue/store`.
pub fn missing_links(shape: &ComponentShape, linked: &BTreeSet<Contract>) -> Vec<String> {
    let mut missing: Vec<String> = shape
        .imports
        .iter()
        .filter(|import| needed_contract(import).is_some_and(|contract| !linked.contains(&contract)))
        .map(|import| without_version(import).to_owned())
        .collect();
    // `store` is what people know; it stands for the others of its package.
    missing.sort_by_key(|name| (!name.ends_with("/store"), name.clone()));
    missing
}

/// Whether the component exports an interface of `contract`.
pub fn exports_contract(shape: &ComponentShape, contract: Contract) -> bool {
    shape.exports.iter().any(|export| {
        split(export).is_some_and(|(package, interface, version)| {
            contract.package() == package && contract.exports().contains(&interface) && version_is_served(package, version)
        })
    })
}

/// The contract whose link an import needs; none for what every actor has.
fn needed_contract(import: &str) -> Option<Contract> {
    let (package, interface, _) = split(import)?;
    Contract::ALL.into_iter().find(|contract| contract.package() == package && contract.imports().contains(&interface))
}

fn is_servable(import: &str) -> bool {
    let Some((package, interface, version)) = split(import) else { return false };
    let known = BASE_PACKAGES.contains(&package)
        || needed_contract(import).is_some()
        || matches!(
            (package, interface),
            ("wasi:config", "store") | ("wasi:logging", "logging") | ("wasi:http" | "wasmcloud:messaging", "types")
        );
    known && version_is_served(package, version)
}

fn version_is_served(package: &str, version: &str) -> bool {
    match DRAFTS.iter().find(|(draft, _)| *draft == package) {
        Some((_, versions)) => versions.contains(&version),
        None => version.strip_prefix("0.2.").is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit())),
    }
}

fn served_version(import: &str) -> Option<String> {
    let (package, interface, _) = split(import)?;
    let version = DRAFTS.iter().find(|(draft, _)| *draft == package).and_then(|(_, versions)| versions.first()).unwrap_or(&"0.2.0");
    let served = format!("{package}/{interface}@{version}");
    is_servable(&served).then_some(served)
}

fn split(name: &str) -> Option<(&str, &str, &str)> {
    let (package, rest) = name.split_once('/')?;
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    Some((package, interface, version))
}

fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(imports: &[&str], exports: &[&str]) -> ComponentShape {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ComponentShape { imports: set(imports), exports: set(exports) }
    }

    const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";

    #[test]
    fn preambles() {
        let check = |bytes: &[u8], expected: &str| assert!(check_preamble(bytes).unwrap_err().to_string().contains(expected), "{bytes:?}");
        check(b"", "starts with nothing");
        check(b"hello", "starts with 68656c6c6f");
        check(b"\0asm\x01\0\0\0", "core WebAssembly module");
        check(&vec![0; 20 * 1024 * 1024 + 1], "at most 20971520");
        assert!(check_preamble(b"\0asm\x0d\0\x01\0").is_ok());
    }

    #[test]
    fn shapes() {
        let check = |imports: &[&str], exports: &[&str], expected: Option<&str>| {
            let found = check_shape(&shape(imports, exports)).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?}"),
            }
        };
        check(&["wasi:io/streams@0.2.6", "wasi:keyvalue/store@0.2.0-draft"], &[HANDLER], None);
        check(&["lattice:actor/store@0.1.0"], &[HANDLER], None);
        check(&["lattice:actor/store@0.2.0"], &[HANDLER], Some("lattice:actor/store@0.1.0 is served"));
        check(&["wasi:filesystem/types@0.2.6"], &["wasi:http/incoming-handler@0.2.2"], None);
        check(&["wasi:keyvalue/store@0.2.0-draft2"], &[HANDLER], Some("wasi:keyvalue/store@0.2.0-draft is served"));
        check(&["wasmcloud:messaging/consumer@0.3.0"], &[HANDLER], Some("wasmcloud:messaging/consumer@0.2.0 is served"));
        check(&["wasi:io/streams@0.3.0"], &[HANDLER], Some("no provider serves"));
        check(&["acme:gpio/pins@1.0.0"], &[HANDLER], Some("acme:gpio/pins@1.0.0"));
        check(&["some-func"], &[HANDLER], Some("some-func"));
        check(&[], &["wasi:cli/run@0.2.0"], Some("neither"));
        check(&[], &["wasmcloud:messaging/handler@0.3.0"], Some("neither"));
    }

    #[test]
    fn what_waits_for_links() {
        let shape = shape(
            &[
                "wasi:keyvalue/atomics@0.2.0-draft",
                "wasi:keyvalue/store@0.2.0-draft",
                "wasmcloud:messaging/consumer@0.2.0",
                "wasmcloud:messaging/types@0.2.0",
            ],
            &[HANDLER],
        );
        assert_eq!(
            missing_links(&shape, &BTreeSet::new()),
            ["wasi:keyvalue/store", "wasi:keyvalue/atomics", "wasmcloud:messaging/consumer"]
        );
        assert_eq!(missing_links(&shape, &BTreeSet::from([Contract::KeyValue])), ["wasmcloud:messaging/consumer"]);
        assert!(missing_links(&shape, &BTreeSet::from([Contract::KeyValue, Contract::Messaging])).is_empty());
        let system = self::shape(&["lattice:actor/store@0.1.0"], &[HANDLER]);
        assert_eq!(missing_links(&system, &BTreeSet::from([Contract::KeyValue])), ["lattice:actor/store"]);
        assert!(missing_links(&system, &BTreeSet::from([Contract::Store])).is_empty());
    }
}
