//! `link put`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use lattice_core::desired::{Desired, orient};
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, ConfigName, LinkName, ProviderId};
use lattice_core::link::{KindSettings, LinkSpec};
use lattice_core::plan;

use super::shape::{self, Shape};
use crate::args;
use crate::change::{ChangeArgs, Edited, Intent, Writer};
use crate::commands::belief;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Link an actor to a provider, or replace the link of the same contract and name
///
/// Contracts: wasmcloud:keyvalue, wasmcloud:messaging, wasmcloud:httpserver, wasmcloud:httpclient (wasi:keyvalue, wasi:http
/// work, too). A messaging link with --subscription edge.sensor.REGION also lets the actor publish on edge.result,
/// edge.alert and edge.dead of the same region. A wasmcloud:httpclient link reaches the hosts of --allow-host and no other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --timeout 5000 --retry-count 3 --retry-delay 1000
  lattice-ctl link put edge-processor http wasmcloud:httpserver default --port 8080
  lattice-ctl link put edge-processor http-out wasmcloud:httpclient default --allow-host api.example.com --allow-host '*.internal:8080'
  lattice-ctl link put edge-processor messaging wasmcloud:messaging cloud-sync --subscription edge.sensor.ap-east-1 --delivery jetstream
  lattice-ctl link put edge-processor kv wasi keyvalue --interface store --interface atomics --target-config bucket")]
pub(crate) struct Put {
    /// The actor (or the provider, where it calls the actor)
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The provider (or the actor)
    #[arg(value_name = "TARGET")]
    target: String,
    /// Contract (wasmcloud:keyvalue), or WIT namespace (wasi)
    #[arg(value_name = "CONTRACT|NAMESPACE")]
    first: String,
    /// Name of the link, or WIT package (keyvalue) after a namespace
    #[arg(value_name = "NAME|PACKAGE")]
    second: Option<String>,

    /// WIT interfaces that the link is for
    #[arg(long, alias = "interfaces", value_name = "INTERFACE", value_delimiter = ',')]
    interface: Vec<String>,
    /// Name of the link [default: default]
    #[arg(long, short = 'l', value_name = "NAME")]
    link_name: Option<LinkName>,
    /// Named config whose values stand under those of the flags
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    source_config: Vec<ConfigName>,
    /// Named config whose values stand under those of the flags
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    target_config: Vec<ConfigName>,

    /// Operations that are allowed, instead of all: get,set,… · publish,request · GET,POST,…
    #[arg(long, value_name = "OPERATION", value_delimiter = ',')]
    permissions: Vec<String>,
    /// Environment variables that the actor sees
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,

