//! Answers a message with its payload; leaves an HTTP request without an answer. Two ways in, so that one of them can be shut.

use programs::BrokerMessage;
use programs::http::exports::wasi::http::incoming_handler::Guest;
use programs::http::wasi::http::types::{IncomingRequest, ResponseOutparam};

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    Ok(message.body)
}

struct Silent;

programs::http::export_http!(Silent);

impl Guest for Silent {
    fn handle(_request: IncomingRequest, _out: ResponseOutparam) {}
}
