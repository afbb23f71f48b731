//! Who decides whether code may run here, as the runtime asks it.

use lattice_core::claims::sections::Carried;
use lattice_core::claims::{Claim, Refused};

/// Asked before code is compiled and each time that it is loaded, wherever it comes from.
pub trait Gatekeeper: Send + Sync {
    /// Whether anything is asked at all: then code whose sections cannot be read is refused as well.
    fn asks(&self) -> bool;

    /// Whether the code that carries this may be compiled. Nothing is remembered of it.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, carried: &Carried) -> Result<(), Refused>;

    /// Whether it may run now; remembers that it did. The claim, where claims are asked for. Blocks on the disk.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, carried: &Carried) -> Result<Option<Claim>, Refused>;
}

/// Lets in everything.
#[derive(Debug, Clone, Copy)]
pub struct NoGate;

impl Gatekeeper for NoGate {
    fn asks(&self) -> bool {
        false
    }

    fn check(&self, _carried: &Carried) -> Result<(), Refused> {
        Ok(())
    }

    fn admit(&self, _carried: &Carried) -> Result<Option<Claim>, Refused> {
        Ok(None)
    }
}
