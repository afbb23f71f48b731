//! The only place that prints.
//!
//! Documents go to standard output in the format that was asked for, messages to standard error. Colour and live status
//! appear only on a terminal, colour only without `NO_COLOR`. When the reader of standard output goes away the command ends
//! quietly.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::ValueEnum;
use lattice_core::error::Problem;
use serde::Serialize;
use serde_json::Value;

use crate::error::{CommandError, Outcome};
use crate::problems;

/// Exit code when the reader of standard output went away: it got what it wanted.
const EXIT_OUTPUT_CLOSED: u8 = 0;
/// Gap between two columns, in characters.
const COLUMN_GAP: usize = 2;
/// Start of a line that replaces the one before it on a terminal.
const REPLACE_LINE: &str = "\r\x1b[2K";

/// How documents are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    #[value(alias = "text")]
    Table,
    /// The same with all columns
    Wide,
    /// One JSON document
    Json,
    /// One JSON document a line
    Ndjson,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

impl Format {
    /// Whether a program is reading.
    pub(crate) fn is_for_programs(self) -> bool {
        matches!(self, Self::Json | Self::Ndjson | Self::Yaml)
    }
}

/// Something that a command has found out or done.
pub(crate) trait Document: Serialize {
    /// For people; `wide` asks for everything.
    fn text(&self, wide: bool) -> String;
    /// `<kind>/<name>` of each thing in it.
    fn names(&self) -> Vec<String>;
}

/// Where everything is printed.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    colour: bool,
    live: bool,
}

impl Output {
    /// Prints in `format`.
    pub(crate) fn new(format: Format) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = io::stderr().is_terminal();
        Self { format, colour: terminal && !no_colour, live: terminal && !format.is_for_programs() }
    }

    /// The format that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Lets warnings of the libraries appear on standard error; `LATTICE_LOG` asks for more.
    pub(crate) fn install_log(&self) {
        let filter = tracing_subscriber::EnvFilter::try_from_env("LATTICE_LOG").unwrap_or_else(|_| "warn,async_nats=off".into());
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(self.colour).with_target(false);
        // Only tests could have set another one before.
        let _ = log.compact().without_time().try_init();
    }

    /// Prints a document.
    pub(crate) fn print(&self, document: &impl Document) -> Outcome {
        let text = match self.format {
            Format::Table => document.text(false),
            Format::Wide => document.text(true),
            Format::Json => pretty(document)?,
            Format::Ndjson => {
                let value = as_value(document)?;
                let items = value.as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
                items.iter().map(Value::to_string).collect::<Vec<_>>().join(
                    "
",
                )
            }
            Format::Yaml => serde_saphyr::to_string(&as_value(document)?).map_err(|error| problems::failed("writing YAML", &error))?,
            Format::Name => document.names().join("\n"),
        };
        self.line(&text)
    }

    /// Prints one of a series of documents: a line each, whatever the format.
    pub(crate) fn print_next(&self, document: &impl Document) -> Outcome {
        match self.format {
            Format::Json | Format::Ndjson => self.line(&as_value(document)?.to_string()),
            Format::Yaml => self.line(&format!("---\n{}", serde_saphyr::to_string(&as_value(document)?).unwrap_or_default())),
            Format::Table | Format::Wide => self.line(&document.text(self.format == Format::Wide)),
            Format::Name => self.line(&document.names().join("\n")),
        }
    }

    /// Writes bytes as they are: a value, a script.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(closed)
    }

    /// Prints somebody's payload: as `document` for programs, as it is for people, made harmless for a terminal.
    pub(crate) fn payload(&self, bytes: &[u8], document: &impl Document) -> Outcome {
        if !matches!(self.format, Format::Table | Format::Wide) {
            return self.print(document);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if io::stdout().is_terminal() => self.line(&text.lines().map(printable).collect::<Vec<_>>().join("\n")),
            Ok(text) => self.line(text),
            Err(_) if io::stdout().is_terminal() => self.line(&lattice_core::id::hex(bytes)),
            Err(_) => self.raw(bytes),
        }
    }

    fn line(&self, text: &str) -> Outcome {
        if text.is_empty() {
            return Ok(());
        }
        let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
        self.raw(&[text.as_bytes(), end].concat())
    }

    /// Says something to people; a program that reads documents finds nothing on standard error but an error.
    pub(crate) fn note(&self, text: &str) {
        if !self.format.is_for_programs() {
            self.say(text);
        }
    }

    /// Says something to whoever is watching.
    pub(crate) fn say(&self, text: &str) {
        // Standard error may be closed; then nobody wants to know.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A line that changes in place; without a terminal it says nothing.
    pub(crate) fn live(&self) -> Live {
        Live { shown: self.live.then(String::new) }
    }

    /// Asks a question that is answered with yes or no; `None` if nobody is there to answer.
    pub(crate) fn ask(&self, question: &str) -> Option<bool> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let mut answer = String::new();
        let _ = write!(io::stderr().lock(), "{question} [y/N] ");
        io::stdin().read_line(&mut answer).ok()?;
        Some(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Says how the command ended.
    pub(crate) fn finish(&self, result: Outcome) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(CommandError::OutputClosed) => ExitCode::from(EXIT_OUTPUT_CLOSED),
            Err(CommandError::Problem(problem)) => {
                self.say(&self.describe(&problem));
                ExitCode::from(problem.code.exit_code())
            }
        }
    }

    fn describe(&self, problem: &Problem) -> String {
        if self.format.is_for_programs() {
            // Problems always encode; the code alone is better than nothing.
            return serde_json::to_string(&Failure { error: problem }).unwrap_or_else(|_| problem.code.as_str().to_owned());
        }
        let paint = |code: &str, text: &str| if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
        let mut text = format!("{} {}", paint("1;31", "error:"), problem.message);
        for cause in new_causes(problem) {
            text.push_str(&format!("\n  {}", cause.replace('\n', "\n  ")));
        }
        if let Some(hint) = &problem.hint {
            text.push_str(&format!("\n{} {hint}", paint("1;36", "hint:")));
        }
        text
    }
}

