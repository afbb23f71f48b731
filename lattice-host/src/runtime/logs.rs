//! What actors say: log lines through `wasi:logging`, standard output and error.
//!
//! **Invariants.** An actor can neither flood the host (a quota per second, a length per line) nor forge lines or move the
//! cursor of whoever reads them (control and direction characters are escaped).

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::id::ActorId;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of log lines that one actor may write in one second; the rest of that second is dropped and counted.
pub const LOG_QUOTA_BYTES: usize = 64 * 1024;
/// Longest line in bytes; the rest is cut off.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// What a line costs besides its text, so that empty ones are not free.
const LINE_OVERHEAD_BYTES: usize = 64;
/// Denials of one actor that are written to the audit log in one second.
const AUDIT_QUOTA: usize = 10;
/// Length of the windows that quotas count in.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes of standard output taken at once.
const STDIO_PERMIT_BYTES: usize = 4096;

/// How serious a line is, as in `wasi:logging`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Values and control flow.
    Trace,
    /// For whoever debugs.
    Debug,
    /// For whoever watches.
    Info,
    /// Hazardous.
    Warn,
    /// Serious.
    Error,
    /// Fatal.
    Critical,
}

impl LogLevel {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// Where lines of actors go. Must not block; is called from many threads.
pub trait LogSink: Send + Sync {
    /// One line, already escaped and within the quota. `context` is the actor's own word for where it comes from.
    fn log(&self, actor: &ActorId, level: LogLevel, context: &str, message: &str);

    /// Lines that were dropped because the actor wrote more than [`LOG_QUOTA_BYTES`] in a second.
    fn dropped(&self, actor: &ActorId, lines: u64) {
        let _ = (actor, lines);
    }

    /// A call that a link does not cover; at most a few per second and actor. The audit log has it already.
    fn denied(&self, actor: &ActorId, contract: &str, what: &str) {
        let _ = (actor, contract, what);
    }
}

/// Drops everything.
#[derive(Debug, Clone, Copy)]
pub struct NoLogs;

impl LogSink for NoLogs {
    fn log(&self, _actor: &ActorId, _level: LogLevel, _context: &str, _message: &str) {}
}

/// One actor's way to the sink.
pub(crate) struct ActorLog {
    actor: ActorId,
    sink: Arc<dyn LogSink>,
    lines: Mutex<Quota>,
    denials: Mutex<Quota>,
}

impl ActorLog {
    pub(crate) fn new(actor: ActorId, sink: Arc<dyn LogSink>) -> Arc<Self> {
        Arc::new(Self { actor, sink, lines: Mutex::new(Quota::new(LOG_QUOTA_BYTES)), denials: Mutex::new(Quota::new(AUDIT_QUOTA)) })
    }

    pub(crate) fn line(&self, level: LogLevel, context: &str, message: &str) {
        let (context, message) = (cut(context), cut(message));
        let cost = LINE_OVERHEAD_BYTES.saturating_add(context.len()).saturating_add(message.len());
        match take(&self.lines, cost) {
            Taken::Refused => {}
            Taken::Granted { dropped } => {
                if dropped > 0 {
                    self.sink.dropped(&self.actor, dropped);
                }
                self.sink.log(&self.actor, level, &neutral(context), &neutral(message));
            }
        }
    }

    /// Writes to the audit log that a call was denied.
    pub(crate) fn denied(&self, contract: &str, what: &str) {
        if let Taken::Granted { dropped } = take(&self.denials, 1) {
            let what = neutral(cut(what));
            tracing::warn!(target: "audit", actor = %self.actor, contract, what = %what, not_shown = dropped, "capability denied");
            self.sink.denied(&self.actor, contract, &what);
        }
    }
}

fn take(quota: &Mutex<Quota>, cost: usize) -> Taken {
    quota.lock().unwrap_or_else(PoisonError::into_inner).take(cost, Instant::now())
}

/// An allowance per [`WINDOW`].
#[derive(Debug)]
struct Quota {
    limit: usize,
    left: usize,
    window: Option<Instant>,
    dropped: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// Go ahead; so many were refused since the last time.
    Granted {
        dropped: u64,
    },
    Refused,
}

impl Quota {
    fn new(limit: usize) -> Self {
        Self { limit, left: limit, window: None, dropped: 0 }
    }

    fn take(&mut self, cost: usize, now: Instant) -> Taken {
        if self.window.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW) {
            self.window = Some(now);
            self.left = self.limit;
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Taken::Granted { dropped: std::mem::take(&mut self.dropped) }
            }
            None => {
                // What is left is gone: a short line after a long one must not look like the whole story.
                self.left = 0;
                self.dropped = self.dropped.saturating_add(1);
                Taken::Refused
            }
        }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LINE_BYTES)).unwrap_or_default()
}

