//! Five small pieces of work, the same source for guests and natively: what they give must be equal, and what they take is
//! compared.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

/// Makes a sum of a seed.
pub type Kernel = fn(u64) -> u64;

/// All of them by name.
pub const ALL: [(&str, Kernel); 5] = [("smooth", smooth), ("fractal", fractal), ("hash", hash), ("sort", sort), ("words", words)];

/// Runs a kernel `times` times, each time on what came out before.
#[must_use]
pub fn run(kernel: Kernel, times: u64) -> u64 {
    (0..times).fold(1, |sum, _| std::hint::black_box(kernel(std::hint::black_box(sum))))
}

/// Readings in a window, as 16-bit numbers.
const WINDOW: usize = 4096;
/// Times that a window is smoothed.
const PASSES: usize = 64;

/// A low-pass filter over readings: additions and shifts of 16-bit numbers, which a compiler can do eight at a time.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn smoothed(from: &[u16], to: &mut [u16]) {
    let neighbours = from.iter().zip(from.iter().skip(1)).zip(from.iter().skip(2));
    for (smooth, ((before, here), after)) in to.iter_mut().zip(neighbours) {
        *smooth = (*before >> 2).wrapping_add(*here >> 1).wrapping_add(*after >> 2);
    }
}

fn smooth(seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut readings: Vec<u16> = (0..WINDOW + 2).map(|_| low_bits(random.next())).collect();
    let mut next = readings.clone();
    for _ in 0..PASSES {
        smoothed(&readings, &mut next);
        std::mem::swap(&mut readings, &mut next);
    }
    readings.iter().fold(0, |sum, reading| sum * 31 % 1_000_003 + u64::from(*reading))
}

/// Points of a picture's side.
const SIDE: u32 = 48;
/// Steps until a point counts as inside.
const MAX_STEPS: u32 = 200;

/// Steps until each point of a picture leaves a circle: multiplications and additions of 64-bit floating-point numbers.
fn fractal(seed: u64) -> u64 {
    let offset = f64::from(u32::from(low_bits(seed))) * 1e-9;
    let at = |step: u32| f64::from(step) / f64::from(SIDE) * 3.0 - 2.0 + offset;
    let steps = |x: f64, y: f64| {
        let (mut a, mut b) = (0.0, 0.0);
        let mut inside = || {
            (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
            a * a + b * b <= 4.0
        };
        (0..MAX_STEPS).take_while(|_| inside()).count()
    };
    let all = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)));
    all.fold(seed % 1000, |sum, (x, y)| sum.wrapping_add(u64::try_from(steps(at(x), at(y) + 0.5)).unwrap_or(0)))
}

/// Bytes that are hashed.
const HASHED: usize = 64 * 1024;

/// SipHash of some bytes: 64-bit additions and rotations.
fn hash(seed: u64) -> u64 {
    let mut random = Random(seed);
    let bytes: Vec<u8> = (0..HASHED / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut hasher = DefaultHasher::new();
    for _ in 0..4 {
        hasher.write(&bytes);
    }
    hasher.finish()
}

/// Numbers that are sorted.
const SORTED: usize = 10_000;

/// Sorts numbers: comparisons and branches that cannot be foretold.
fn sort(seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut numbers: Vec<u64> = (0..SORTED).map(|_| random.next()).collect();
    numbers.sort_unstable();
    numbers.iter().step_by(97).fold(0, |sum: u64, number| sum.rotate_left(5) ^ number)
}

/// Words of a text.
const WORDS: usize = 4_000;

/// Makes a text, takes it apart and counts its words: strings, allocations, a tree.
fn words(seed: u64) -> u64 {
    let mut random = Random(seed);
    let text: String = (0..WORDS).map(|_| format!("sensor-{:03} ", random.next() % 500)).collect();
    let mut counts = BTreeMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_uppercase()).or_insert(0_u64) += 1;
    }
    counts.iter().fold(seed % 7, |sum, (word, count)| sum.rotate_left(7) ^ count ^ word.bytes().map(u64::from).sum::<u64>())
}

fn low_bits(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

/// Numbers that look random and are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 31)
    }
}
