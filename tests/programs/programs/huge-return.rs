//! Hands the host more than it should take. The payload says what and how many bytes (2 MiB):
//!
//! * `reply <bytes>` (default) answers with that much;
//! * `error <bytes>` fails with a message of that length;
//! * `publish <bytes> <subject>` publishes that much;
//! * `set <bytes> <key>` stores that much;
//! * `key <bytes>` stores a byte under a key of that length;
//! * `subject <bytes>` publishes a byte on a subject of that length.
//!
//! The last four answer `ok` or fail with what the host said.

use programs::{BrokerMessage, command};

programs::program!(answer);

const BYTES: usize = 2 * 1024 * 1024;

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let mut words = programs::text(&message)?.split_whitespace();
    let what = words.next().unwrap_or("reply");
    let bytes = words.next().map_or(Ok(BYTES), str::parse).map_err(|error| error.to_string())?;
    let name = words.next().unwrap_or("huge");
    let huge = "x".repeat(bytes);
    match what {
        "reply" => return Ok(huge.into_bytes()),
        "error" => return Err(huge),
        "publish" => programs::publish(name, huge.into_bytes())?,
        "set" => command::open(command::BUCKET)?.set(name, huge.as_bytes()).map_err(|error| error.to_string())?,
        "key" => command::open(command::BUCKET)?.set(&huge, b"x").map_err(|error| error.to_string())?,
        "subject" => programs::publish(&huge, b"x".to_vec())?,
        other => return Err(format!("no such thing: {other}")),
    }
    Ok(b"ok".to_vec())
}
