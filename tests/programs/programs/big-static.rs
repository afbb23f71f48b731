//! Declares so much memory that it cannot even be instantiated under any sane limit; otherwise it is echo.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use programs::BrokerMessage;

programs::program!(answer);

/// Above the largest limit that a link or an actor can set by default, far below what wasm could address.
const BYTES: usize = 300 * 1024 * 1024;

struct Big(UnsafeCell<MaybeUninit<[u8; BYTES]>>);

#[expect(unsafe_code, reason = "nobody ever looks into it")]
unsafe impl Sync for Big {}

static BIG: Big = Big(UnsafeCell::new(MaybeUninit::uninit()));

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    std::hint::black_box(BIG.0.get());
    Ok(message.body)
}
