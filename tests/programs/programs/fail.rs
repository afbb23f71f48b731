//! Fails with `told to fail: <payload>`, unless the payload starts with `ok`: then it answers with it.

use programs::BrokerMessage;

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    match programs::text(&message)? {
        text if text.starts_with("ok") => Ok(text.into()),
        text => Err(format!("told to fail: {text}")),
    }
}
