//! Looks for bytes that somebody left in memory which must be zero, answers `<count> dirty bytes`, and then dirties every
//! other page of it, more of them than the kernel reports in one go.

use std::arch::wasm32::memory_grow;

use programs::BrokerMessage;

programs::program!(answer);

/// Bytes of a page of wasm, in which memory grows.
const WASM_PAGE: usize = 64 * 1024;
/// Pages to grow by: 8 MiB, far more than the host keeps resident.
const GROW_BY: usize = 128;
/// Bytes of a page of the machine below.
const PAGE: usize = 4096;

#[expect(unsafe_code, reason = "memory that no allocator has touched has no other access")]
fn answer(_message: BrokerMessage) -> Result<Vec<u8>, String> {
    let old = memory_grow::<0>(GROW_BY);
    if old == usize::MAX {
        return Err("no memory".to_owned());
    }
    // SAFETY: these pages were granted just now, and the allocator takes only pages that it asked for itself.
    let fresh = unsafe { std::slice::from_raw_parts_mut((old * WASM_PAGE) as *mut u8, GROW_BY * WASM_PAGE) };
    let dirty = std::hint::black_box(&*fresh).iter().filter(|byte| **byte != 0).count();
    for page in fresh.chunks_mut(2 * PAGE) {
        page.iter_mut().take(PAGE).for_each(|byte| *byte = 0xa5);
    }
    std::hint::black_box(fresh);
    Ok(format!("{dirty} dirty bytes").into_bytes())
}
