//! What a server is told: its settings as data, and the text of its configuration file.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use lattice_core::id::LatticeName;
use lattice_core::subject::{self, SchedulerVerb, SubjectPattern, Verb};

use super::keys::Users;
use super::{Files, ServerError};

/// Account of everything that belongs to lattices.
pub const LATTICE_ACCOUNT: &str = "LAT";
/// Account of the server itself; nobody can log in to it.
const SYSTEM_ACCOUNT: &str = "SYS";
/// Largest message in bytes, headers included; the default, stated so that it is ours.
pub const MAX_PAYLOAD_BYTES: u64 = 1024 * 1024;
/// Default limit of what streams may reserve on disk: the control plane, the public stream and some forty buckets.
pub const DEFAULT_MAX_FILE_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Default limit of what streams may hold in memory.
pub const DEFAULT_MAX_MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// Most clients at once; two connections for each of 10,000 hosts, and sensors, belong on a server of a fleet.
const MAX_CONNECTIONS: u32 = 8192;
/// Bytes that may wait for one slow client before it is cut off.
const MAX_PENDING_BYTES: u64 = 64 * 1024 * 1024;
/// The server's log is rotated at this size in bytes; two old files are kept.
const LOG_LIMIT_BYTES: u64 = 8 * 1024 * 1024;
/// How long a host may take to answer a request, for the permission to do so; above the longest deadline of a message.
const MAX_RESPONSE_TIME: &str = "5m";

/// What survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Everything acknowledged survives a crash of any process.
    #[default]
    Crash,
    /// Everything acknowledged survives a power cut: each write is synced before it is acknowledged.
    Fsync,
}

/// Who may do what. The user `operator` may do everything in the lattice's account, the user `node` what a host needs, the
/// user `control` what a host needs that runs the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPolicy {
    /// The lattice whose hosts the user `node` is for.
    pub lattice: LatticeName,
    /// Subjects besides `edge.>` that hosts may publish on and subscribe to for their actors.
    pub node_subjects: Vec<SubjectPattern>,
}

/// Settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Folder of everything that lasts; keys are in `creds/`, the rest in `nats/`.
    pub data_dir: PathBuf,
    /// Address to listen on. Loopback: a client without credentials is the operator. Any other: nobody gets in without.
    pub bind: IpAddr,
    /// Port to listen on; 0 lets the server choose.
    pub port: u16,
    /// What survives.
    pub durability: Durability,
    /// Limit of all streams on disk, in bytes.
    pub max_file_bytes: u64,
    /// Limit of all streams in memory, in bytes.
    pub max_memory_bytes: u64,
    /// Who may do what.
    pub users: UserPolicy,
}

impl ServerConfig {
    /// A server for `lattice` on a free port of 127.0.0.1, with default limits.
    pub fn new(data_dir: impl Into<PathBuf>, lattice: LatticeName) -> Self {
        Self {
            data_dir: data_dir.into(),
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            durability: Durability::default(),
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            users: UserPolicy { lattice, node_subjects: Vec::new() },
        }
    }
}

/// The text of the configuration file.
pub(super) fn render(config: &ServerConfig, files: &Files, users: &Users) -> Result<String, ServerError> {
    let listen = match config.port {
        0 => format!("{}:-1", host_part(config.bind)),
        port => SocketAddr::new(config.bind, port).to_string(),
    };
    let sync = match config.durability {
        Durability::Crash => "",
        Durability::Fsync => "  sync_interval: always\n",
    };
    let no_auth_user = if config.bind.is_loopback() { format!("no_auth_user: {}\n", users.operator) } else { String::new() };
    let disconnects = subject::DISCONNECTS;
    Ok(format!(
        r#"# Written by lattice at each start.
server_name: {name}
listen: "{listen}"
max_payload: {MAX_PAYLOAD_BYTES}
max_pending: {MAX_PENDING_BYTES}
max_connections: {MAX_CONNECTIONS}
ping_interval: "10s"
ping_max: 2
write_deadline: "10s"
log_file: {log}
log_size_limit: {LOG_LIMIT_BYTES}
logfile_max_num: 2
pid_file: {pid}
ports_file_dir: {run}
jetstream {{
  store_dir: {store}
  max_file_store: {max_file}
  max_memory_store: {max_memory}
{sync}}}
system_account: {SYSTEM_ACCOUNT}
accounts {{
  {SYSTEM_ACCOUNT} {{
    exports: [ {{ stream: "{disconnects}", accounts: [{LATTICE_ACCOUNT}] }} ]
  }}
  {LATTICE_ACCOUNT} {{
    jetstream: enabled
    imports: [ {{ stream: {{ account: {SYSTEM_ACCOUNT}, subject: "{disconnects}" }} }} ]
    users: [
      {{ nkey: {operator} }}
      {{ nkey: {node}, permissions: {node_permissions} }}
      {{ nkey: {control}, permissions: {control_permissions} }}
    ]
  }}
}}
{no_auth_user}"#,
        name = quote(&format!("lattice-{}", config.users.lattice)),
        log = quote_path(&files.log)?,
        pid = quote_path(&files.pid)?,
        run = quote_path(&files.run_dir)?,
        store = quote_path(&files.store)?,
        max_file = config.max_file_bytes,
        max_memory = config.max_memory_bytes,
        operator = users.operator,
        node = users.node,
        node_permissions = permissions(&config.users, disconnects, Trust::Node),
        control = users.control,
        control_permissions = permissions(&config.users, disconnects, Trust::Control),
    ))
}

