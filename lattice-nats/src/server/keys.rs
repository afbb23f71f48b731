//! The three users of a server that we start: nkey seeds in files of mode 0600, kept from start to start.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{ServerError, make_private_folder, write_private};

/// Folder below the data folder.
const FOLDER: &str = "creds";
/// A seed has 58 characters; whoever puts more there meant something else.
const MAX_SEED_BYTES: u64 = 1024;

/// Public keys of the users.
#[derive(Debug)]
pub(super) struct Users {
    /// May do everything in the lattice's account.
    pub(super) operator: String,
    /// May do what a host needs.
    pub(super) node: String,
    /// May do what a host needs that runs lattice's own actors.
    pub(super) control: String,
}

impl Users {
    /// Reads `creds/operator.nk`, `creds/node.nk` and `creds/control.nk`, making what is missing.
    pub(super) fn load_or_create(data_dir: &Path) -> Result<Self, ServerError> {
        let folder = data_dir.join(FOLDER);
        make_private_folder(&folder)?;
        let user = |name: &str| public_key(&folder.join(name));
        Ok(Self { operator: user("operator.nk")?, node: user("node.nk")?, control: user("control.nk")? })
    }
}

fn public_key(path: &Path) -> Result<String, ServerError> {
    let at = |source| ServerError::Folder { path: path.to_owned(), source };
    let invalid = |error: nkeys::error::Error| ServerError::Key { path: path.to_owned(), reason: error.to_string() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pair = nkeys::KeyPair::new_user();
            write_private(path, format!("{}\n", pair.seed().map_err(invalid)?).as_bytes())?;
            return Ok(pair.public_key());
        }
        Err(source) => return Err(at(source)),
    };
    let mut seed = String::new();
    file.take(MAX_SEED_BYTES).read_to_string(&mut seed).map_err(at)?;
    let pair = nkeys::KeyPair::from_seed(seed.trim()).map_err(invalid)?;
    if pair.key_pair_type() != nkeys::KeyPairType::User {
        return Err(ServerError::Key { path: path.to_owned(), reason: "holds a key of another kind, not a user's".to_owned() });
    }
    Ok(pair.public_key())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_stay_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Users::load_or_create(folder.path()).unwrap();
        let second = Users::load_or_create(folder.path()).unwrap();
        assert_eq!((&first.operator, &first.node, &first.control), (&second.operator, &second.node, &second.control));
        assert!(first.operator != first.node && first.operator != first.control && first.node != first.control);
        for name in ["operator.nk", "node.nk", "control.nk"] {
            let mode = std::fs::metadata(folder.path().join("creds").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(folder.path().join("creds/node.nk"), "nonsense").unwrap();
        assert!(matches!(Users::load_or_create(folder.path()), Err(ServerError::Key { .. })));
    }
}
