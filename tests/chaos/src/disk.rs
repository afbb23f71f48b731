//! File systems of a row's own: a small one that fills up, and one in a file that can be copied at any moment, as a power cut
//! would leave it. Both need root; a row without them is skipped, and says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system. Dropped, it is unmounted.
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// An empty file system in memory with so many MiB.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub(crate) fn in_memory(folder: &Path, megabytes: u32) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "lattice-chaos"], folder)
    }

    /// An empty file system in the new file `image` with so many MiB.
    ///
    /// # Errors
    /// It cannot be made or mounted here.
    pub(crate) fn in_file(folder: &Path, image: &Path, megabytes: u32) -> Result<Self, String> {
        let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
        file.set_len(u64::from(megabytes) * 1024 * 1024).map_err(|error| error.to_string())?;
        call(Command::new("mkfs.ext4").arg("-q").arg(image))?;
        Self::of_file(folder, image)
    }

    /// The file system in `image`, as it is.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub(crate) fn of_file(folder: &Path, image: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        run("mount", &["-o", "loop", image.to_str().ok_or("a folder that is no UTF-8")?], folder)
    }

    /// The root of it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, so that whoever still has a file open does not keep it mounted.
        let _ = call(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<Disk, String> {
    call(Command::new(program).args(arguments).arg(folder))?;
    Ok(Disk { folder: folder.to_owned() })
}

fn call(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
