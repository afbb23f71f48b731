//! Takes handles and never gives them back: `<kind> <count>` in the payload, kind `pollables` (default) or `buckets`,
//! count 1,000,000. Answers `kept <count>`.

use programs::bindings::wasi::clocks::monotonic_clock::subscribe_duration;
use programs::{BrokerMessage, command};

programs::program!(answer);

const COUNT: u64 = 1_000_000;

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let mut words = programs::text(&message)?.split_whitespace();
    let kind = words.next().unwrap_or("pollables");
    let count = words.next().map_or(Ok(COUNT), str::parse).map_err(|error| error.to_string())?;
    for _ in 0..count {
        match kind {
            "pollables" => std::mem::forget(subscribe_duration(1)),
            "buckets" => std::mem::forget(command::open(command::BUCKET)?),
            other => return Err(format!("no such kind: {other}")),
        }
    }
    Ok(format!("kept {count}").into_bytes())
}
