//! Logs as many MiB as the payload says (8), with escape sequences, line breaks and control characters in every line,
//! to the logging interface, to stdout and to stderr; then answers with the number of lines that each of them got.

use std::io::Write as _;

use programs::BrokerMessage;
use programs::bindings::wasi::logging::logging::{Level, log};

programs::program!(answer);

const LINE: &str = "\u{1b}[2J\u{1b}[31mred\u{1b}[0m\r\nlevel=ERROR forged=\"line\"\u{0}\u{7}\u{202e}\u{9b}31m ";
const LINE_BYTES: usize = 16 * 1024;

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let mebibytes = usize::try_from(programs::number(&message, 8)?).map_err(|error| error.to_string())?;
    let line = LINE.repeat(LINE_BYTES / LINE.len());
    let lines = mebibytes.saturating_mul(1024 * 1024) / line.len();
    for _ in 0..lines {
        log(Level::Error, &line, &line);
        let _ = writeln!(std::io::stdout(), "{line}");
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(lines.to_string().into_bytes())
}
