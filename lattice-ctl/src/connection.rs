//! Which server and lattice are meant, and the connection to them.
//!
//! What counts, the first that says something: a flag, the context that `--context` names, the environment, the current
//! context, the default.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lattice_core::error::Problem;
use lattice_core::id::LatticeName;
use lattice_nats::{ConnectOptions, Connection, Lattice};

use crate::context::{Context, Contexts};
use crate::error::Outcome;
use crate::problems;

/// Address of a server that nobody named.
pub(crate) const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// Lattice that nobody named.
pub(crate) const DEFAULT_LATTICE: &str = "default";
/// Patience with a server while connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How the connection is called in the server's reports.
const CONNECTION_NAME: &str = "lattice-ctl";

/// Variables that may hold each setting; the first that is set counts. wash's come after ours.
const URL_VARIABLES: [&str; 1] = ["LATTICE_NATS_URL"];
const CREDS_VARIABLES: [&str; 2] = ["LATTICE_CREDS", "WASMCLOUD_CTL_CREDSFILE"];
const TLS_CA_VARIABLES: [&str; 2] = ["LATTICE_TLS_CA", "WASMCLOUD_CTL_TLS_CA_FILE"];
const LATTICE_VARIABLES: [&str; 2] = ["LATTICE_LATTICE", "WASMCLOUD_LATTICE"];
const CONTEXT_VARIABLE: &str = "LATTICE_CONTEXT";

/// Flags of every verb that talks to a lattice.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Address of the NATS server; several with commas [env: LATTICE_NATS_URL, default: nats://127.0.0.1:4222]
    #[arg(long, visible_alias = "nats-host", alias = "ctl-host", value_name = "URL")]
    pub(crate) nats_url: Option<String>,

    /// NATS credentials: a .creds file, or a file with the seed of a user nkey [env: LATTICE_CREDS]
    #[arg(long, visible_alias = "nats-nseed", alias = "ctl-credsfile", value_name = "FILE")]
    pub(crate) creds: Option<PathBuf>,

    /// Certificates (PEM) to trust instead of the system's; asks for TLS [env: LATTICE_TLS_CA]
    #[arg(long, alias = "ctl-tls-ca-file", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Name of the lattice [env: LATTICE_LATTICE, default: default]
    #[arg(long, short = 'x', value_name = "NAME")]
    pub(crate) lattice: Option<LatticeName>,

    /// Context to take the other settings from, instead of the current one [env: LATTICE_CONTEXT]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// A server and a lattice on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Address of the server.
    pub(crate) url: String,
    /// Credentials.
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust.
    pub(crate) tls_ca: Option<PathBuf>,
    /// The lattice.
    pub(crate) lattice: LatticeName,
}

impl ConnectionArgs {
    /// What is meant, all sources considered.
    ///
    /// # Errors
    /// If the environment or a context makes no sense.
    pub(crate) fn target(&self) -> Result<Target, Problem> {
        let contexts = Contexts::of_user(&environment);
        self.resolve(&environment, contexts.as_ref())
    }

    /// The server that is to be used instead of one of our own: named by a flag, `--context` or the environment, but not
    /// merely current.
    ///
    /// # Errors
    /// As [`ConnectionArgs::target`].
    pub(crate) fn existing(&self) -> Result<Option<Target>, Problem> {
        let contexts = Contexts::of_user(&environment);
        let named = self.named_context(&environment, contexts.as_ref())?.and_then(|context| context.nats_url);
        let url = self.nats_url.clone().or(named).or_else(|| url_of_env(&environment));
        url.map(|url| Ok(Target { url, ..self.target()? })).transpose()
    }

    /// The lattice that a flag, `--context` or the environment names, else the default; the current context has no say.
    ///
    /// # Errors
    /// As [`ConnectionArgs::target`].
    pub(crate) fn own_lattice(&self) -> Result<LatticeName, Problem> {
        let contexts = Contexts::of_user(&environment);
        let named = self.named_context(&environment, contexts.as_ref())?;
        let of_env = || first(&environment, &LATTICE_VARIABLES).map(LatticeName::new).transpose();
        let lattice = match self.lattice.clone().or(named.and_then(|context| context.lattice)) {
            Some(lattice) => Ok(lattice),
            None => of_env().and_then(|lattice| lattice.map_or_else(|| LatticeName::new(DEFAULT_LATTICE), Ok)),
        };
        lattice.map_err(|error| problems::name(&error))
    }

