//! What policy takes from actors, in the form in which each call asks for it.
//!
//! **Invariants.** A call that is allowed costs one look at a number: no lock, no allocation, however many rules there are. A
//! denial is in force for calls as soon as [`Shield::raise`] has returned. System actors have a shield of their own that
//! denies nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lattice_core::policy::force::{Denied, InForce, Preset};
use lattice_core::policy::rules::Point;
use lattice_core::trust::clock::Time;
use tokio::sync::watch;

const MIB: u64 = 1024 * 1024;

/// The policies in force on this host, shared by all actors that they are about.
#[derive(Debug)]
pub struct Shield {
    /// One bit for each point that is denied.
    denied: AtomicU32,
    /// Cap on an actor's memory in bytes.
    memory_bytes: AtomicU64,
    force: watch::Sender<Arc<InForce>>,
}

impl Shield {
    /// A shield that denies what `force` denies.
    pub fn new(force: InForce) -> Arc<Self> {
        let shield =
            Self { denied: AtomicU32::new(0), memory_bytes: AtomicU64::new(u64::MAX), force: watch::channel(Arc::new(force.clone())).0 };
        shield.raise(force);
        Arc::new(shield)
    }

    /// A shield that denies nothing.
    pub fn open() -> Arc<Self> {
        Self::new(InForce::of_bundles([], Preset::Open, Time::exact(0)))
    }

    /// Puts `force` in the place of what was in force.
    pub fn raise(&self, force: InForce) {
        let bits = Point::ALL.into_iter().filter(|point| force.check(*point).is_err()).fold(0, |bits, point| bits | bit(point));
        let memory = force.memory_cap().map_or(u64::MAX, |(mb, _)| u64::from(mb).saturating_mul(MIB));
        // What explains a denial is there before the denial.
        self.force.send_replace(Arc::new(force));
        self.denied.store(bits, Ordering::Release);
        self.memory_bytes.store(memory, Ordering::Release);
    }

    /// Whether a call at `point` is allowed.
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub(crate) fn check(&self, point: Point) -> Result<(), Box<Denied>> {
        if self.denied.load(Ordering::Acquire) & bit(point) == 0 { Ok(()) } else { self.explain(point) }
    }

    #[cold]
    fn explain(&self, point: Point) -> Result<(), Box<Denied>> {
        self.force.borrow().check(point).map_err(|denied| Box::new(denied.clone()))
    }

    /// The most that an actor may hold, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Acquire)
    }

    /// What is in force now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.force.borrow().clone()
    }
}

fn bit(point: Point) -> u32 {
    1_u32.checked_shl(u32::try_from(point.index()).unwrap_or(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_and_what_is_not() {
        let shield = Shield::open();
        assert!(Point::ALL.into_iter().all(|point| shield.check(point).is_ok()));
        assert_eq!(shield.memory_bytes(), u64::MAX);
        shield.raise(InForce::of_bundles([], Preset::Deny, Time::exact(0)));
        for point in Point::ALL {
            assert_eq!(shield.check(point), Err(Box::new(Denied::Preset)), "{point:?}");
        }
        shield.raise(InForce::of_bundles([], Preset::Open, Time::exact(0)));
        assert!(Point::ALL.into_iter().all(|point| shield.check(point).is_ok()));
    }

    #[test]
    fn each_point_has_a_bit_of_its_own() {
        let bits = Point::ALL.into_iter().fold(0_u32, |bits, point| bits | bit(point));
        assert_eq!(usize::try_from(bits.count_ones()).unwrap(), Point::ALL.len());
    }
}
