//! Chance that can be repeated: the same seed gives the same faults.

/// A generator of numbers (xorshift).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to `limit` - 1.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = step(self.0);
        usize::try_from((self.0 >> 16) % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// The number after `state`.
pub(crate) fn step(state: u64) -> u64 {
    let mut next = state;
    next ^= next << 13;
    next ^= next >> 7;
    next ^ (next << 17)
}
