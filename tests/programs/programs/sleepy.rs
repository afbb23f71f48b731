//! Sleeps for as many milliseconds as the payload says (100), then answers `slept <n> ms`.

use std::time::Duration;

use programs::BrokerMessage;

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let millis = programs::number(&message, 100)?;
    std::thread::sleep(Duration::from_millis(millis));
    Ok(format!("slept {millis} ms").into_bytes())
}
