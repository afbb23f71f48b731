//! Which nats-server to start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ServerError;

/// Names the program to start, before any other place is looked at.
const PROGRAM_VARIABLE: &str = "LATTICE_NATS_SERVER";
/// Name of the program.
const PROGRAM: &str = "nats-server";
/// Oldest version whose atomic batches and consumers we rely on.
const OLDEST: (u32, u32) = (2, 14);

/// Finds a nats-server that is new enough: `explicit`, else `$LATTICE_NATS_SERVER`, else the first that fits of: beside
/// this program, on `PATH`, in `./.tools`.
///
/// # Errors
/// [`ServerError::Unusable`] if the one that was named is too old or no nats-server, [`ServerError::NotFound`] if there is
/// none.
pub fn find_server(explicit: Option<&Path>) -> Result<PathBuf, ServerError> {
    let named =
        explicit.map(Path::to_owned).or_else(|| std::env::var_os(PROGRAM_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
    if let Some(path) = named {
        return usable(path);
    }
    let mut refused = None;
    for path in candidates().into_iter().filter(|path| path.is_file()) {
        match usable(path) {
            Ok(path) => return Ok(path),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| ServerError::NotFound {
        tried: vec![format!("${PROGRAM_VARIABLE}"), "the folder of this program".to_owned(), "$PATH".to_owned(), "./.tools".to_owned()],
    }))
}

fn candidates() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(std::env::split_paths(&path)).chain([PathBuf::from(".tools")]).map(|folder| folder.join(PROGRAM)).collect()
}

fn usable(path: PathBuf) -> Result<PathBuf, ServerError> {
    let unusable = |reason: String| ServerError::Unusable { path: path.clone(), reason };
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or_else(|| unusable("it does not say its version".to_owned()))?;
    if version < OLDEST {
        return Err(unusable(format!("it has version {}.{}, at least {}.{} is needed", version.0, version.1, OLDEST.0, OLDEST.1)));
    }
    Ok(path)
}

/// Major and minor number of `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.split_once("nats-server: v")?;
    let mut numbers = version.trim().split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse_version("something else"), None);
        assert!((2, 9) < OLDEST && (2, 14) >= OLDEST && (3, 0) > OLDEST);
    }

    #[test]
    fn a_program_that_was_named_is_not_replaced_by_another() {
        let refused = find_server(Some(Path::new("/no/such/nats-server"))).unwrap_err();
        assert!(refused.to_string().contains("/no/such/nats-server"), "{refused}");
        let refused = find_server(Some(Path::new("/bin/true"))).unwrap_err();
        assert!(matches!(refused, ServerError::Unusable { .. }), "{refused}");
    }
}
