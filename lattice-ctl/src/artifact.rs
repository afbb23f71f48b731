//! An actor's code on this machine: read, checked and described before anything is sent.
//!
//! The checks here are the ones that a user should hear about at once; the host repeats them, because it trusts nobody.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lattice_core::admission::{self, AdmissionError, ComponentShape, MAX_COMPONENT_BYTES};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::ActorId;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// Code that may run.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    /// The component.
    pub(crate) bytes: Bytes,
    /// What it imports and exports.
    pub(crate) shape: ComponentShape,
}

/// Why code is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("not a valid component: {0}")]
    Invalid(String),
}

/// Reads and checks the component at `path`.
///
/// # Errors
/// `actor start failed: image pull: …` if it cannot be read, `actor start failed: …` if it cannot run here.
pub(crate) fn read(path: &Path) -> Result<Artifact, Problem> {
    let unreadable = |error: std::io::Error| Problem::actor_image(&path.display().to_string(), error);
    let bytes = read_bounded(path).map_err(unreadable)?;
    let refused = |refused: Refused| {
        let problem = Problem::new(ErrorCode::InvalidComponent, format!("actor start failed: {}: {refused}", path.display()));
        match refused {
            Refused::Admission(AdmissionError::CoreModule | AdmissionError::NotWasm { .. }) => {
                problem.hint("cargo build --target wasm32-wasip2 --release")
            }
            Refused::Admission(AdmissionError::UnknownImport { .. }) => problem.hint("build it against the interfaces in wit/world.wit"),
            Refused::Admission(AdmissionError::NoHandler | AdmissionError::TooLarge { .. }) | Refused::Invalid(_) => problem,
        }
    };
    let shape = check(&bytes).map_err(refused)?;
    Ok(Artifact { bytes: bytes.into(), shape })
}

/// The id of an actor that is started without one: the file's name without its ending.
///
/// # Errors
/// A usage problem if that is no actor id.
pub(crate) fn default_id(path: &Path) -> Result<ActorId, Problem> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    ActorId::new(stem).map_err(|error| {
        Problem::new(ErrorCode::Usage, format!("{error}: give the actor an id"))
            .hint(format!("lattice-ctl start actor {} <id>", path.display()))
    })
}

/// The path in a `file://` reference, made absolute from the current folder, for people to find it again.
pub(crate) fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file which is too large is seen to be.
    file.take(MAX_COMPONENT_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check(bytes: &[u8]) -> Result<ComponentShape, Refused> {
    admission::check_preamble(bytes)?;
    let invalid = |error: wasmparser::BinaryReaderError| Refused::Invalid(error.to_string());
    Validator::new_with_features(features()).validate_all(bytes).map_err(invalid)?;
    let shape = shape(bytes).map_err(invalid)?;
    admission::check_shape(&shape)?;
    Ok(shape)
}

/// What the host's engine takes: the component model on WebAssembly 2.0 with a few later proposals that are settled.
fn features() -> WasmFeatures {
    WasmFeatures::WASM2 | WasmFeatures::TAIL_CALL | WasmFeatures::EXTENDED_CONST | WasmFeatures::COMPONENT_MODEL
}

/// Names of the imports and exports of the outermost component.
fn shape(bytes: &[u8]) -> wasmparser::Result<ComponentShape> {
    let mut shape = ComponentShape::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) {
            depth = depth.saturating_add(1);
        } else if matches!(payload, Payload::End(_)) {
            depth = depth.saturating_sub(1);
        } else if depth > 0 {
            continue;
        } else if let Payload::ComponentImportSection(imports) = payload {
            for import in imports {
                shape.imports.insert(import?.name.name.to_owned());
            }
        } else if let Payload::ComponentExportSection(exports) = payload {
            for export in exports {
                shape.exports.insert(export?.name.name.to_owned());
            }
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component: the preamble and nothing else.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn written(bytes: &[u8]) -> Problem {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err()
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let check = |bytes: &[u8], code: ErrorCode, part: &str| {
            let problem = written(bytes);
            assert_eq!(problem.code, code);
            assert!(problem.message.starts_with("actor start failed: ") && problem.message.contains(part), "{problem:?}");
        };
        check(b"", ErrorCode::InvalidComponent, "starts with nothing");
        check(b"hello world", ErrorCode::InvalidComponent, "not a WebAssembly file");
        check(b"\0asm\x01\0\0\0", ErrorCode::InvalidComponent, "core WebAssembly module");
        check(EMPTY, ErrorCode::InvalidComponent, "exports neither");
        check(&[EMPTY, b"\x0b\xff\xff"].concat(), ErrorCode::InvalidComponent, "not a valid component");
        // A module with a function of a type that is not there.
        check(&[EMPTY, b"\x01\x0c\0asm\x01\0\0\0\x03\x02\x01\0"].concat(), ErrorCode::InvalidComponent, "not a valid component");
    }

    #[test]
    fn what_cannot_be_read_is_an_image_problem() {
        let problem = read(Path::new("/no/such/file.wasm")).unwrap_err();
        assert_eq!(problem.code, ErrorCode::ImagePull);
        assert!(problem.message.starts_with("actor start failed: image pull: /no/such/file.wasm"), "{problem:?}");
        assert!(read(Path::new("/tmp")).unwrap_err().message.contains("it is no file"));
    }

    #[test]
    fn no_more_is_read_than_shows_that_it_is_too_much() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_COMPONENT_BYTES + 100).unwrap();
        assert_eq!(u64::try_from(read_bounded(file.path()).unwrap().len()).unwrap(), MAX_COMPONENT_BYTES + 1);
    }

    #[test]
    fn ids_from_files() {
        assert_eq!(default_id(Path::new("/a/edge_processor.wasm")).unwrap().as_str(), "edge_processor");
        assert!(default_id(Path::new("/a/b c.wasm")).unwrap_err().message.contains("give the actor an id"));
    }
}
