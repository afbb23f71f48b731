//! Answers with the payload.

use programs::BrokerMessage;

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    Ok(message.body)
}
