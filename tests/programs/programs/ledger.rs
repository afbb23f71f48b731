//! Keeps account of what it was given, so that a test can see whether anything was lost, done twice, or done by two at once.
//!
//! The payload is `<verb> <device> <number>`. Each verb ends with one publication on `edge.result.<last token of the subject>`:
//! `<device> <number> <node> <milliseconds since 1970>`.
//!
//! * `set`: the bucket gets `<device>.<number>` = node, for an actor of which several may run.
//! * `append`: the value of `<device>` in the bucket gets one more ` <number>@<node>`, for one with a single owner.
//! * `say`: nothing else, to see where it runs.
//! * `tick`: publishes ten times within a second and touches no bucket, for one whose effects nobody can refuse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use programs::{BrokerMessage, command};

programs::worker!(work);

/// Publications of one `tick`.
const TICKS: u32 = 10;
/// Between two of them.
const TICK: Duration = Duration::from_millis(100);

fn work(message: &BrokerMessage) -> Result<(), String> {
    let words: Vec<&str> = programs::text(message)?.split(' ').collect();
    let [verb, device, number] = words.as_slice() else { return Err(format!("no such line: {words:?}")) };
    let node = std::env::var("WASMCLOUD_NODE_ID").unwrap_or_else(|_| "unknown".to_owned());
    let stream = message.subject.rsplit('.').next().unwrap_or_default();
    let say = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        programs::publish(&format!("edge.result.{stream}"), format!("{device} {number} {node} {now}").into_bytes())
    };
    match *verb {
        "set" => {
            let bucket = command::open(command::BUCKET)?;
            bucket.set(&format!("{device}.{number}"), node.as_bytes()).map_err(|error| error.to_string())?;
            say()
        }
        "append" => {
            let bucket = command::open(command::BUCKET)?;
            let mut list = bucket.get(device).map_err(|error| error.to_string())?.unwrap_or_default();
            list.extend_from_slice(format!(" {number}@{node}").as_bytes());
            bucket.set(device, &list).map_err(|error| error.to_string())?;
            say()
        }
        "say" => say(),
        "tick" => {
            for _ in 0..TICKS {
                say()?;
                std::thread::sleep(TICK);
            }
            Ok(())
        }
        _ => Err(format!("no such verb: {verb}")),
    }
}
