//! Traps in the handler: panics with the payload in its message, or aborts without a word if the payload is `abort`.

use programs::BrokerMessage;

programs::program!(answer);

#[expect(clippy::panic, reason = "this is what it is for")]
fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    match programs::text(&message)? {
        "abort" => std::process::abort(),
        text => panic!("told to panic: {text}"),
    }
}
