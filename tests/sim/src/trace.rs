//! What happened, as bytes: their hash tells whether two runs were the same.

use std::fmt::{self, Write as _};

use crate::clock::Millis;

/// Lines that are kept of a run that is not written out: what stands before a failure.
const KEPT: usize = 60;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    recent: std::collections::VecDeque<String>,
    all: Option<Vec<String>>,
    buffer: String,
}

impl Trace {
    /// An empty one; `whole` keeps every line.
    pub fn new(whole: bool) -> Self {
        let recent = std::collections::VecDeque::with_capacity(KEPT);
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, recent, all: whole.then(Vec::new), buffer: String::new() }
    }

    /// Notes a line.
    pub fn note(&mut self, at: Millis, line: fmt::Arguments<'_>) {
        self.buffer.clear();
        // Writing to a string cannot fail.
        let _ = writeln!(self.buffer, "{at:>7} {line}");
        for byte in self.buffer.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        match &mut self.all {
            Some(all) => all.push(self.buffer.clone()),
            None => {
                // The oldest line gives its room to the newest.
                let mut line = if self.recent.len() == KEPT { self.recent.pop_front().unwrap_or_default() } else { String::new() };
                line.clone_from(&self.buffer);
                self.recent.push_back(line);
            }
        }
    }

    /// Hash of every line so far (FNV-1a).
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// All lines, or the last ones.
    pub fn text(&self) -> String {
        match &self.all {
            Some(all) => all.concat(),
            None => self.recent.iter().map(String::as_str).collect(),
        }
    }
}
