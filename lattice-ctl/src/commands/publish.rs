//! `pub`.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use lattice_core::error::Problem;
use lattice_core::{id, subject};
use serde::Serialize;
use serde_json::Value;

use crate::args;
use crate::bus::{self, Stored};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output};
use crate::problems;

/// How long an answer to `--request` is waited for.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest payload that is read, in bytes; servers take less, and the exact limit is theirs to say.
const MAX_PAYLOAD_BYTES: u64 = 64 * 1024 * 1024;

/// Publish a message
///
/// Where the stream edge-events captures the subject, the message is acknowledged by the stream: then it is stored.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl pub edge.sensor.ap-east-1 '{\"device_id\":\"sensor-001\",\"temperature\":92.5,\"humidity\":78.3,\"timestamp\":1718668800,\"region\":\"ap-east-1\"}'
  lattice-ctl pub edge.sensor.eu @reading.json --header source=test
  echo '{}' | lattice-ctl pub edge.sensor.eu - --request")]
pub(crate) struct Pub {
    /// Subject to publish on
    #[arg(value_name = "SUBJECT")]
    subject: String,

    /// Payload: text, @file, or - for standard input
    #[arg(value_name = "PAYLOAD", default_value = "", allow_hyphen_values = true)]
    payload: String,

    /// Header
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = args::pair)]
    header: Vec<(String, String)>,

    /// Insist on a stream that stores the message
    #[arg(long, conflicts_with = "request")]
    jetstream: bool,

    /// Wait for one reply and print it
    #[arg(long)]
    request: bool,

    /// How long to wait for the reply: 250ms, 5s, 2m [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What became of a message.
#[derive(Debug, Serialize)]
struct Published {
    subject: String,
    bytes: usize,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    stored: Option<Stored>,
}

/// A reply.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Reply(Value);

impl Pub {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        subject::check_subject(&self.subject).map_err(|error| problems::usage(error.to_string()))?;
        let payload = payload(&self.payload)?;
        let session = Session::open(&self.connection).await?;
        let connection = session.connection();
        bus::check_size(connection, &payload)?;
        if self.request {
            let patience = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
            let answer = bus::request(connection, &self.subject, &self.header, payload, patience).await?;
            return output.payload(&answer.payload, &Reply(readable(&answer.payload)));
        }
        let bytes = payload.len();
        let captured = bus::is_captured(&self.subject) && session.lattice.edge_stream_status().await.is_ok_and(|stream| stream.is_some());
        let stored = if self.jetstream || captured {
            Some(bus::store(connection, &self.subject, &self.header, payload).await?)
        } else {
            bus::publish(connection, &self.subject, &self.header, payload).await?;
            None
        };
        output.print(&Published { subject: self.subject, bytes, stored })
    }
}

/// The payload that an argument means: text, `@file`, or `-` for standard input.
///
/// # Errors
/// If it cannot be read or is far too large.
pub(super) fn payload(argument: &str) -> Result<Bytes, Problem> {
    let mut bytes = Vec::new();
    let limit = MAX_PAYLOAD_BYTES.saturating_add(1);
    match argument {
        "-" => std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| problems::failed("reading standard input", &error))?,
        _ => match argument.strip_prefix('@') {
            Some(path) => {
                let path = std::path::Path::new(path);
                let file = std::fs::File::open(path).map_err(|error| problems::path("payload", path, &error))?;
                file.take(limit).read_to_end(&mut bytes).map_err(|error| problems::path("payload", path, &error))?
            }
            None => return Ok(Bytes::copy_from_slice(argument.as_bytes())),
        },
    };
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_PAYLOAD_BYTES {
        return Err(problems::usage(format!("the payload has more than {MAX_PAYLOAD_BYTES} bytes")));
    }
    Ok(bytes.into())
}

/// A payload for people and programs: JSON as it is, other text as text, anything else in hex.
pub(super) fn readable(payload: &[u8]) -> Value {
    match std::str::from_utf8(payload) {
        Ok(text) => lattice_core::wire::json::parse(payload, payload.len(), lattice_core::wire::json::MAX_DEPTH)
            .unwrap_or_else(|_| Value::from(text)),
        Err(_) => Value::from(id::hex(payload)),
    }
}

impl Document for Published {
    fn text(&self, _wide: bool) -> String {
        match &self.stored {
            Some(stored) => format!("{} bytes on {}, stored in {} at {}", self.bytes, self.subject, stored.stream, stored.sequence),
            None => format!("{} bytes on {}", self.bytes, self.subject),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.subject.clone()]
    }
}

impl Document for Reply {
    fn text(&self, _wide: bool) -> String {
        self.0.to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.text(false)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        assert_eq!(payload("{}").unwrap(), Bytes::from("{}"));
        assert_eq!(payload("").unwrap(), Bytes::new());
        assert!(payload("@/no/such/file").unwrap_err().message.contains("/no/such/file"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, b"\xff\0").unwrap();
        assert_eq!(payload(&format!("@{}", path.display())).unwrap(), Bytes::from_static(b"\xff\0"));
    }

    #[test]
    fn readable_payloads() {
        assert_eq!(readable(br#"{"a":1}"#), serde_json::json!({"a": 1}));
        assert_eq!(readable(b"hello"), Value::from("hello"));
        assert_eq!(readable(b"\xff\0"), Value::from("ff00"));
        assert_eq!(readable("[".repeat(100).as_bytes()), Value::from("[".repeat(100)));
    }
}