/// What stands on standard error for programs.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a Problem,
}

/// The causes that say something which the words before them do not.
pub(crate) fn new_causes(problem: &Problem) -> Vec<&str> {
    let mut said = vec![problem.message.as_str()];
    for cause in &problem.causes {
        if !said.iter().any(|text| text.contains(cause.as_str())) {
            said.push(cause);
        }
    }
    said.split_off(1)
}

/// A line on a terminal that changes in place and is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    /// The text on the terminal; none without a terminal.
    shown: Option<String>,
}

impl Live {
    /// Shows `text` instead of what was shown.
    pub(crate) fn show(&mut self, text: String) {
        if self.shown.as_ref().is_some_and(|shown| *shown != text) {
            let mut out = io::stderr().lock();
            let _ = write!(out, "{REPLACE_LINE}{text}").and_then(|()| out.flush());
            self.shown = Some(text);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.shown.as_ref().is_some_and(|shown| !shown.is_empty()) {
            let mut out = io::stderr().lock();
            let _ = write!(out, "{REPLACE_LINE}").and_then(|()| out.flush());
        }
    }
}

/// Columns under a header, without lines: easy to read and to cut.
pub(crate) fn columns(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    let gap = u16::try_from(COLUMN_GAP).unwrap_or(u16::MAX);
    for column in table.column_iter_mut() {
        column.set_padding((0, gap));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// `text` with its control characters made visible, so that nobody's data steers the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `13:07:42.125Z`.
pub(crate) fn time_of_day(at_ms: u64) -> String {
    let seconds = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60, at_ms % 1000)
}

/// `a=1,b=2`.
pub(crate) fn pairs<'a>(values: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    values.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn pretty(document: &impl Serialize) -> Outcome<String> {
    Ok(serde_json::to_string_pretty(document).map_err(|error| problems::failed("writing JSON", &error))?)
}

fn as_value(document: &impl Serialize) -> Outcome<Value> {
    Ok(serde_json::to_value(document).map_err(|error| problems::failed("writing JSON", &error))?)
}

fn closed(error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CommandError::OutputClosed
    } else {
        problems::failed("writing to standard output", &error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::error::ErrorCode;

    fn output(format: Format) -> Output {
        Output { format, colour: false, live: false }
    }

    #[test]
    fn problems_for_people_and_for_programs() {
        let mut problem = Problem::host_not_found("NEDGE03").hint("did you mean NEDGE02?");
        problem.causes = vec!["first".into(), "second".into()];
        assert_eq!(
            output(Format::Table).describe(&problem),
            "error: host not found: NEDGE03\n  first\n  second\nhint: did you mean NEDGE02?"
        );
        let text = output(Format::Json).describe(&problem);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["code"], "host-not-found");
        assert_eq!(value["error"]["hint"], "did you mean NEDGE02?");
        assert_eq!(value["error"]["causes"][1], "second");
        assert!(!text.contains('\n'), "one object on one line");
    }

    #[test]
    fn a_cause_that_the_message_repeats_is_left_out() {
        let mut problem = Problem::new(ErrorCode::Failed, "reading x: no such file");
        problem.causes = vec!["no such file".into()];
        assert_eq!(output(Format::Table).describe(&problem), "error: reading x: no such file");
    }

    #[test]
    fn times() {
        assert_eq!(time_of_day(1_718_668_800_125), "00:00:00.125Z");
        assert_eq!(time_of_day(1_718_716_062_007), "13:07:42.007Z");
    }

    #[test]
    fn columns_are_aligned_and_control_characters_visible() {
        let rows = vec![vec!["NEDGE01".to_owned(), "x\x1b[31m".to_owned()], vec!["N".to_owned(), "yy".to_owned()]];
        assert_eq!(columns(&["NAME", "B"], rows), "NAME     B\nNEDGE01  x\\u{1b}[31m\nN        yy");
    }
}
