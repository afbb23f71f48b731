//! Answers with all that the host tells it about itself, in order: lines `arg <value>`, `env <name>=<value>`,
//! `config <key>=<value>`.

use programs::BrokerMessage;
use programs::bindings::wasi::config0_2_0_draft::store as config;

programs::program!(answer);

fn answer(_message: BrokerMessage) -> Result<Vec<u8>, String> {
    let args = std::env::args().map(|value| format!("arg {value}"));
    let env = std::env::vars().map(|(name, value)| format!("env {name}={value}"));
    let config = config::get_all().map_err(|error| error.to_string())?;
    let config = config.into_iter().map(|(key, value)| format!("config {key}={value}"));
    let mut lines: Vec<String> = args.chain(env).chain(config).collect();
    lines.sort();
    Ok(lines.join("\n").into_bytes())
}
