//! `up`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostId, HostName, LatticeName, Region};
use lattice_core::policy::force::Preset;
use lattice_core::subject::SubjectPattern;
use lattice_core::system::SystemActor;
use lattice_core::trust::{KeyKind, PublicKey};
use lattice_nats::server::find_server;
use rustix::process::Signal;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::signing;
use super::supervise::Started;
use crate::args;
use crate::connection::{ConnectionArgs, environment};
use crate::error::{CommandError, Outcome};
use crate::local::folder::Folder;
use crate::local::hosts;
use crate::local::notary::Trust;
use crate::local::process::Process;
use crate::local::settings::{ServerSettings, Settings, Turns};
use crate::local::state::State;
use crate::local::{supervisor, system};
use crate::output::{Document, Output, columns};
use crate::problems;

/// Names a fault that a build for tests shall have.
const FAULT_VARIABLE: &str = "LATTICE_FAULT";
/// Port of a server of ours that nobody chose.
const DEFAULT_PORT: u16 = 4222;
/// Most hosts on one machine; each reserves address space and holds a connection.
const MAX_HOSTS: i64 = 256;
/// How long the supervisor may take to take back what it started.
const GIVE_UP_GRACE: Duration = Duration::from_secs(45);
/// Longest answer of the supervisor in bytes.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// Start a lattice on this machine: a nats-server and some hosts
///
/// What it keeps is in the data folder: started again, the lattice has the same hosts, actors and data. Listening on
/// 127.0.0.1 the server takes clients without credentials; on any other address it demands those in the folder creds of the data folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl up --detach
  lattice-ctl up --detach --hosts 2 --label region=ap-east-1
  lattice-ctl up --detach --hosts 4 --region ap-east-1,us-west-1 --cpu-capacity 2000 --memory-capacity 512,256
  lattice-ctl up --detach --trust-issuer keys/account.nk --policy-default deny
  lattice-ctl up --lattice test --nats-port 0 --data-dir /tmp/test      # a second one beside it
  lattice-ctl up --nats-host nats://cloud-nats:4222 --nats-nseed ./keys/nats-edge.nk --label region=ap-east-1 --label tier=edge")]
pub(crate) struct Up {
    /// Leave it running in the background and return when it works
    #[arg(long, short = 'd', alias = "detached")]
    detach: bool,

    /// How many hosts to start
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=MAX_HOSTS))]
    hosts: u32,

    /// Label of the hosts, may be repeated
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,

    /// Regions of the hosts, which take turns: with a,b the first is in a, the second in b, the third in a
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    region: Vec<Region>,

    /// CPU that the hosts offer instead of the machine's, in thousandths of a core; several with commas are taken in turns
    #[arg(long, env = "LATTICE_CPU_CAPACITY", value_name = "THOUSANDTHS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    cpu_capacity: Vec<u32>,

    /// Memory that the hosts offer instead of the machine's, in MiB; several with commas are taken in turns
    #[arg(long, env = "LATTICE_MEMORY_CAPACITY", value_name = "MIB", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    memory_capacity: Vec<u32>,

    /// Leave out the scheduler: changes are then planned by whoever makes them, and nothing moves off a host that dies
    #[arg(long)]
    no_scheduler: bool,

    /// Leave out the failover actor: nothing moves off a host that dies
    #[arg(long)]
    no_failover: bool,

    /// Beginning of the hosts' names
    #[arg(long, value_name = "TEXT", default_value = "NEDGE")]
    name_prefix: String,

    /// Data folder [default: the lattice's name below $XDG_DATA_HOME/lattice]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Leave down what ends by itself: a host that dies is not started again
    #[arg(long)]
    no_restart: bool,

    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Flags about whom the hosts trust.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
struct TrustArgs {
    /// Run only actors, and enforce only policies, that these accounts have signed: public keys or key files; `off` runs unsigned
    /// ones, too [default: as it was started before, at first off]
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    trust_issuer: Vec<String>,