    #[command(flatten)]
    values: Values,
    #[command(flatten)]
    change: ChangeArgs,
    /// How long to wait for the hosts: 250ms, 5s, 2m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = args::duration, help_heading = "Change")]
    wait_timeout: Option<std::time::Duration>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Values of a link, as flags.
#[derive(Debug, Args)]
#[command(next_help_heading = "Values of the link")]
struct Values {
    /// Key-value: bucket that the actor gets
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Key-value: region that the data belongs to
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Messaging: subjects that reach the actor
    #[arg(long, alias = "subscriptions", value_name = "SUBJECT", value_delimiter = ',')]
    subscription: Vec<String>,
    /// Messaging: core (at most once), broadcast (every host), jetstream (at least once) [default: core]
    #[arg(long, value_name = "HOW")]
    delivery: Option<String>,
    /// Messaging: subjects that the actor may publish on, besides those that the subscription brings
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    publish: Vec<String>,
    /// Messaging: server to use instead of the host's own
    #[arg(long, value_name = "URL")]
    cluster_uri: Option<String>,
    /// HTTP server: port on each host that runs the actor [default: 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// HTTP server: address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// HTTP client: hosts that requests may go to: NAME, *.NAME or an address, perhaps with :PORT or :* [default: none]
    #[arg(long, alias = "allow-hosts", alias = "allowed-hosts", value_name = "HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Time for one call through the link in milliseconds [default: 5000]
    #[arg(long, value_name = "MS")]
    timeout: Option<String>,
    /// How often a call is tried again [default: 3]; HTTP client: never, only the actor knows what may be sent twice
    #[arg(long, value_name = "N")]
    retry_count: Option<String>,
    /// Pause before each retry in milliseconds [default: 1000]
    #[arg(long, value_name = "MS")]
    retry_delay: Option<String>,
    /// Any value by its name
    #[arg(long = "value", value_name = "NAME=VALUE", value_parser = args::pair)]
    value: Vec<(String, String)>,
    /// Allow a subscription that takes everything, or requests to every host
    #[arg(long)]
    force: bool,
}

impl Put {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let shape = shape::read(&self.first, self.second.as_deref(), &self.interface, self.link_name.as_ref())?;
        let values = self.values.collect()?;
        let session = Session::open(&self.connection).await?;
        self.check_claim(&session, &shape).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait_timeout };
        let name = format!("{} → {} {} {}", self.source, self.target, shape.contract, shape.name);
        let intent = Intent { kind: "link", name, done: "put" };
        writer.run(intent, &|_: &View, desired| self.edit(&shape, &values, desired)).await
    }

    /// Whether the claim of the actor allows it, where hosts are known to ask for one.
    async fn check_claim(&self, session: &Session, shape: &Shape) -> Outcome {
        // What cannot be read here is said by what follows.
        let Ok((desired, _)) = session.lattice.read_desired().await else { return Ok(()) };
        let (actor, _) = orient(&self.source, &self.target, shape.contract, &desired);
        let Ok(actor) = ActorId::new(actor) else { return Ok(()) };
        belief::check_link(session, &desired, &actor, shape.contract).await
    }

    fn edit(&self, shape: &Shape, values: &BTreeMap<String, String>, desired: &mut Desired) -> Result<Edited, Problem> {
        let (actor, provider) = orient(&self.source, &self.target, shape.contract, desired);
        let link = LinkSpec {
            source: ActorId::new(actor).map_err(|error| problems::name(&error))?,
            target: ProviderId::new(provider).map_err(|error| problems::name(&error))?,
            contract: shape.contract,
            name: shape.name.clone(),
            values: values.clone(),
            permissions: self.permissions.iter().map(|permission| permission.trim().to_owned()).collect(),
            env_mapping: args::map("--env", &self.env)?,
            config: self.source_config.iter().chain(&self.target_config).cloned().collect(),
        };
        // The plan looks only at links of actors that are there; this one must make sense in any case.
        let resolved = plan::resolve_link(&link, desired)?;
        let notes = notes(&link, &resolved.settings.kind, desired);
        let actors = desired.components.keys().filter(|id| **id == link.source).cloned().collect();
        let key = desired.put_link(link);
        Ok(Edited { actors, links: BTreeSet::from([key]), notes, ..Edited::default() })
    }
}

/// What is not there yet, or does nothing.
fn notes(link: &LinkSpec, settings: &KindSettings, desired: &Desired) -> Vec<String> {
    let actor = (!desired.components.contains_key(&link.source))
        .then(|| format!("actor {} is not started yet; the link waits for it", link.source));
    let provider = (!desired.providers.contains_key(&link.target))
        .then(|| format!("provider {} is not started yet; the link waits for it", link.target));
    let config =
        link.config.iter().filter(|name| !desired.configs.contains_key(*name)).map(|name| format!("config {name} does not exist yet"));
    let reaches_nothing = matches!(settings, KindSettings::HttpClient(client) if client.allowed.is_empty());
    let hosts = reaches_nothing.then(|| format!("no --allow-host is given: {} can send no request through it", link.source));
    actor.into_iter().chain(provider).chain(config).chain(hosts).collect()
}

impl Values {
    /// The values by name; a name that is given twice is a mistake.
    fn collect(&self) -> Result<BTreeMap<String, String>, Problem> {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.iter().map(|item| item.trim()).collect::<Vec<_>>().join(","));
        let flags = [
            ("bucket", self.bucket.clone()),
            ("region", self.region.clone()),
            ("subscription", list(&self.subscription)),
            ("delivery", self.delivery.clone()),
            ("publish", list(&self.publish)),
            ("cluster-uri", self.cluster_uri.clone()),
            ("port", self.port.clone()),
            ("address", self.address.clone()),
            ("allow-host", list(&self.allow_host)),
            ("timeout-ms", self.timeout.clone()),
            ("retry-count", self.retry_count.clone()),
            ("retry-delay-ms", self.retry_delay.clone()),
            ("force", self.force.then(|| "true".to_owned())),
        ];
        let given = flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        args::map("value", &given.chain(self.value.iter().cloned()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component};
    use clap::Parser as _;
    use lattice_core::desired::ProviderSpec;
    use lattice_core::wire::assignment::ProviderKind;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        put: Put,
    }

