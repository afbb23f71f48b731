//! Compiled code, handed from row to row.
//!
//! A host keeps what it compiled in the folder `cache` of its data folder, with the key of its own that it was sealed with;
//! whoever gets all of that folder can use it.

use std::path::Path;
use std::process::Command;

/// Name of the folder in a host's data folder.
const FOLDER: &str = "cache";

/// Gives the host in `data_dir`, which has not been started yet, what there is in `cache`.
pub(crate) fn lay_out(cache: &Path, data_dir: &Path) {
    std::fs::create_dir_all(data_dir).expect("a folder");
    if cache.join(FOLDER).exists() {
        copy(&cache.join(FOLDER), data_dir);
    }
}

/// Keeps what `first` compiled; once there is something, what `later` has, which began with that and has more.
pub(crate) fn keep(first: &Path, later: &Path, cache: &Path) {
    let kept = cache.join(FOLDER);
    let from = if kept.exists() { later } else { first };
    let _ = std::fs::remove_dir_all(&kept);
    copy(&from.join(FOLDER), cache);
}

fn copy(folder: &Path, into: &Path) {
    let copied = Command::new("cp").arg("-a").arg(folder).arg(into).status().expect("cp runs");
    assert!(copied.success(), "{} can be copied", folder.display());
}