/// What a host is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Its own work.
    Node,
    /// The scheduler and the failover actor, too, which write the plan and the verdicts.
    Control,
}

/// What a host needs and no more: a captured node can lie about itself, but neither change what others run, nor who is taken
/// for alive, nor wipe a stream. (It may read and write users' buckets and `edge.>`, which its actors need.)
fn permissions(policy: &UserPolicy, disconnects: &str, trust: Trust) -> String {
    let lattice = &policy.lattice;
    let extra = || policy.node_subjects.iter().map(|pattern| pattern.as_str().to_owned());
    let edge = subject::EDGE_STREAM;
    let mut publish = texts([
        "edge.>",
        "$KV.>",
        "$JS.ACK.>",
        "$JS.FC.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.DIRECT.GET.>",
        "$JS.API.CONSUMER.INFO.*.*",
        "$JS.API.CONSUMER.MSG.NEXT.*.*",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.DELETE.*.*",
    ]);
    publish.extend([format!("lat.{lattice}.hb.>"), format!("lat.{lattice}.evt.>"), subject::round_trips(lattice)]);
    // Its lease; what it owns and what its owners say. Streams capture all of it and take it on their conditions only.
    publish.extend([format!("{}.>", subject::lease_prefix(lattice)), format!("lat.{lattice}.act.>")]);
    // Whoever joins looks whether somebody will plan for it.
    publish.push(subject::scheduler_request(lattice, SchedulerVerb::Status));
    publish.extend(extra());
    let mut denied = vec![
        subject::bucket_key(&subject::desired_bucket(lattice), ">"),
        // Policies are the policy admin's alone; hosts verify them, and nobody shall put others in their place.
        subject::bucket_key(&subject::policy_bucket(lattice), ">"),
        // The durable consumers of the public stream are the operator's.
        format!("$JS.API.CONSUMER.CREATE.{edge}"),
        format!("$JS.API.CONSUMER.CREATE.{edge}.>"),
        format!("$JS.API.CONSUMER.DELETE.{edge}.*"),
    ];
    let mut not_heard = Vec::new();
    match trust {
        Trust::Node => {
            denied
                .extend([subject::plan_bucket(lattice), subject::verdict_bucket(lattice)].map(|bucket| subject::bucket_key(&bucket, ">")));
            // Nobody else shall answer for the scheduler and for the failover actor.
            not_heard.extend([subject::scheduler(lattice, ">"), subject::failover_requests(lattice)]);
        }
        Trust::Control => publish.extend([subject::probe(lattice), subject::any_request(lattice, Verb::Report)]),
    }
    let mut subscribe = texts(["edge.>", "cloud.cmd.>", "_INBOX.>", disconnects]);
    subscribe.push(format!("lat.{lattice}.>"));
    subscribe.extend(extra());
    format!(
        "{{ publish: {{ allow: {}, deny: {} }}, subscribe: {{ allow: {}, deny: {} }}, allow_responses: {{ max: 1, expires: \"{MAX_RESPONSE_TIME}\" }} }}",
        list(&publish),
        list(&denied),
        list(&subscribe),
        list(&not_heard),
    )
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(", "))
}

fn host_part(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn quote_path(path: &Path) -> Result<String, ServerError> {
    match path.to_str() {
        Some(text) => Ok(quote(text)),
        None => Err(ServerError::Folder { path: path.to_owned(), source: std::io::Error::other("its name is not UTF-8") }),
    }
}

/// A text in double quotes, as the server's configuration language reads it.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        let check = |text: &str, expected: &str| assert_eq!(quote(text), expected);
        check("/data/a b", r#""/data/a b""#);
        check(r#"we"ird\ ü"#, r#""we\"ird\\ ü""#);
        check("line\nbreak", r#""line\x0Abreak""#);
    }
}
