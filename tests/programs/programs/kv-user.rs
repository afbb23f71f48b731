//! Runs every line of the payload (see [`programs::command`]) and answers with what came out, line by line; the first
//! error is the handler's error.

use programs::{BrokerMessage, command};

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let shown: Result<Vec<_>, _> = programs::text(&message)?.lines().map(command::run).collect();
    Ok(shown?.join("\n").into_bytes())
}
