//! Host processes of this machine: the program, the names, the command line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::HostName;
use lattice_core::policy::force::Preset;
use lattice_core::trust::PublicKey;
use tokio::process::{Child, Command};

use super::folder::Folder;
use super::notary::Trust;
use super::settings::Settings;
use super::system::CONTROL_LABEL;
use crate::connection::environment;
use crate::problems;

/// Name of the program.
const PROGRAM: &str = "lattice-host";
/// Names the program before any other place is looked at.
const PROGRAM_VARIABLE: &str = "LATTICE_HOST_BIN";
/// Settings that a host would take from the environment; ours are given as flags.
const HOST_VARIABLES: [&str; 12] = [
    "LATTICE_NATS_URL",
    "LATTICE_CREDS",
    "LATTICE_TLS_CA",
    "LATTICE_LATTICE",
    "LATTICE_HOST_NAME",
    "LATTICE_DATA_DIR",
    "LATTICE_CPU_CAPACITY",
    "LATTICE_MEMORY_CAPACITY",
    "LATTICE_TRUST_ACTORS",
    "LATTICE_TRUST_POLICIES",
    "LATTICE_POLICY_DEFAULT",
    "WASMCLOUD_LATTICE",
];
/// Highest number in a host's name.
const MAX_NUMBER: u32 = 99_999;

/// Finds the program of the hosts: `$LATTICE_HOST_BIN`, else beside this program, else on `PATH`.
///
/// # Errors
/// Says where it was looked for.
pub(crate) fn find_program() -> Result<PathBuf, Problem> {
    if let Some(named) = environment(PROGRAM_VARIABLE) {
        let path = PathBuf::from(&named);
        return if path.is_file() {
            Ok(absolute(path))
        } else {
            Err(missing(&format!("{PROGRAM_VARIABLE} names {named}, which is no file")))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let folders = beside.into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>());
    let found = folders.map(|folder| folder.join(PROGRAM)).find(|path| path.is_file());
    found.map(absolute).ok_or_else(|| missing(&format!("no {PROGRAM} beside this program or on PATH")))
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn missing(message: &str) -> Problem {
    Problem::new(ErrorCode::NotFound, message).hint(format!("build it (`make build`), or give its path in {PROGRAM_VARIABLE}"))
}

/// Names for `count` hosts: those that have data here come first, new ones get the lowest numbers that nobody has.
///
/// # Errors
/// If the beginning is no beginning of a host's name.
pub(crate) fn names(prefix: &str, count: u32, known: &[HostName], taken: &BTreeSet<HostName>) -> Result<Vec<HostName>, Problem> {
    let mut names: Vec<HostName> = Vec::new();
    for number in 1..=MAX_NUMBER {
        if names.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
            break;
        }
        let name = HostName::new(format!("{prefix}{number:02}")).map_err(|error| problems::name(&error))?;
        if known.contains(&name) || !taken.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// How a host reaches the server.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Address.
    pub(crate) url: String,
    /// Credentials.
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust.
    pub(crate) tls_ca: Option<PathBuf>,
    /// Whether it may do what a host of the control plane's actors has to.
    pub(crate) control: bool,
    /// The key that signs lattice's own actors.
    pub(crate) notary: Option<PublicKey>,
}

/// Starts the host with this number, counted from 0, in a process group of its own, so that Ctrl-C reaches only whoever looks after it.
///
/// # Errors
/// If the program cannot be started or its log not be opened.
pub(crate) fn spawn(name: &HostName, number: usize, settings: &Settings, access: &Access, folder: &Folder) -> Result<Child, Problem> {
    let log = folder.open_log(name.as_str())?;
    let path = folder.log(name.as_str());
    let log_too = log.try_clone().map_err(|error| problems::path("log", &path, &error))?;
    let mut command = Command::new(&settings.host_program);
    command.arg("--nats-url").arg(&access.url).arg("--lattice").arg(settings.lattice.as_str()).arg("--name").arg(name.as_str());
    command.arg("--data-dir").arg(folder.host(name));
    if let Some(creds) = &access.creds {
        command.arg("--creds").arg(creds);
    }
    if let Some(tls_ca) = &access.tls_ca {
        command.arg("--tls-ca").arg(tls_ca);
    }
    for (key, value) in &settings.labels {
        command.arg("--label").arg(format!("{key}={value}"));
    }
    if access.control {
        let (label, value) = CONTROL_LABEL;
        command.arg("--label").arg(format!("{label}={value}"));
    }
    command.args(settings.turns.flags(number)).args(trust_flags(&settings.trust, access.notary.as_ref()));
    for variable in HOST_VARIABLES {
        command.env_remove(variable);
    }
    let command = command.stdin(Stdio::null()).stdout(Stdio::from(log)).stderr(Stdio::from(log_too)).process_group(0);
    command.spawn().map_err(|error| problems::path("host program", &settings.host_program, &error))
}

/// Flags of the program that say whom to trust.
fn trust_flags(trust: &Trust, notary: Option<&PublicKey>) -> Vec<String> {
    let list = |keys: Vec<&PublicKey>| match keys.as_slice() {
        [] => "off".to_owned(),
        keys => keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(","),
    };
    let mut flags = Vec::new();
    if let Some(issuers) = &trust.issuers {
        flags.extend(["--trust-actors".to_owned(), list(issuers.iter().chain(notary).collect())]);
        flags.extend(["--trust-policies".to_owned(), list(issuers.iter().collect())]);
    }
    if let Some(preset) = trust.preset {
        let word = match preset {
            Preset::Open => "open",
            Preset::Deny => "deny",
        };
        flags.extend(["--policy-default".to_owned(), word.to_owned()]);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_signed_by_whom_the_operator_names_and_nobody_else() {
        let key = |letter: &str| PublicKey::new(format!("A{}", letter.repeat(55))).unwrap();
        let (named, own) = (key("A"), key("B"));
        let trust = Trust { issuers: Some([named.clone()].into()), preset: Some(Preset::Deny), signer: None };
        let expected = format!("--trust-actors {named},{own} --trust-policies {named} --policy-default deny");
        assert_eq!(trust_flags(&trust, Some(&own)).join(" "), expected);
        let off = Trust { issuers: Some([].into()), ..Trust::default() };
        assert_eq!(trust_flags(&off, None).join(" "), "--trust-actors off --trust-policies off");
        assert!(trust_flags(&Trust::default(), None).is_empty());
    }

    #[test]
    fn names_are_kept_and_never_somebody_elses() {
        let name = |text: &str| HostName::new(text).unwrap();
        let check = |count: u32, known: &[&str], taken: &[&str], expected: &[&str]| {
            let known: Vec<HostName> = known.iter().map(|text| name(text)).collect();
            let taken = taken.iter().map(|text| name(text)).collect();
            let found = names("NEDGE", count, &known, &taken).unwrap();
            assert_eq!(found.iter().map(HostName::as_str).collect::<Vec<_>>(), expected);
        };
        check(2, &[], &[], &["NEDGE01", "NEDGE02"]);
        check(2, &["NEDGE01"], &["NEDGE01"], &["NEDGE01", "NEDGE02"]);
        check(2, &[], &["NEDGE01"], &["NEDGE02", "NEDGE03"]);
        check(0, &[], &[], &[]);
        assert!(names("a.b", 1, &[], &BTreeSet::new()).is_err());
    }
}
