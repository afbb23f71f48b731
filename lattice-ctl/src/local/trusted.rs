//! Whose actors the hosts that `up` started on this machine run, so that a refusal can be told before anything is sent.
//!
//! Hosts decide for themselves. What is not known here, of a lattice elsewhere or of hosts that were started by hand, is left
//! to them; then they say so, and the command that waits for them does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lattice_core::trust::PublicKey;
use serde::Deserialize;

use super::context;
use super::folder::Folder;

/// Largest file of trust settings that is read, in bytes: 256 keys have some 16 KiB.
const MAX_BYTES: u64 = 256 * 1024;

/// The part of the trust settings in a data folder that is looked at here.
#[derive(Deserialize)]
struct Kept {
    #[serde(default)]
    issuers: Option<BTreeSet<PublicKey>>,
    #[serde(default)]
    signer: Option<PathBuf>,
}

/// Whose actors hosts run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// Accounts that were named.
    pub(crate) issuers: BTreeSet<PublicKey>,
    /// The key file that signs lattice's own actors, whose key counts as well.
    pub(crate) signer: PathBuf,
}

/// Whose actors the hosts behind the server at `url` run; none if any actor runs there, or if it is not known.
pub(crate) fn at(url: &str) -> Option<Trusted> {
    kept(&context::folder_at(url)?)
}

fn kept(folder: &Folder) -> Option<Trusted> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(folder.root().join("trust.json")).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    let kept: Kept = serde_json::from_str(&text).ok()?;
    let issuers = kept.issuers.filter(|issuers| !issuers.is_empty())?;
    Some(Trusted { issuers, signer: kept.signer.unwrap_or_else(|| folder.root().join("keys").join("lattice.nk")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::LatticeName;

    #[test]
    fn only_named_issuers_count() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(root.path()), &LatticeName::new("default").unwrap()).unwrap();
        let key = format!("A{}", "B".repeat(55));
        assert_eq!(kept(&folder), None);
        let check = |text: &str, expected: usize| {
            std::fs::write(folder.root().join("trust.json"), text).unwrap();
            assert_eq!(kept(&folder).map_or(0, |trusted| trusted.issuers.len()), expected, "{text}");
        };
        check("{}", 0);
        check(r#"{"issuers":[]}"#, 0);
        check(r#"{"issuers":["nobody"]}"#, 0);
        check(&format!(r#"{{"issuers":["{key}"],"preset":"deny"}}"#), 1);
    }
}
