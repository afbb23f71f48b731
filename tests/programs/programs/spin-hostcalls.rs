//! Never comes back and calls the host all the time: reads a config value, or writes a log line if the payload is `log`.

use programs::BrokerMessage;
use programs::bindings::wasi::config0_2_0_draft::store as config;
use programs::bindings::wasi::logging::logging::{Level, log};

programs::program!(answer);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let is_log = programs::text(&message)? == "log";
    loop {
        if is_log {
            log(Level::Info, "spin", "still here");
        } else {
            let _ = config::get("anything");
        }
    }
}
