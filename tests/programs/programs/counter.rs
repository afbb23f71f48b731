//! Answers with how many messages this very instance has seen; traps after counting if the payload is `trap`.

use std::sync::atomic::{AtomicU64, Ordering};

use programs::BrokerMessage;

programs::program!(answer);

static SEEN: AtomicU64 = AtomicU64::new(0);

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if programs::text(&message)? == "trap" {
        std::process::abort();
    }
    Ok(seen.to_string().into_bytes())
}
