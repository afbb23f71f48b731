//! `sub`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::subject::SubjectPattern;
use serde::Serialize;
use serde_json::Value;

use crate::args;
use crate::bus::{self, Message};
use crate::commands::publish;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, printable};
use crate::problems;

/// Print messages as they come
///
/// A line each: subject and payload; with -o ndjson an object each. Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl sub edge.alert.ap-east-1
  lattice-ctl sub 'edge.result.>' --count 10 --timeout 30s -o ndjson")]
pub(crate) struct Sub {
    /// Subject, or a pattern with * and >
    #[arg(value_name = "SUBJECT")]
    subject: String,

    /// End after this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Give up after this time: 250ms, 5s, 2m; without --count that is no failure
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Line {
    subject: String,
    payload: Value,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    #[serde(skip)]
    raw: Vec<u8>,
}

impl Sub {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        SubjectPattern::new(self.subject.as_str()).map_err(|error| problems::usage(error.to_string()))?;
        let session = Session::open(&self.connection).await?;
        let mut messages = bus::subscribe(session.connection(), &self.subject).await?;
        // Programs, too, wait for this before they make something happen.
        output.say(&format!("listening on {}", self.subject));
        let deadline = self.timeout.map(|patience| tokio::time::Instant::now() + patience);
        let mut seen = 0;
        while self.count.is_none_or(|count| seen < count) {
            let next = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, messages.next()).await,
                None => Ok(messages.next().await),
            };
            match next {
                Ok(Some(message)) => output.print_next(&Line::from(message))?,
                Ok(None) => return Err(Problem::nats_refused(session.connection().url()).into()),
                Err(_elapsed) => return self.ended(seen),
            }
            seen += 1;
        }
        Ok(())
    }

    fn ended(&self, seen: u64) -> Outcome {
        let Some(count) = self.count else { return Ok(()) };
        let message = format!("NATS: subscription timeout: {seen} of {count} messages came on {}", self.subject);
        Err(Problem::new(ErrorCode::NatsTimeout, message).hint("is anything published there?").into())
    }
}

impl From<Message> for Line {
    fn from(message: Message) -> Self {
        let payload = publish::readable(&message.payload);
        Self { subject: message.subject, payload, headers: message.headers, reply: message.reply, raw: message.payload.to_vec() }
    }
}

impl Document for Line {
    fn text(&self, wide: bool) -> String {
        let payload = match std::str::from_utf8(&self.raw) {
            Ok(text) => printable(text),
            Err(_) => format!("{} bytes, hex {}", self.raw.len(), lattice_core::id::hex(&self.raw)),
        };
        let headers = if wide && !self.headers.is_empty() {
            format!(" [{}]", printable(&crate::output::pairs(&self.headers)))
        } else {
            String::new()
        };
        format!("{}{headers} {payload}", printable(&self.subject))
    }

    fn names(&self) -> Vec<String> {
        vec![self.subject.clone()]
    }
}
