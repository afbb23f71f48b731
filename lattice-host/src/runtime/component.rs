//! Code that is ready to be linked.

use std::sync::Arc;

use lattice_core::admission::{ComponentShape, check_shape};
use lattice_core::id::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::LoadError;

/// Machine code of a component, with what it imports and exports. Shared by all actors that run it.
pub(crate) struct CodeImage {
    pub(crate) digest: Digest,
    pub(crate) component: Component,
    pub(crate) shape: ComponentShape,
}

impl CodeImage {
    pub(crate) fn new(digest: Digest, component: Component, engine: &Engine) -> Result<Self, LoadError> {
        let outside = component.component_type();
        let shape = ComponentShape {
            imports: outside.imports(engine).map(|(name, _)| name.to_owned()).collect(),
            exports: outside.exports(engine).map(|(name, _)| name.to_owned()).collect(),
        };
        check_shape(&shape)?;
        Ok(Self { digest, component, shape })
    }
}

/// A component that was admitted: it can run here as soon as it has its links.
#[derive(Clone)]
pub struct Loaded {
    image: Arc<CodeImage>,
}

impl Loaded {
    pub(crate) fn new(image: Arc<CodeImage>) -> Self {
        Self { image }
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
}
