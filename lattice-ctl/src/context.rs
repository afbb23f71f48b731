//! Contexts: named sets of connection settings in `$XDG_CONFIG_HOME/lattice/contexts/<name>.json`, and which of them is
//! current, by its name in the file `current` beside them.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use lattice_core::error::{ErrorCode, Problem, nearest};
use lattice_core::id::{ConfigName as ContextName, LatticeName};
use serde::{Deserialize, Serialize};

use crate::problems;

/// File that holds the name of the current context.
const CURRENT: &str = "current";
/// Largest context file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Settings of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Context {
    /// Address of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nats_url: Option<String>,
    /// Lattice on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lattice: Option<LatticeName>,
    /// Credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Data folder of the `up` that made this context; `down` removes the context with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The folder of contexts.
#[derive(Debug, Clone)]
pub(crate) struct Contexts {
    folder: PathBuf,
}

impl Contexts {
    /// The user's own; none if there is no home folder.
    pub(crate) fn of_user(env: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let config = env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(Self { folder: config.join("lattice").join("contexts") })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of all contexts in ascending order.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<ContextName>, Problem> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(problems::path("contexts folder", &self.folder, &error)),
        };
        let files = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<ContextName> = files.filter_map(|file| ContextName::new(file.strip_suffix(".json")?).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The context `name`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub(crate) fn read(&self, name: &ContextName) -> Result<Option<Context>, Problem> {
        let path = self.path(name);
        match read_text(&path) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => {
                let context =
                    serde_json::from_str(&text).map_err(|error| problems::usage(format!("context {}: {error}", path.display())))?;
                Ok(Some(context))
            }
            Err(error) => Err(problems::path("context", &path, &error)),
        }
    }

    /// The context `name`, which must exist.
    ///
    /// # Errors
    /// `context not found`, with the nearest.
    pub(crate) fn find(&self, name: &str) -> Result<(ContextName, Context), Problem> {
        let found = match ContextName::new(name) {
            Ok(name) => self.read(&name)?.map(|context| (name, context)),
            Err(error) => return Err(problems::name(&error)),
        };
        let Some(found) = found else {
            let names = self.names()?;
            let hint = match nearest(name, names.iter().map(ContextName::as_str)) {
                Some(near) => format!("did you mean {near}? `lattice-ctl ctx list` lists all"),
                None => "`lattice-ctl ctx list` lists all".to_owned(),
            };
            return Err(Problem::new(ErrorCode::NotFound, format!("context not found: {name}")).hint(hint));
        };
        Ok(found)
    }

    /// Name of the current context, whether or not it exists.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub(crate) fn current(&self) -> Result<Option<ContextName>, Problem> {
        let path = self.folder.join(CURRENT);
        let text = read_text(&path).map_err(|error| problems::path("current context", &path, &error))?;
        Ok(text.and_then(|text| ContextName::new(text.trim()).ok()))
    }

    /// Writes a context over the one of the same name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, name: &ContextName, context: &Context) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(context).map_err(|error| problems::failed("writing a context", &error))?;
        self.replace(&self.path(name), &format!("{text}\n"))
    }

    /// Makes a context current.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(crate) fn make_current(&self, name: &ContextName) -> Result<(), Problem> {
        self.replace(&self.folder.join(CURRENT), &format!("{name}\n"))
    }

    /// Removes a context; if it was current, none is.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn delete(&self, name: &ContextName) -> Result<(), Problem> {
        if self.current()?.as_ref() == Some(name) {
            remove(&self.folder.join(CURRENT))?;
        }
        remove(&self.path(name))
    }

    fn path(&self, name: &ContextName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn replace(&self, path: &Path, text: &str) -> Result<(), Problem> {
        let draft = path.with_extension(format!("new-{}", std::process::id()));
        let write = || {
            std::fs::create_dir_all(&self.folder)?;
            std::fs::write(&draft, text)?;
            std::fs::rename(&draft, path)
        };
        write().map_err(|error| problems::path("context", path, &error))
    }
}

fn remove(path: &Path) -> Result<(), Problem> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(problems::path("context", path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_text(path: &Path) -> std::io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(folder: &Path) -> Contexts {
        let home = folder.to_str().unwrap().to_owned();
        Contexts::of_user(&move |name| (name == "HOME").then(|| home.clone())).unwrap()
    }

    #[test]
    fn written_found_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let contexts = contexts(folder.path());
        assert!(contexts.names().unwrap().is_empty() && contexts.current().unwrap().is_none());
        let name = ContextName::new("edge").unwrap();
        let context = Context { nats_url: Some("nats://hub".into()), ..Context::default() };
        contexts.write(&name, &context).unwrap();
        contexts.make_current(&name).unwrap();
        assert_eq!(contexts.find("edge").unwrap(), (name.clone(), context));
        assert_eq!(contexts.current().unwrap(), Some(name.clone()));
        assert_eq!(contexts.find("other").unwrap_err().hint.unwrap(), "`lattice-ctl ctx list` lists all");
        assert!(contexts.find("edg").unwrap_err().hint.unwrap().contains("did you mean edge"));
        assert!(contexts.find("../x").is_err());
        contexts.delete(&name).unwrap();
        assert!(contexts.names().unwrap().is_empty() && contexts.current().unwrap().is_none());
    }
}