    fn resolve(&self, env: &dyn Fn(&str) -> Option<String>, contexts: Option<&Contexts>) -> Result<Target, Problem> {
        let named = self.named_context(env, contexts)?;
        let current = match contexts {
            Some(contexts) if named.is_none() => contexts.current()?.map(|name| contexts.read(&name)).transpose()?.flatten(),
            Some(_) | None => None,
        };
        let (named, current) = (named.unwrap_or_default(), current.unwrap_or_default());
        let lattice_of_env = first(env, &LATTICE_VARIABLES).map(LatticeName::new).transpose().map_err(|error| problems::name(&error))?;
        let url = self.nats_url.clone().or(named.nats_url).or_else(|| url_of_env(env)).or(current.nats_url);
        Ok(Target {
            url: url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
            creds: self.creds.clone().or(named.creds).or_else(|| first(env, &CREDS_VARIABLES).map(PathBuf::from)).or(current.creds),
            tls_ca: self.tls_ca.clone().or(named.tls_ca).or_else(|| first(env, &TLS_CA_VARIABLES).map(PathBuf::from)).or(current.tls_ca),
            lattice: match self.lattice.clone().or(named.lattice).or(lattice_of_env).or(current.lattice) {
                Some(lattice) => lattice,
                None => LatticeName::new(DEFAULT_LATTICE).map_err(|error| problems::name(&error))?,
            },
        })
    }

    fn named_context(&self, env: &dyn Fn(&str) -> Option<String>, contexts: Option<&Contexts>) -> Result<Option<Context>, Problem> {
        let Some(name) = self.context.clone().or_else(|| env(CONTEXT_VARIABLE)) else { return Ok(None) };
        let contexts = contexts.ok_or_else(|| problems::usage(format!("context {name}: neither XDG_CONFIG_HOME nor HOME is set")))?;
        contexts.find(&name).map(|(_, context)| Some(context))
    }
}

/// A variable of the environment that holds something.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn first(env: &dyn Fn(&str) -> Option<String>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env(name))
}

fn url_of_env(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let of_wash = || {
        let host = env("WASMCLOUD_CTL_HOST")?;
        Some(match env("WASMCLOUD_CTL_PORT") {
            Some(port) => format!("nats://{host}:{port}"),
            None => host,
        })
    };
    first(env, &URL_VARIABLES).or_else(of_wash)
}

/// An open connection to a lattice.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The lattice.
    pub(crate) lattice: Lattice,
}

impl Session {
    /// Connects to what the flags mean.
    ///
    /// # Errors
    /// `NATS: connection refused: …` and the like.
    pub(crate) async fn open(args: &ConnectionArgs) -> Outcome<Self> {
        Self::connect(&args.target()?).await
    }

    /// Connects to `target`.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn connect(target: &Target) -> Outcome<Self> {
        let options = ConnectOptions {
            creds: target.creds.clone(),
            tls_ca: target.tls_ca.clone(),
            timeout: CONNECT_TIMEOUT,
            ..ConnectOptions::new(&target.url, CONNECTION_NAME)
        };
        let connection = lattice_nats::connect(&options).await?;
        Ok(Self { lattice: Lattice::new(connection, target.lattice.clone()) })
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Connection {
        self.lattice.connection()
    }

    /// Name of the lattice.
    pub(crate) fn name(&self) -> &LatticeName {
        self.lattice.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::ConfigName;

    fn env(values: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_first_source_that_says_something_counts() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let contexts = Contexts::of_user(&move |name| (name == "HOME").then(|| home.clone())).unwrap();
        let context = |url: &str| Context { nats_url: Some(url.into()), ..Context::default() };
        contexts.write(&ConfigName::new("named").unwrap(), &context("named")).unwrap();
        contexts
            .write(&ConfigName::new("now").unwrap(), &Context { lattice: Some(LatticeName::new("l").unwrap()), ..context("now") })
            .unwrap();
        contexts.make_current(&ConfigName::new("now").unwrap()).unwrap();

        let none = ConnectionArgs::default();
        let flag = ConnectionArgs { nats_url: Some("flag".into()), context: Some("named".into()), ..none.clone() };
        let named = ConnectionArgs { context: Some("named".into()), ..none.clone() };
        let variables = env(&[("LATTICE_NATS_URL", "env"), ("WASMCLOUD_CTL_HOST", "wash"), ("WASMCLOUD_LATTICE", "wl")]);
        let check = |args: &ConnectionArgs, env: &dyn Fn(&str) -> Option<String>, contexts: Option<&Contexts>, url: &str, lattice: &str| {
            let target = args.resolve(env, contexts).unwrap();
            assert_eq!((target.url.as_str(), target.lattice.as_str()), (url, lattice));
        };
        check(&flag, &variables, Some(&contexts), "flag", "wl");
        check(&named, &variables, Some(&contexts), "named", "wl");
        check(&none, &variables, Some(&contexts), "env", "wl");
        check(&none, &env(&[("WASMCLOUD_CTL_HOST", "a"), ("WASMCLOUD_CTL_PORT", "1")]), None, "nats://a:1", "default");
        check(&none, &env(&[]), Some(&contexts), "now", "l");
        check(&none, &env(&[]), None, DEFAULT_URL, "default");
        assert!(ConnectionArgs { context: Some("nmed".into()), ..none.clone() }.resolve(&env(&[]), Some(&contexts)).is_err());
        assert!(none.resolve(&env(&[("LATTICE_LATTICE", "a b")]), None).is_err());
    }
}
