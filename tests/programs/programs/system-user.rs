//! Calls of a system actor as lines of text. What comes on a scheduler's subject is run and answered line by line, with the
//! words `error: …` for what the host refused; everything else is counted.
//!
//! | line | does |
//! |---|---|
//! | `get <bucket> <key>` | shows `<revision> <value>` |
//! | `list <bucket>` | shows `<revision>: <key>=<value>@<revision> …` |
//! | `create <bucket> <key> <text>` · `update <bucket> <key> <expected> <text>` | shows the new revision |
//! | `commit <bucket> <at or -> <key>=<text>@<expected or -> …` | the same; without `=<text>` the key is deleted |
//! | `commit-large <bucket> <count> <bytes>` | a commit of that many keys of that size |
//! | `info <bucket>` | shows `<last revision> <keys>` |
//! | `publish <subject> <text>` | publishes the text |
//! | `heard` | how many other messages there were |

use std::cell::Cell;

use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::lattice::actor::store::{self, Change, Error};
use bindings::wasmcloud::messaging::consumer;

#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "system", generate_all });
    use super::SystemUser;
    export!(SystemUser);
}

struct SystemUser;

thread_local! {
    static HEARD: Cell<u32> = const { Cell::new(0) };
}

impl Guest for SystemUser {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let Some(reply_to) = message.reply_to.filter(|_| message.subject.contains(".sched.")) else {
            HEARD.with(|heard| heard.set(heard.get().saturating_add(1)));
            return Ok(());
        };
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let shown: Vec<String> = text.lines().map(|line| run(line).unwrap_or_else(|error| format!("error: {error}"))).collect();
        publish(&reply_to, shown.join("\n"))
    }
}

fn run(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["get", bucket, key] => match store::get(bucket, key).map_err(shown)? {
            Some(entry) => Ok(format!("{} {}", entry.revision, String::from_utf8_lossy(&entry.value))),
            None => Ok("(none)".to_owned()),
        },
        ["list", bucket] => {
            let listing = store::list(bucket).map_err(shown)?;
            let entry = |entry: &store::Entry| format!("{}={}@{}", entry.key, String::from_utf8_lossy(&entry.value), entry.revision);
            Ok(format!("{}: {}", listing.revision, listing.entries.iter().map(entry).collect::<Vec<_>>().join(" ")))
        }
        ["create", bucket, key, value] => revision(store::create(bucket, key, value.as_bytes())),
        ["update", bucket, key, expected, value] => revision(store::update(bucket, key, value.as_bytes(), number(expected)?)),
        ["commit", bucket, at, changes @ ..] => {
            let changes = changes.iter().map(|change| parse(change)).collect::<Result<Vec<_>, _>>()?;
            revision(store::commit(bucket, &changes, optional(at)?))
        }
        ["commit-large", bucket, count, bytes] => {
            let value = vec![b'x'; usize::try_from(number(bytes)?).unwrap_or(0)];
            let change = |n: u64| Change { key: format!("large.{n}"), value: Some(value.clone()), expected: None };
            let changes: Vec<Change> = (0..number(count)?).map(change).collect();
            revision(store::commit(bucket, &changes, None))
        }
        ["info", bucket] => store::info(bucket).map(|info| format!("{} {}", info.last_revision, info.entries)).map_err(shown),
        ["publish", subject, text] => publish(subject, (*text).to_owned()).map(|()| "ok".to_owned()),
        ["heard"] => Ok(HEARD.with(Cell::get).to_string()),
        _ => Err(format!("no such command: {line}")),
    }
}

fn parse(change: &str) -> Result<Change, String> {
    let (change, expected) = change.split_once('@').unwrap_or((change, "-"));
    let (key, value) = change.split_once('=').map_or((change, None), |(key, value)| (key, Some(value.as_bytes().to_vec())));
    Ok(Change { key: key.to_owned(), value, expected: optional(expected)? })
}

fn optional(text: &str) -> Result<Option<u64>, String> {
    if text == "-" { Ok(None) } else { number(text).map(Some) }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("number `{text}`: {error}"))
}

fn publish(subject: &str, text: String) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: subject.to_owned(), body: text.into_bytes(), reply_to: None })
}

fn revision(outcome: Result<u64, Error>) -> Result<String, String> {
    outcome.map(|revision| revision.to_string()).map_err(shown)
}

fn shown(error: Error) -> String {
    match error {
        Error::NoSuchBucket => "no such bucket".to_owned(),
        Error::AccessDenied => "access denied".to_owned(),
        Error::Conflict(text) => format!("conflict: {text}"),
        Error::UnknownOutcome(text) => format!("unknown outcome: {text}"),
        Error::TooLarge(text) => format!("too large: {text}"),
        Error::Unavailable(text) => format!("unavailable: {text}"),
        Error::Failed(text) => format!("failed: {text}"),
    }
}
