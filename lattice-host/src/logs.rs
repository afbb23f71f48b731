//! What actors said lately, for the verb `logs`.
//!
//! The runtime limits what an actor may write per second; here the whole is bounded, the oldest lines go first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lattice_core::id::{ActorId, HostName};
use lattice_core::wire::event::EventKind;
use lattice_core::wire::request::{LogLine, LogPage, LogQuery};

use crate::clock;
use crate::recorder::Recorder;
use crate::runtime::{LogLevel, LogSink};

/// Most lines that are kept.
const MAX_LINES: usize = 4096;
/// Most bytes of text that are kept.
const MAX_BYTES: usize = 1024 * 1024;
/// Most bytes of text in one answer: it must fit into one message of the bus, escaped.
const MAX_PAGE_BYTES: usize = 256 * 1024;
/// Lines in an answer if the question does not say how many.
const DEFAULT_LIMIT: usize = 100;
/// What a line costs besides its text.
const LINE_OVERHEAD: usize = 96;

/// The last lines of all actors of this host.
#[derive(Debug)]
pub(crate) struct LogRing {
    recorder: Recorder,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    bytes: usize,
    last_number: u64,
    dropped: BTreeMap<ActorId, u64>,
}

impl LogRing {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { recorder, kept: Mutex::default() }
    }

    /// The newest lines that `query` asks for, oldest first.
    pub(crate) fn page(&self, host: &HostName, query: &LogQuery) -> LogPage {
        let kept = self.lock();
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(DEFAULT_LIMIT);
        let wanted = |line: &&LogLine| line.number > query.after && query.actor.as_ref().is_none_or(|actor| *actor == line.actor);
        let mut bytes = 0_usize;
        let fits = |line: &&LogLine| {
            bytes = bytes.saturating_add(cost(line));
            bytes <= MAX_PAGE_BYTES
        };
        let mut lines: Vec<LogLine> = kept.lines.iter().rev().filter(wanted).take(limit).take_while(fits).cloned().collect();
        lines.reverse();
        let dropped = match &query.actor {
            Some(actor) => kept.dropped.get(actor).copied().unwrap_or(0),
            None => kept.dropped.values().fold(0, |sum: u64, dropped| sum.saturating_add(*dropped)),
        };
        LogPage { host: host.clone(), next: kept.last_number, dropped, lines }
    }

    /// Forgets the counts of an actor that is gone.
    pub(crate) fn forget(&self, actor: &ActorId) {
        self.lock().dropped.remove(actor);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSink for LogRing {
    fn log(&self, actor: &ActorId, level: LogLevel, context: &str, message: &str) {
        tracing::debug!(target: "actor", %actor, level = level.as_str(), context, "{message}");
        let message = if context.is_empty() { message.to_owned() } else { format!("{context}: {message}") };
        let mut kept = self.lock();
        kept.last_number = kept.last_number.saturating_add(1);
        let line =
            LogLine { number: kept.last_number, at_ms: clock::now_ms(), actor: actor.clone(), level: level.as_str().to_owned(), message };
        kept.bytes = kept.bytes.saturating_add(cost(&line));
        kept.lines.push_back(line);
        while kept.lines.len() > MAX_LINES || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(cost(&oldest));
        }
    }

    fn dropped(&self, actor: &ActorId, lines: u64) {
        let mut kept = self.lock();
        let dropped = kept.dropped.entry(actor.clone()).or_default();
        *dropped = dropped.saturating_add(lines);
    }

    fn denied(&self, actor: &ActorId, contract: &str, what: &str) {
        let details = [("actor", actor.as_str()), ("contract", contract), ("what", what)];
        let details = details.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        self.recorder.record(EventKind::Denied, format!("capability denied: {contract}: {actor}: {what}"), details);
    }
}

fn cost(line: &LogLine) -> usize {
    line.message.len().saturating_add(LINE_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::tests::recorder;

    fn actor(name: &str) -> ActorId {
        ActorId::new(name).unwrap()
    }

    fn page(ring: &LogRing, query: LogQuery) -> (Vec<String>, u64) {
        let page = ring.page(&HostName::new("h").unwrap(), &query);
        (page.lines.into_iter().map(|line| line.message).collect(), page.next)
    }

    #[test]
    fn the_newest_lines_of_whom_one_asks_for() {
        let ring = LogRing::new(recorder().0);
        for n in 0..5 {
            ring.log(&actor("a"), LogLevel::Info, "", &format!("a{n}"));
            ring.log(&actor("b"), LogLevel::Warn, "ctx", &format!("b{n}"));
        }
        let query = LogQuery { actor: Some(actor("a")), limit: 2, ..LogQuery::default() };
        assert_eq!(page(&ring, query.clone()), (vec!["a3".into(), "a4".into()], 10));
        assert_eq!(page(&ring, LogQuery { after: 9, ..query }), (vec![], 10));
        assert_eq!(page(&ring, LogQuery { after: 9, ..LogQuery::default() }), (vec!["ctx: b4".into()], 10));
    }

    #[test]
    fn bounded_in_lines_and_bytes() {
        let ring = LogRing::new(recorder().0);
        for _ in 0..MAX_LINES + 10 {
            ring.log(&actor("a"), LogLevel::Info, "", "x");
        }
        assert_eq!(ring.lock().lines.len(), MAX_LINES);
        for _ in 0..300 {
            ring.log(&actor("a"), LogLevel::Info, "", &"y".repeat(8 * 1024));
        }
        assert!(ring.lock().bytes <= MAX_BYTES);
        let (lines, _) = page(&ring, LogQuery { limit: 1000, ..LogQuery::default() });
        assert!(lines.iter().map(String::len).sum::<usize>() <= MAX_PAGE_BYTES && lines.len() > 20);
        ring.dropped(&actor("a"), 3);
        assert_eq!(ring.page(&HostName::new("h").unwrap(), &LogQuery::default()).dropped, 3);
    }
}