    /// Key file that signs lattice's own actors [default: a key of the lattice, made in the data folder]
    #[arg(long, value_name = "KEYFILE")]
    issuer: Option<PathBuf>,

    /// What hosts allow before a first policy reaches them: everything, or nothing [default: open]
    #[arg(long, value_enum, value_name = "HOW")]
    policy_default: Option<PolicyDefault>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyDefault {
    /// Everything that links give, for development
    Open,
    /// Nothing, for a fleet
    Deny,
}

impl TrustArgs {
    fn trust(&self) -> Result<Trust, Problem> {
        if self.issuer.is_some() && self.trust_issuer.is_empty() {
            return Err(problems::usage("--issuer signs lattice's own actors for hosts that ask for it: give --trust-issuer, too"));
        }
        let named = self.trust_issuer.iter().map(|text| text.trim()).filter(|text| *text != "off");
        let issuers: BTreeSet<PublicKey> = named.map(signing::public_key).collect::<Result<_, _>>()?;
        if let Some(other) = issuers.iter().find(|key| key.kind() != KeyKind::Account) {
            let message =
                format!("--trust-issuer {other} is a key of kind `{}`: actors are signed with account keys", other.kind().as_str());
            return Err(problems::usage(message).hint("lattice-ctl keys gen account"));
        }
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let preset = self.policy_default.map(|preset| match preset {
            PolicyDefault::Open => Preset::Open,
            PolicyDefault::Deny => Preset::Deny,
        });
        let issuers = (!self.trust_issuer.is_empty()).then_some(issuers);
        Ok(Trust { issuers, signer: self.issuer.as_ref().map(absolute), preset })
    }
}

/// Flags of a server of our own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct ServerArgs {
    /// Port to listen on; 0 takes a free one [default: 4222]
    #[arg(long, value_name = "PORT")]
    nats_port: Option<u16>,

    /// Address to listen on; any but a loopback one demands credentials [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,

    /// What acknowledged messages survive: the crash of any process, or also a power cut [default: crash]
    #[arg(long, value_enum, value_name = "HOW")]
    durability: Option<Durability>,

    /// Program to start instead of the nats-server that is found
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,

    /// Subjects besides edge.> that hosts may use where they need credentials
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    node_subject: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Durability {
    /// The crash of any process
    Crash,
    /// A power cut, too; every write is synced
    Fsync,
}

/// What `up` says when everything runs.
#[derive(Debug, Serialize)]
struct Running {
    lattice: LatticeName,
    nats_url: String,
    data_dir: PathBuf,
    hosts: Vec<RunningHost>,
}

#[derive(Debug, Serialize)]
struct RunningHost {
    id: Option<HostId>,
    name: HostName,
    pid: Option<u32>,
}

impl Up {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let settings = self.settings(output)?;
        let folder = Folder::new(Some(&settings.data_dir), &settings.lattice)?;
        if self.detach {
            folder.prepare()?;
            // Found out here if somebody has the folder; the supervisor takes the lock for good.
            drop(folder.lock()?);
            let state = detach(&settings, &folder, output).await?;
            return output.print(&Running::new(state, &folder));
        }
        let ready = |state: &State| {
            output.print(&Running::new(state.clone(), &folder))?;
            output.note("Ctrl-C stops it");
            Ok(())
        };
        Box::pin(supervisor::supervise(settings, output, ready)).await
    }

