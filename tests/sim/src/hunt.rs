//! Many seeds on all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::world::{self, Options, Outcome};

/// Runs the worlds of `seeds` on all cores, in the order given, until one breaks a rule or all are done: the first of those
/// that broke one, with its seed, and how many were run.
pub fn hunt(seeds: &[u64], options: Options) -> (Option<(u64, Outcome)>, usize) {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Option<(usize, Outcome)>> = Mutex::new(None);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let stop = found.lock().unwrap().as_ref().is_some_and(|(first, _)| *first < index);
            let Some(seed) = seeds.get(index).filter(|_| !stop) else { return };
            let outcome = world::run(*seed, options);
            done.fetch_add(1, Ordering::Relaxed);
            if outcome.breach.is_some() {
                let mut found = found.lock().unwrap();
                if found.as_ref().is_none_or(|(first, _)| index < *first) {
                    *found = Some((index, outcome));
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let found = found.into_inner().unwrap().map(|(index, outcome)| (seeds[index], outcome));
    (found, done.into_inner())
}
