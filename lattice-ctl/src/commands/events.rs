//! `events`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures::StreamExt as _;
use lattice_core::wire::event::{Event, EventKind};
use lattice_nats::StoreError;
use lattice_nats::events::EventQuery;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{self, HostsArg};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, pairs, printable, time_of_day};
use crate::view::View;

/// Events that are shown unless `--limit` says otherwise.
const DEFAULT_LIMIT: u32 = 100;
/// Most events of one page.
const MAX_LIMIT: i64 = 10_000;
/// How long a server that is away is waited for while following.
const SERVER_AWAY: Duration = Duration::from_secs(120);
/// Pause before it is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Width of the longest kind, so that what comes after it stands in a column.
const KIND_WIDTH: usize = 16;

/// Print what has happened: who joined, died, took over, came back, what started and failed
///
/// Events are kept for three days. The newest ones are printed, the oldest of them first: time, kind, host, a sentence.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl events --follow
  lattice-ctl events --since 10m --kind suspect,dead,moved,returned
  lattice-ctl events --host NEDGE03 -o json")]
pub(crate) struct Events {
    /// Go on printing events as they come; Ctrl-C ends it
    #[arg(long, short = 'f')]
    follow: bool,

    /// Only what is not older than this: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    since: Option<Duration>,

    /// Only these kinds: suspect, dead, moved, returned, healthy, no-target, frozen, quarantined, hello, bye, …
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<EventKind>,

    /// Newest events to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u32).range(0..=MAX_LIMIT))]
    limit: u32,

    #[command(flatten)]
    hosts: HostsArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One event.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Line(Event);

/// A page of them.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Page(Vec<Line>);

fn kind(text: &str) -> Result<EventKind, String> {
    let known = serde_json::from_value(serde_json::Value::String(text.to_owned()));
    known.map_err(|_unknown| "there is no such kind of event; suspect, dead, moved and returned are some".to_owned())
}

impl Events {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        // Names are looked up only if there are some: a silent host takes a while not to answer.
        let hosts = if self.hosts.hosts.is_empty() { BTreeSet::new() } else { self.hosts.find(&View::read(&session).await?.inventory)? };
        let query = EventQuery { hosts, kinds: self.kind.iter().copied().collect() };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let page = session.lattice.recent_events(&query, self.since_ms(), limit).await?;
        if page.more && self.since.is_some() {
            output.note("note: older ones are left out; --limit shows more");
        }
        if !self.follow {
            if page.events.is_empty() {
                output.note("no events");
            }
            return output.print(&Page(page.events.into_iter().map(Line).collect()));
        }
        for event in page.events {
            output.print_next(&Line(event))?;
        }
        follow(&session, &query, page.position, output).await
    }

    fn since_ms(&self) -> u64 {
        let Some(since) = self.since else { return 0 };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Prints what comes after `position`, over restarts of the server, until nobody wants it any more.
async fn follow(session: &Session, query: &EventQuery, mut position: u64, output: &Output) -> Outcome {
    let mut heard = Instant::now();
    loop {
        let error = match session.lattice.follow_events(query, position).await {
            Ok(mut events) => loop {
                match events.next().await {
                    Some(Ok((sequence, event))) => {
                        output.print_next(&Line(event))?;
                        (position, heard) = (position.max(sequence), Instant::now());
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error @ StoreError::Missing { .. }) => return Err(error.into()),
            Err(error) => Some(error),
        };
        // While nothing happens nothing is heard either: only a server that is not there counts.
        if session.connection().is_connected() {
            heard = Instant::now();
        }
        if let Some(error) = error.filter(|_| heard.elapsed() > SERVER_AWAY) {
            return Err(error.into());
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

impl Document for Line {
    fn text(&self, wide: bool) -> String {
        let Event { kind, host_name, region, at_ms, message, details, .. } = &self.0;
        let more = if wide { format!(" [{region}] {}", printable(&pairs(details))) } else { String::new() };
        format!("{} {:<KIND_WIDTH$} {host_name} {}{more}", time_of_day(*at_ms), kind.token(), printable(message))
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{}/{}", self.0.kind.token(), self.0.host_name)]
    }
}

impl Document for Page {
    fn text(&self, wide: bool) -> String {
        self.0.iter().map(|line| line.text(wide)).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().flat_map(Line::names).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{host, report};

    #[test]
    fn kinds_are_known_by_their_token() {
        assert_eq!(kind("no-target"), Ok(EventKind::NoTarget));
        assert!(kind("No-Target").is_err() && kind("").is_err());
    }

    #[test]
    fn one_line_each() {
        let report = report(2);
        let event = Event {
            kind: EventKind::Dead,
            host: host(2),
            host_name: report.name,
            region: report.region,
            incarnation: report.incarnation,
            at_ms: 1_718_716_062_007,
            message: "process gone: its connection\nwas closed".into(),
            details: [("by".to_owned(), "NEDGE01".to_owned())].into(),
        };
        let line = Line(event);
        assert_eq!(line.text(false), "13:07:42.007Z dead             NEDGE03 process gone: its connection\\nwas closed");
        assert!(line.text(true).ends_with("[local] by=NEDGE01"), "{}", line.text(true));
        assert_eq!(line.names(), ["dead/NEDGE03"]);
    }
}
