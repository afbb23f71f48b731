//! Code that is ready to be linked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use lattice_core::admission::{ComponentShape, check_shape};
use lattice_core::claims::Claim;
use lattice_core::claims::sections::Carried;
use lattice_core::contract::Contract;
use lattice_core::id::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::{LinkFault, LoadError};
use super::instance::Code;

/// Machine code of a component, with what it imports and exports. Shared by all actors that run it.
pub(crate) struct CodeImage {
    pub(crate) digest: Digest,
    pub(crate) component: Component,
    pub(crate) shape: ComponentShape,
    /// What its source carried beside the code: by which it is judged each time that it is loaded.
    pub(crate) carried: Carried,
    /// The same with its imports resolved, by the contracts of the links: actors that run the same code share it.
    linked: Mutex<BTreeMap<BTreeSet<Contract>, Code>>,
}

impl CodeImage {
    pub(crate) fn new(digest: Digest, component: Component, carried: Carried, engine: &Engine) -> Result<Self, LoadError> {
        let outside = component.component_type();
        let shape = ComponentShape {
            imports: outside.imports(engine).map(|(name, _)| name.to_owned()).collect(),
            exports: outside.exports(engine).map(|(name, _)| name.to_owned()).collect(),
        };
        check_shape(&shape)?;
        Ok(Self { digest, component, shape, carried, linked: Mutex::default() })
    }
}

/// A component that was admitted: it can run here as soon as it has its links.
#[derive(Clone)]
pub struct Loaded {
    image: Arc<CodeImage>,
    claim: Option<Arc<Claim>>,
}

impl Loaded {
    pub(crate) fn new(image: Arc<CodeImage>, claim: Option<Arc<Claim>>) -> Self {
        Self { image, claim }
    }

    /// What its issuer says of it, where claims are asked for.
    pub fn claim(&self) -> Option<&Arc<Claim>> {
        self.claim.as_ref()
    }

    /// Digest of the code it was compiled from.
    pub fn digest(&self) -> &Digest {
        &self.image.digest
    }

    /// What it imports and exports.
    pub fn shape(&self) -> &ComponentShape {
        &self.image.shape
    }

    pub(crate) fn component(&self) -> &Component {
        &self.image.component
    }

    /// The code linked for these contracts, by `link` if nobody has linked it yet.
    pub(crate) fn linked(&self, contracts: &BTreeSet<Contract>, link: impl FnOnce() -> Result<Code, LinkFault>) -> Result<Code, LinkFault> {
        let mut linked = self.image.linked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = linked.get(contracts) {
            return Ok(code.clone());
        }
        let code = link()?;
        linked.insert(contracts.clone(), code.clone());
        Ok(code)
    }
}
