//! `logs`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use lattice_core::id::{ActorId, HostId};
use lattice_core::subject::Verb;
use lattice_core::wire;
use lattice_core::wire::request::{LogLine, LogPage, LogQuery};
use serde::Serialize;

use crate::args::HostsArg;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, printable, time_of_day};
use crate::problems;
use crate::view::View;

/// Lines that are shown unless `--limit` says otherwise.
const DEFAULT_LIMIT: u32 = 100;
/// Most lines that one question asks a host for.
const MAX_LIMIT: i64 = 10_000;
/// Between two questions while following.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Patience with one host.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Print what actors have logged lately
///
/// Hosts keep the newest lines in memory; a restart of a host forgets them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl logs edge-processor
  lattice-ctl logs --host NEDGE01 --follow")]
pub(crate) struct Logs {
    /// Only lines of this actor
    #[arg(value_name = "ID")]
    id: Option<ActorId>,

    /// Go on printing lines as they come; Ctrl-C ends it
    #[arg(long, short = 'f')]
    follow: bool,

    /// Newest lines of each host to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u32).range(0..=MAX_LIMIT))]
    limit: u32,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Line {
    host: String,
    #[serde(flatten)]
    line: LogLine,
}

impl Logs {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let view = View::read(&session).await?;
        if let Some(id) = self.id.as_ref().filter(|id| !is_known(id, &view)) {
            return Err(problems::no_actor(id.as_str(), &view.desired).into());
        }
        let wanted = self.hosts.find(&view.inventory)?;
        let hosts = view.inventory.hosts.keys().filter(|host| wanted.is_empty() || wanted.contains(*host));
        // Number after which each host is asked for lines.
        let mut positions: BTreeMap<HostId, u64> = hosts.map(|host| (host.clone(), 0)).collect();
        let mut limit = self.limit;
        loop {
            for line in self.read(&session, &mut positions, limit, output).await {
                output.print_next(&line)?;
            }
            if !self.follow {
                return Ok(());
            }
            limit = u32::try_from(MAX_LIMIT).unwrap_or(u32::MAX);
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }

    /// New lines of all hosts, oldest first. A host that does not answer is left out this time.
    async fn read(&self, session: &Session, positions: &mut BTreeMap<HostId, u64>, limit: u32, output: &Output) -> Vec<Line> {
        let ask = async |host: &HostId, after: u64| {
            let query = wire::encode(&LogQuery { actor: self.id.clone(), after, limit });
            let answer = session.lattice.ask(host, Verb::Logs, query.into(), ASK_TIMEOUT).await.ok()?;
            wire::decode::<LogPage>(&answer).ok()
        };
        let pages = join_all(positions.iter().map(|(host, after)| ask(host, *after))).await;
        let mut lines = Vec::new();
        for (position, page) in positions.values_mut().zip(pages) {
            let Some(page) = page else { continue };
            if page.dropped > 0 && *position == 0 {
                output.note(&format!("note: {} dropped {} lines of actors that logged too much", page.host, page.dropped));
            }
            *position = page.next;
            lines.extend(page.lines.into_iter().map(|line| Line { host: page.host.to_string(), line }));
        }
        lines.sort_by(|a, b| (a.line.at_ms, &a.host, a.line.number).cmp(&(b.line.at_ms, &b.host, b.line.number)));
        lines
    }
}

fn is_known(id: &ActorId, view: &View) -> bool {
    view.desired.components.contains_key(id) || view.inventory.hosts.values().any(|host| host.components.contains_key(id))
}

impl Document for Line {
    fn text(&self, _wide: bool) -> String {
        let LogLine { at_ms, actor, level, message, .. } = &self.line;
        format!("{} {} {actor} {}: {}", time_of_day(*at_ms), self.host, printable(level), printable(message))
    }

    fn names(&self) -> Vec<String> {
        vec![printable(&self.line.message)]
    }
}
