//! What the processes of a row have logged, for whoever wants to know why something did not hold.

use std::path::{Path, PathBuf};

/// Copies every log below `from` to `to`, a name for each made of where it was. What cannot be copied is left out.
pub(crate) fn keep(from: &Path, to: &Path) {
    if std::fs::create_dir_all(to).is_err() {
        return;
    }
    for path in files(from) {
        let Some(place) = path.strip_prefix(from).ok().filter(|_| path.extension().is_some_and(|extension| extension == "log")) else {
            continue;
        };
        let name = place.to_string_lossy().replace('/', "-");
        let _ = std::fs::copy(&path, to.join(name));
    }
}

/// All files below a folder, in order.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
