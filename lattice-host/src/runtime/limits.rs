//! Memory that guests hold: summed over an actor, and over the host.
//!
//! wasmtime's own limits are per memory; a component may have several, and an actor several instances. Everything here is
//! counted when it is granted and given back when the store is dropped, whatever happened in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use super::engine::{MEMORIES_PER_COMPONENT, TABLE_ELEMENTS, TABLES_PER_COMPONENT};
use super::shield::Shield;

/// Core instances in one store.
const INSTANCES_PER_STORE: usize = 50;

/// An amount of memory with a limit, possibly part of a larger one.
#[derive(Debug)]
pub(crate) struct MemoryAccount {
    name: &'static str,
    used: AtomicU64,
    /// The most that one store of this account held at once.
    peak: AtomicU64,
    limit: AtomicU64,
    parent: Option<Arc<MemoryAccount>>,
    /// The policies that may lower the limit.
    shield: Option<Arc<Shield>>,
}

impl MemoryAccount {
    /// The account of the whole host, `limit` in bytes.
    pub(crate) fn of_host(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            name: "host",
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            parent: None,
            shield: None,
        })
    }

    /// An actor's account within `host`, under the cap that policy sets.
    pub(crate) fn of_actor(host: &Arc<Self>, limit: u64, shield: Arc<Shield>) -> Arc<Self> {
        let (used, peak, limit) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(limit));
        Arc::new(Self { name: "actor", used, peak, limit, parent: Some(host.clone()), shield: Some(shield) })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most that one store held at once, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Changes the limit in bytes; what is held already stays.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Adds `bytes` here and in all that this is part of, or nowhere.
    fn take(&self, bytes: u64) -> Result<(), Exhausted> {
        let cap = self.shield.as_ref().map_or(u64::MAX, |shield| shield.memory_bytes());
        let limit = self.limit.load(Ordering::Relaxed).min(cap);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|used| Exhausted {
            account: self.name,
            used,
            asked: bytes,
            limit,
        })?;
        match self.parent.as_ref().map_or(Ok(()), |parent| parent.take(bytes)) {
            Ok(()) => Ok(()),
            Err(exhausted) => {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                Err(exhausted)
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.give_back(bytes);
        }
    }
}

/// Memory was asked for that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory limit of the {account} reached: {used} of {limit} bytes in use, {asked} more asked for")]
pub struct Exhausted {
    account: &'static str,
    used: u64,
    asked: u64,
    limit: u64,
}

/// The limiter of one store.
#[derive(Debug)]
pub(crate) struct Limiter {
    account: Arc<MemoryAccount>,
    /// Bytes granted so far. Growth that the system refuses after the grant stays counted until the store is dropped: a
    /// failure is not always one of a growth that was asked for here, so giving back could be tricked.
    held: u64,
    /// Largest single memory in bytes that the pool can make.
    largest: usize,
    refused: Option<Exhausted>,
}

impl Limiter {
    pub(crate) fn new(account: Arc<MemoryAccount>, largest: usize) -> Self {
        Self { account, held: 0, largest, refused: None }
    }

    /// The last refusal, if there was one: explains the trap that mostly follows.
    pub(crate) fn refused(&self) -> Option<Exhausted> {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.largest || maximum.is_some_and(|maximum| desired > maximum) {
            let in_bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
            let (used, limit) = (in_bytes(current), in_bytes(self.largest));
            self.refused = Some(Exhausted { account: "memory", used, asked: in_bytes(desired.saturating_sub(current)), limit });
            return Ok(false);
        }
        let more = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
        match self.account.take(more) {
            Ok(()) => {
                self.held = self.held.saturating_add(more);
                // Mostly it is reached already, and reading is cheaper.
                if self.held > self.account.peak() {
                    self.account.peak.fetch_max(self.held, Ordering::Relaxed);
                }
                Ok(true)
            }
            Err(exhausted) => {
                self.refused = Some(exhausted);
                Ok(false)
            }
        }
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        INSTANCES_PER_STORE
    }

    fn tables(&self) -> usize {
        usize::try_from(TABLES_PER_COMPONENT).unwrap_or(usize::MAX)
    }

    fn memories(&self) -> usize {
        usize::try_from(MEMORIES_PER_COMPONENT).unwrap_or(usize::MAX)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.account.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_actor_and_host() {
        let host = MemoryAccount::of_host(100);
        let of_actor = || MemoryAccount::of_actor(&host, 80, Shield::open());
        let (a, b) = (of_actor(), of_actor());
        let store = |account: &Arc<MemoryAccount>| Limiter::new(account.clone(), 1000);
        let (mut first, mut second, mut third) = (store(&a), store(&a), store(&b));
        assert!(first.memory_growing(0, 50, None).unwrap());
        assert!(!second.memory_growing(0, 31, None).unwrap(), "the actor's limit counts over its instances");
        assert!(second.refused().unwrap().to_string().contains("limit of the actor"));
        assert!(second.memory_growing(0, 30, None).unwrap());
        assert!(!third.memory_growing(0, 21, None).unwrap(), "the host's limit counts over its actors");
        assert!(third.refused().unwrap().to_string().contains("limit of the host"));
        assert_eq!((a.used(), b.used(), host.used()), (80, 0, 80));
        assert_eq!((a.peak(), b.peak()), (50, 0));
        drop(first);
        assert_eq!((a.used(), host.used()), (30, 30));
    }

    #[test]
    fn what_no_memory_could_hold_is_not_counted() {
        let host = MemoryAccount::of_host(1000);
        let mut limiter = Limiter::new(MemoryAccount::of_actor(&host, 1000, Shield::open()), 100);
        assert!(!limiter.memory_growing(0, 101, None).unwrap(), "more than the pool has");
        assert!(!limiter.memory_growing(0, 60, Some(50)).unwrap(), "more than the memory's type allows");
        assert!(limiter.memory_growing(0, 50, Some(50)).unwrap());
        assert_eq!(host.used(), 50);
    }
}