    /// Everything that is needed, found and checked before anything is started.
    fn settings(&self, output: &Output) -> Result<Settings, Problem> {
        check_faultless(environment(FAULT_VARIABLE).as_deref())?;
        let own = self.server.is_asked_for();
        let existing = if own && self.connection.nats_url.is_none() { None } else { self.connection.existing()? };
        if own && existing.is_some() {
            return Err(problems::usage(
                "--nats-url uses a server that is there; --nats-port, --bind, --durability, --nats-server start one: give one or the other",
            ));
        }
        let lattice = self.connection.own_lattice()?;
        let server = match existing {
            Some(target) => {
                if self.connection.nats_url.is_none() {
                    output.note(&format!(
                        "note: using the server at {}, as the environment says; --nats-port starts one of our own",
                        target.url
                    ));
                }
                let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
                ServerSettings::Existing { url: target.url, creds: target.creds.map(absolute), tls_ca: target.tls_ca.map(absolute) }
            }
            None => self.server.settings()?,
        };
        Ok(Settings {
            data_dir: Folder::new(self.data_dir.as_deref(), &lattice)?.root().to_owned(),
            lattice,
            server,
            host_program: if self.hosts == 0 { PathBuf::new() } else { hosts::find_program()? },
            hosts: self.hosts,
            name_prefix: self.name_prefix.clone(),
            labels: labels(&self.label),
            turns: Turns {
                regions: self.region.clone(),
                cpu_capacity: self.cpu_capacity.clone(),
                memory_capacity: self.memory_capacity.clone(),
            },
            system: self.system()?,
            restart: !self.no_restart,
            trust: self.trust.trust()?,
        })
    }

    /// Components of lattice's own actors that are not left out. Who is alive is of use only to a scheduler.
    fn system(&self) -> Result<BTreeMap<SystemActor, PathBuf>, Problem> {
        let wanted = |actor: &SystemActor| match actor {
            SystemActor::Scheduler => !self.no_scheduler,
            SystemActor::Failover => !(self.no_scheduler || self.no_failover),
        };
        let actors = SystemActor::ALL.into_iter().filter(|_| self.hosts > 0).filter(wanted);
        actors.map(|actor| Ok((actor, system::find_component(actor)?))).collect()
    }
}

/// Refuses to run with a fault on purpose: a build for tests puts one into hosts that have this variable.
fn check_faultless(fault: Option<&str>) -> Result<(), Problem> {
    match fault {
        None => Ok(()),
        Some(fault) => Err(problems::usage(format!("{FAULT_VARIABLE}={} asks for a fault on purpose", fault.escape_debug()))
            .hint(format!("that is for tests of single hosts: unset {FAULT_VARIABLE}"))),
    }
}

/// Labels as a map; given twice, the later one counts.
fn labels(given: &[(String, String)]) -> BTreeMap<String, String> {
    given.iter().cloned().collect()
}

impl ServerArgs {
    fn is_asked_for(&self) -> bool {
        self.nats_port.is_some()
            || self.bind.is_some()
            || self.durability.is_some()
            || self.nats_server.is_some()
            || !self.node_subject.is_empty()
    }

    fn settings(&self) -> Result<ServerSettings, Problem> {
        let pattern = |text: &String| SubjectPattern::new(text.as_str()).map_err(|error| problems::usage(error.to_string()));
        let program = find_server(self.nats_server.as_deref()).map_err(Problem::from)?;
        Ok(ServerSettings::Own {
            program: std::path::absolute(&program).unwrap_or(program),
            bind: self.bind.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.nats_port.unwrap_or(DEFAULT_PORT),
            fsync: matches!(self.durability, Some(Durability::Fsync)),
            node_subjects: self.node_subject.iter().map(pattern).collect::<Result<_, _>>()?,
        })
    }
}

