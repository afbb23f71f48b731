//! Calls to the host as lines of text, so that a test can try any of them.
//!
//! `<word>` is one word, `<text>` is the rest of the line.
//!
//! | line | does |
//! |---|---|
//! | `publish <subject> <text>` | publishes the text |
//! | `request <subject> <timeout-ms> <text>` | requests, shows the reply's body |
//! | `open <bucket>` | opens a bucket by that name |
//! | `get <key>` · `exists <key>` · `delete <key>` | on the bucket `default` |
//! | `set <key> <text>` · `increment <key> <delta>` | on the bucket `default` |
//! | `list` | all keys of the bucket `default`, page by page |
//! | `get-many <key> …` · `set-many <text> <key> …` · `delete-many <key> …` | the same in a batch |
//! | `config <key>` | a config value |

use crate::bindings::wasi::config0_2_0_draft::store as config;
use crate::bindings::wasi::keyvalue::store::{self, Bucket};
use crate::bindings::wasi::keyvalue::{atomics, batch};
use crate::bindings::wasmcloud::messaging::consumer;

/// The bucket that a link binds to a real one.
pub const BUCKET: &str = "default";
/// What is shown for something that is not there.
pub const NONE: &str = "(none)";

/// Runs one line and shows what came out, `ok` if nothing did.
///
/// # Errors
/// What the host answered, or that the line is no command.
pub fn run(line: &str) -> Result<String, String> {
    let (verb, rest) = word(line);
    match verb {
        "publish" => {
            let (subject, text) = word(rest);
            crate::publish(subject, text.into()).map(ok)
        }
        "request" => request(rest),
        "open" => open(rest).map(|_bucket| "ok".to_owned()),
        "get" | "exists" | "delete" | "set" | "increment" | "list" => keyvalue(&open(BUCKET)?, verb, rest).map_err(shown),
        "get-many" | "set-many" | "delete-many" => many(&open(BUCKET)?, verb, rest).map_err(shown),
        "config" => match config::get(rest) {
            Ok(value) => Ok(value.unwrap_or_else(|| NONE.to_owned())),
            Err(config::Error::Upstream(reason) | config::Error::Io(reason)) => Err(reason),
        },
        _ => Err(format!("no such command: {line}")),
    }
}

/// Opens a bucket.
///
/// # Errors
/// What the host answered.
pub fn open(name: &str) -> Result<Bucket, String> {
    store::open(name).map_err(shown)
}

fn request(rest: &str) -> Result<String, String> {
    let (subject, rest) = word(rest);
    let (timeout, body) = word(rest);
    let timeout = timeout.parse().map_err(|error| format!("timeout `{timeout}`: {error}"))?;
    consumer::request(subject, body.as_bytes(), timeout).map(|reply| text(Some(reply.body)))
}

fn keyvalue(bucket: &Bucket, verb: &str, rest: &str) -> Result<String, store::Error> {
    let (key, value) = word(rest);
    match verb {
        "get" => bucket.get(key).map(text),
        "exists" => bucket.exists(key).map(|exists| exists.to_string()),
        "delete" => bucket.delete(key).map(ok),
        "set" => bucket.set(key, value.as_bytes()).map(ok),
        "increment" => {
            let delta = value.parse().map_err(|error| store::Error::Other(format!("delta `{value}`: {error}")))?;
            atomics::increment(bucket, key, delta).map(|sum| sum.to_string())
        }
        _ => list(bucket),
    }
}

fn list(bucket: &Bucket) -> Result<String, store::Error> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(keys.join(" "));
        }
    }
}

fn many(bucket: &Bucket, verb: &str, rest: &str) -> Result<String, store::Error> {
    let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    match (verb, words.split_first()) {
        ("get-many", _) => {
            let found = batch::get_many(bucket, &words)?;
            let shown = found.into_iter().map(|entry| match entry {
                Some((key, value)) => format!("{key}={}", text(Some(value))),
                None => NONE.to_owned(),
            });
            Ok(shown.collect::<Vec<_>>().join(" "))
        }
        ("delete-many", _) => batch::delete_many(bucket, &words).map(ok),
        (_, Some((value, keys))) => {
            let entries: Vec<_> = keys.iter().map(|key| (key.clone(), value.as_bytes().to_vec())).collect();
            batch::set_many(bucket, &entries).map(ok)
        }
        (_, None) => Err(store::Error::Other("set-many without a value".to_owned())),
    }
}

fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn ok((): ()) -> String {
    "ok".to_owned()
}

fn text(bytes: Option<Vec<u8>>) -> String {
    bytes.map_or_else(|| NONE.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn shown(error: store::Error) -> String {
    match error {
        store::Error::NoSuchStore => "no such store".to_owned(),
        store::Error::AccessDenied => "access denied".to_owned(),
        store::Error::Other(reason) => reason,
    }
}