    fn edit(line: &str) -> Result<(LinkSpec, Edited), Problem> {
        let line = Line::try_parse_from(std::iter::once("put").chain(line.split_whitespace()));
        let put = line.unwrap_or_else(|error| panic!("{error}")).put;
        let mut desired = Desired::default();
        desired.start_component(actor("a"), component(&[]), None, false).unwrap();
        for (id, kind) in [
            ("kv", ProviderKind::KvNats),
            ("http", ProviderKind::HttpServer),
            ("m", ProviderKind::MessagingNats),
            ("out", ProviderKind::HttpClient),
        ] {
            let spec = ProviderSpec { image: String::new(), kind, hosts: BTreeSet::new(), config: vec![] };
            desired.start_provider(ProviderId::new(id).unwrap(), spec).unwrap();
        }
        let shape = shape::read(&put.first, put.second.as_deref(), &put.interface, put.link_name.as_ref())?;
        let edited = put.edit(&shape, &put.values.collect()?, &mut desired)?;
        Ok((desired.links.into_values().next().unwrap(), edited))
    }

    fn values(link: &LinkSpec) -> String {
        crate::output::pairs(&link.values)
    }

    #[test]
    fn the_articles_lines() {
        let (link, _) =
            edit("a kv wasmcloud:keyvalue default --bucket edge-data --region ap-east-1 --timeout 5000 --retry-count 3 --retry-delay 1000")
                .unwrap();
        assert_eq!(values(&link), "bucket=edge-data,region=ap-east-1,retry-count=3,retry-delay-ms=1000,timeout-ms=5000");
        let (link, _) =
            edit("a m wasmcloud:messaging cloud-sync --subscription edge.sensor.x --subscription edge.cmd.x --delivery jetstream").unwrap();
        assert_eq!(
            (values(&link).as_str(), link.name.as_str()),
            ("delivery=jetstream,subscription=edge.sensor.x,edge.cmd.x", "cloud-sync")
        );
        let (link, edited) = edit("MBCF VAG3 wasmcloud:httpserver default --port 8080").unwrap();
        assert_eq!((link.source.as_str(), edited.notes.len()), ("MBCF", 2));
    }

    #[test]
    fn hosts_that_requests_may_go_to() {
        let (link, edited) = edit("a out wasmcloud:httpclient default --allow-host api.example.com --allow-host *.internal:8080").unwrap();
        assert_eq!((values(&link).as_str(), edited.notes.len()), ("allow-host=api.example.com,*.internal:8080", 0));
        edit("a out wasi http --interface outgoing-handler --allow-host * --force").unwrap();
        let (_, edited) = edit("a out wasmcloud:httpclient default").unwrap();
        assert!(edited.notes[0].contains("no --allow-host is given"), "{:?}", edited.notes);
    }

    #[test]
    fn either_end_may_stand_first_where_the_provider_calls() {
        let (link, _) = edit("http a wasi http --interface incoming-handler --link-name web").unwrap();
        assert_eq!((link.source.as_str(), link.target.as_str(), link.name.as_str()), ("a", "http", "web"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_even_if_the_actor_is_not_there() {
        let check = |line: &str, part: &str| {
            let problem = edit(line).unwrap_err();
            assert!(problem.message.contains(part) && problem.code.exit_code() == 2, "{line}: {problem:?}");
        };
        check("x kv wasmcloud:keyvalue default --port 1", "has no value `port`");
        check("x kv wasmcloud:messaging default", "does not serve");
        check("x m wasmcloud:messaging default --subscription edge.>", "takes everything");
        check("x m wasmcloud:messaging default --subscription lat.x --force", "never allowed");
        check("x http wasmcloud:httpserver default --port 99999", "`port` = `99999`");
        check("x out wasmcloud:httpclient default --allow-host *", "allowed host `*` is every host");
        check("x out wasmcloud:httpclient default --allow-host http://a", "`allow-host` = `http://a`: is a URL");
        check("x out wasmcloud:httpclient default --retry-count 3", "only the actor knows which may be sent twice");
        check("x out wasmcloud:httpclient default --retry-delay 9", "only the actor knows which may be sent twice");
        check("x http wasmcloud:httpclient default", "does not serve");
        check("x kv wasmcloud:keyvalue default --bucket a --value bucket=b", "given twice");
        check("x kv wasmcloud:keyvalue default --permissions fly", "permission `fly`");
        check("x y.z wasmcloud:keyvalue default", "provider id");
    }
}
