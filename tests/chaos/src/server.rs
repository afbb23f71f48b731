//! Servers of a row: one, or three in a cluster, each on ports that stay its own over restarts, so that it can be killed,
//! paused and started again on what it has on its disk.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{http, process, until};
use rustix::process::Signal;

/// Account of everything that belongs to lattices, as a server of `up` has it.
const ACCOUNT: &str = lattice_nats::server::LATTICE_ACCOUNT;

/// Servers.
pub(crate) struct Servers {
    all: Vec<Server>,
}

/// One of them.
pub(crate) struct Server {
    /// Its name, by which streams call their leader.
    pub(crate) name: String,
    program: PathBuf,
    folder: PathBuf,
    /// Where its streams are; another file system for rows about disks.
    pub(crate) store: PathBuf,
    port: u16,
    route: u16,
    monitor: u16,
    child: Option<Child>,
}

impl Servers {
    /// Starts one server, or a cluster of `count`, each with its folder below `folder`. `store` is where the first has its
    /// streams, if anywhere else. `fsync` syncs every write before it is acknowledged.
    pub(crate) fn start(folder: &Path, count: usize, store: Option<&Path>, fsync: bool) -> Self {
        let program = lattice_nats::server::find_server(None).expect("a nats-server: `make tools`");
        let mut all: Vec<Server> = (0..count)
            .map(|number| {
                let folder = folder.join(format!("nats{number}"));
                std::fs::create_dir_all(&folder).expect("a folder");
                let store = if number == 0 { store.map(Path::to_owned) } else { None };
                let store = store.unwrap_or_else(|| folder.join("store"));
                let (name, program) = (format!("n{number}"), program.clone());
                let (port, route, monitor) = (http::free_port(), http::free_port(), http::free_port());
                Server { name, program, folder, store, port, route, monitor, child: None }
            })
            .collect();
        let routes: Vec<u16> = all.iter().map(|server| server.route).collect();
        for server in &mut all {
            server.configure(&routes, fsync);
            server.run();
        }
        Self { all }
    }

    /// All addresses with commas between.
    pub(crate) fn url(&self) -> String {
        self.all.iter().map(|server| format!("nats://{}", server.address())).collect::<Vec<_>>().join(",")
    }

    /// All addresses.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(Server::address).collect()
    }

    /// One of them.
    pub(crate) fn get(&mut self, number: usize) -> &mut Server {
        &mut self.all[number]
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Place of the server with this name.
    pub(crate) fn named(&self, name: &str) -> usize {
        self.all.iter().position(|server| server.name == name).expect("a server of ours")
    }
}

impl Server {
    /// Where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn configure(&self, routes: &[u16], fsync: bool) {
        let disconnects = format!("$SYS.ACCOUNT.{ACCOUNT}.DISCONNECT");
        let sync = if fsync { "sync_interval: always" } else { "" };
        let cluster = if routes.len() > 1 {
            let urls: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            // Clients go where they are told to and nowhere else.
            format!("cluster {{ name: chaos, listen: \"127.0.0.1:{}\", no_advertise: true, routes: [{}] }}", self.route, urls.join(", "))
        } else {
            String::new()
        };
        let text = format!(
            r#"server_name: {name}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
ping_interval: "10s"
ping_max: 2
write_deadline: "10s"
log_file: "{log}"
jetstream {{ store_dir: "{store}", max_file_store: 34359738368, max_memory_store: 268435456, {sync} }}
{cluster}
system_account: SYS
accounts {{
  SYS {{ exports: [ {{ stream: "{disconnects}", accounts: [{ACCOUNT}] }} ] }}
  {ACCOUNT} {{
    jetstream: enabled
    imports: [ {{ stream: {{ account: SYS, subject: "{disconnects}" }} }} ]
    users: [ {{ user: operator, password: operator }} ]
  }}
}}
no_auth_user: operator
"#,
            name = self.name,
            port = self.port,
            monitor = self.monitor,
            log = self.folder.join("server.log").display(),
            store = self.store.display(),
        );
        std::fs::write(self.folder.join("server.conf"), text).expect("a file");
    }

    /// Starts it on what it has on its disk, and waits until it listens.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.join("server.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server runs"));
        let address = self.address();
        until(&format!("{} listens", self.name), &mut || std::net::TcpStream::connect(address).ok());
    }

    /// Names of the clients that are connected to it.
    pub(crate) fn clients(&self) -> Vec<String> {
        let list = until(&format!("{} lists its clients", self.name), &mut || http::get(self.monitor, "/connz").ok());
        let list = list.json();
        let all = list["connections"].as_array().into_iter().flatten();
        all.filter_map(|client| client["name"].as_str().map(str::to_owned)).collect()
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// Lets it neither run nor end.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            process::signal(i32::try_from(child.id()).expect("a pid"), signal);
        }
    }

    /// Kills it and leaves it down for so long.
    pub(crate) fn bounce(&mut self, down: Duration) {
        self.kill();
        std::thread::sleep(down);
        self.run();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