/// `text` with everything escaped that would start a new line, move a cursor or turn the direction of writing.
fn neutral(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if c.is_control() || is_format(c) {
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

/// Line and paragraph separators, marks of direction, the byte order mark.
fn is_format(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Standard output or error of one instance, cut into lines.
#[derive(Clone)]
pub(crate) struct StdioLog {
    log: Arc<ActorLog>,
    level: LogLevel,
    context: &'static str,
    /// The line that is not finished yet; all streams of one instance share it.
    partial: Arc<Mutex<Vec<u8>>>,
}

impl StdioLog {
    pub(crate) fn stdout(log: &Arc<ActorLog>) -> Self {
        Self { log: log.clone(), level: LogLevel::Info, context: "stdout", partial: Arc::default() }
    }

    pub(crate) fn stderr(log: &Arc<ActorLog>) -> Self {
        Self { log: log.clone(), level: LogLevel::Warn, context: "stderr", partial: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.ends_with(b"\n");
            partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            if ended || partial.len() >= MAX_LINE_BYTES {
                self.log.line(self.level, self.context, &String::from_utf8_lossy(&partial));
                partial.clear();
            }
        }
    }
}

impl Drop for StdioLog {
    fn drop(&mut self) {
        if Arc::strong_count(&self.partial) == 1 {
            let rest = std::mem::take(&mut *self.partial.lock().unwrap_or_else(PoisonError::into_inner));
            if !rest.is_empty() {
                self.log.line(self.level, self.context, &String::from_utf8_lossy(&rest));
            }
        }
    }
}

impl IsTerminal for StdioLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for StdioLog {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for StdioLog {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for StdioLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STDIO_PERMIT_BYTES)
    }
}

impl AsyncWrite for StdioLog {
    fn poll_write(self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl LogSink for Kept {
        fn log(&self, _actor: &ActorId, level: LogLevel, context: &str, message: &str) {
            self.0.lock().unwrap().push(format!("{} {context}: {message}", level.as_str()));
        }

        fn dropped(&self, _actor: &ActorId, lines: u64) {
            self.0.lock().unwrap().push(format!("dropped {lines}"));
        }
    }

    fn log() -> (Arc<Kept>, Arc<ActorLog>) {
        let kept = Arc::new(Kept::default());
        (kept.clone(), ActorLog::new(ActorId::new("a").unwrap(), kept))
    }

    #[test]
    fn lines_cannot_be_forged() {
        let (kept, log) = log();
        log.line(LogLevel::Info, "x\n", "a\r\n\u{1b}[2J\u{202e}ü");
        assert_eq!(*kept.0.lock().unwrap(), ["info x\\n: a\\r\\n\\u{1b}[2J\\u{202e}ü"]);
    }

    #[test]
    fn a_flood_is_bounded_and_said() {
        let start = Instant::now();
        let mut quota = Quota::new(100);
        assert_eq!(quota.take(60, start), Taken::Granted { dropped: 0 });
        assert_eq!(quota.take(60, start), Taken::Refused);
        assert_eq!(quota.take(1, start), Taken::Refused);
        assert_eq!(quota.take(60, start + WINDOW), Taken::Granted { dropped: 2 });
        assert_eq!(quota.take(40, start + WINDOW), Taken::Granted { dropped: 0 });
    }

    #[test]
    fn standard_output_comes_in_lines() {
        let (kept, log) = log();
        let out = StdioLog::stdout(&log);
        let mut stream = out.p2_stream();
        stream.write(Bytes::from_static(b"one\ntw")).unwrap();
        stream.write(Bytes::from_static(b"o\nrest")).unwrap();
        drop((stream, out));
        assert_eq!(*kept.0.lock().unwrap(), ["info stdout: one", "info stdout: two", "info stdout: rest"]);
    }

    #[test]
    fn endless_lines_are_cut() {
        let (kept, log) = log();
        let out = StdioLog::stderr(&log);
        out.take(&vec![b'x'; 3 * MAX_LINE_BYTES]);
        log.line(LogLevel::Info, "", &"é".repeat(MAX_LINE_BYTES));
        assert!(kept.0.lock().unwrap().iter().all(|line| line.len() <= MAX_LINE_BYTES * 3 + 20));
        assert!(out.partial.lock().unwrap().len() < MAX_LINE_BYTES);
    }
}