/// Starts the supervisor as a process of its own and waits for its word.
async fn detach(settings: &Settings, folder: &Folder, output: &Output) -> Outcome<State> {
    let mut child = spawn(settings, folder).await?;
    let process = child.id().and_then(Process::of);
    let mut live = output.live();
    live.show(format!("starting lattice {}", settings.lattice));
    let mut answer = String::new();
    let read = async {
        match child.stdout.take() {
            Some(out) => BufReader::new(out.take(MAX_ANSWER_BYTES)).read_line(&mut answer).await,
            None => Ok(0),
        }
    };
    let interrupted = tokio::select! {
        read = read => { read.map_err(|error| problems::failed("waiting for the supervisor", &error))?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    drop(live);
    if interrupted {
        if let Some(process) = process {
            let _ = process.signal(Signal::TERM);
            process.ended_within(GIVE_UP_GRACE).await;
        }
        return Err(Problem::new(ErrorCode::Failed, "stopped while starting").into());
    }
    match serde_json::from_str(&answer) {
        Ok(Started::Ready(state)) => Ok(state),
        Ok(Started::Failed(problem)) => {
            // It has said why; it ends as soon as what it started has.
            let _ = tokio::time::timeout(GIVE_UP_GRACE, child.wait()).await;
            Err(problem.into())
        }
        Err(_) => Err(silent_end(folder)),
    }
}

async fn spawn(settings: &Settings, folder: &Folder) -> Outcome<Child> {
    let failed = |error: std::io::Error| problems::failed("starting the supervisor", &error);
    let program = std::env::current_exe().map_err(failed)?;
    let log = folder.open_log("up")?;
    let mut command = Command::new(program);
    command.arg("supervise").current_dir(folder.root()).env_remove("LATTICE_OUTPUT");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn().map_err(failed)?;
    let text = serde_json::to_vec(settings).map_err(|error| problems::failed("writing settings", &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).await.map_err(failed)?;
        // Dropped here: the end of its standard input is the end of the settings.
    }
    Ok(child)
}

fn silent_end(folder: &Folder) -> CommandError {
    let mut problem = Problem::new(ErrorCode::Failed, "the supervisor ended without a word");
    problem.causes = folder.log_tail("up");
    problem.hint(format!("its log is {}", folder.log("up").display())).into()
}

impl Running {
    fn new(state: State, folder: &Folder) -> Self {
        let hosts =
            state.hosts.into_iter().map(|host| RunningHost { id: host.id, name: host.name, pid: host.process.map(|process| process.pid) });
        Self { lattice: state.lattice, nats_url: state.nats_url, data_dir: folder.root().to_owned(), hosts: hosts.collect() }
    }
}

impl Document for Running {
    fn text(&self, _wide: bool) -> String {
        let rows = self.hosts.iter().map(|host| {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            vec![host.name.to_string(), or_dash(host.pid.map(|pid| pid.to_string())), or_dash(host.id.as_ref().map(ToString::to_string))]
        });
        let hosts = if self.hosts.is_empty() { "no hosts".to_owned() } else { columns(&["HOST", "PID", "ID"], rows) };
        let data_dir = self.data_dir.display();
        format!(
            "lattice {} runs on {}, data in {data_dir}\n\n{hosts}\n\nNext:\n  lattice-ctl get hosts\n  lattice-ctl start provider builtin://messaging-nats messaging\n  lattice-ctl start actor file://./<actor>.wasm <id>\n  lattice-ctl down --data-dir {data_dir}",
            self.lattice, self.nats_url
        )
    }

    fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| format!("host/{}", host.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lattice_with_faults_on_purpose() {
        assert_eq!(check_faultless(None), Ok(()));
        let refused = check_faultless(Some("drop-fence")).unwrap_err();
        assert!(refused.message.starts_with("LATTICE_FAULT=drop-fence"), "{refused:?}");
        assert_eq!(refused.code.exit_code(), 2);
    }

    #[test]
    fn who_can_be_trusted() {
        let trust = |issuers: &[&str], issuer: Option<&str>| {
            let trust_issuer = issuers.iter().map(|text| (*text).to_owned()).collect();
            TrustArgs { trust_issuer, issuer: issuer.map(PathBuf::from), policy_default: None }.trust()
        };
        let account = nkeys::KeyPair::new_account().public_key();
        assert_eq!(trust(&[], None).unwrap(), Trust::default(), "as it was");
        assert_eq!(trust(&["off"], None).unwrap().issuers, Some(BTreeSet::new()));
        assert_eq!(trust(&[&account], Some("a.nk")).unwrap().issuers.unwrap().first().unwrap().as_str(), account);
        let refused = |issuers: &[&str], issuer| trust(issuers, issuer).unwrap_err().message;
        assert!(refused(&[], Some("a.nk")).contains("give --trust-issuer, too"));
        assert!(refused(&[&nkeys::KeyPair::new_operator().public_key()], None).contains("is a key of kind `operator`"));
        assert!(refused(&["nobody"], None).contains("neither a public key"));
    }
}
