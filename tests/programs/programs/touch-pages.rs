//! Writes to [`PAGES`] pages of memory and counts the messages of this instance. With the payload `fresh` it fails unless
//! this is its first message and all those pages are untouched; with any other, unless they hold what the last one wrote.

use std::sync::atomic::{AtomicU64, Ordering};

use programs::BrokerMessage;

programs::worker!(work);

/// Pages to write to; with those that every call needs (stack, heap, globals) it is eight.
const PAGES: usize = 5;
/// Numbers on a page of the machine below.
const NUMBERS_PER_PAGE: usize = 4096 / size_of::<u64>();

static SEEN: AtomicU64 = AtomicU64::new(0);
static MEMORY: [AtomicU64; PAGES * NUMBERS_PER_PAGE] = [const { AtomicU64::new(0) }; PAGES * NUMBERS_PER_PAGE];

fn work(message: &BrokerMessage) -> Result<(), String> {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed);
    if message.body == b"fresh" && seen != 0 {
        return Err(format!("this instance has seen {seen} messages"));
    }
    for first in MEMORY.iter().step_by(NUMBERS_PER_PAGE) {
        let found = first.swap(seen.wrapping_add(1), Ordering::Relaxed);
        if found != seen {
            return Err(format!("a page holds {found} instead of {seen}"));
        }
    }
    Ok(())
}
