//! Compiled code on disk, and the memory of code that does not compile.
//!
//! A file is the artifact as the compiler wrote it, then what its source carried beside the code (who signed what), and after
//! it what proves that all of it is ours. So it is mapped, not read into
//! memory: hosts on one machine share its pages, the kernel may drop them and read them again, as with any program's code.
//!
//! **Invariants.** No byte reaches the engine that this host's own compiler did not write. A file is authenticated with a
//! key that only this host's user can read, over the digest of the source, the engine it is for and the content; whatever
//! does not verify counts as absent and is compiled again. A file is never written to again under its name, only replaced.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lattice_core::claims::MAX_CLAIM_BYTES;
use lattice_core::claims::sections::Carried;
use lattice_core::id::Digest;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compiler::CompileError;
use super::engine::compatibility;

/// First bytes of what is appended to an artifact: format and version.
const MAGIC: &[u8; 8] = b"LATCWSM3";
/// Bytes of an HMAC-SHA256.
const TAG_BYTES: usize = 32;
/// Bytes of the length of what the source carried.
const LENGTH_BYTES: usize = 4;
/// Last bytes of a file: that length, magic and tag.
const TRAILER_BYTES: usize = LENGTH_BYTES + MAGIC.len() + TAG_BYTES;
/// Most bytes of what the source carried: claim and token, escaped.
const MAX_CARRIED_BYTES: usize = 16 * MAX_CLAIM_BYTES;
/// Bytes that are hashed at a time: they stay in the processor's cache meanwhile.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Name of the key file.
const KEY_FILE: &str = "key";
/// Suffix of what the compiler writes.
const SCRATCH_SUFFIX: &str = "new";
/// Suffix of a file that is being written.
const TEMPORARY_SUFFIX: &str = "tmp";
/// Age at which half-done work is nobody's any more; far longer than compiling may take.
const STALE: Duration = Duration::from_secs(3600);
/// Suffix of artifacts.
const SUFFIX: &str = "cwasm";
/// Largest file that is read, header included, in bytes: the compiler's own limit on its output and some.
const MAX_FILE_BYTES: u64 = 300 * 1024 * 1024;
/// All artifacts together in bytes; the ones that were not used for longest go first.
const MAX_TOTAL_BYTES: u64 = 1024 * 1024 * 1024;

/// How long code that failed to compile is not tried again.
const FAILURE_MEMORY: Duration = Duration::from_secs(600);
/// How many failures are remembered.
const MAX_FAILURES: usize = 64;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be made or used.
    #[error("compile cache {}", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The key file is not what we wrote.
    #[error("key of the compile cache {}: expected {KEY_BYTES} bytes; remove it, and code is compiled anew", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness for a key.
    #[error("no random numbers for the key of the compile cache")]
    Random,
}

/// The cache of one engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: hmac::Key,
    engine: u64,
    failures: Mutex<BTreeMap<Digest, (Instant, Arc<CompileError>)>>,
}

impl Cache {
    /// Opens the cache in `dir`, making both folder and key if they are not there.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> Result<Self, CacheError> {
        let folder = |source| CacheError::Folder { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(folder)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(folder)?;
        sweep(dir);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &read_or_make_key(&dir.join(KEY_FILE))?);
        Ok(Self { dir: dir.to_owned(), key, engine: compatibility(engine), failures: Mutex::default() })
    }

    /// Where the compiler shall write code for `digest` before it is authenticated.
    pub(crate) fn scratch(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.{}.{SCRATCH_SUFFIX}", digest.hex(), std::process::id()))
    }

    /// Removes what a failed compiler may have left at [`Cache::scratch`].
    pub(crate) fn discard(&self, digest: &Digest) {
        let _ = std::fs::remove_file(self.scratch(digest));
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}-{:016x}.{SUFFIX}", digest.hex(), self.engine))
    }

    /// The component and what its source carried, if its file is there and ours. Blocks on the disk.
    pub(crate) fn get(&self, digest: &Digest, engine: &Engine) -> Option<(Component, Carried)> {
        let path = self.path(digest);
        let mut file = std::fs::File::open(&path).ok()?;
        let Some(carried) = self.verified(digest, &mut file).ok().flatten() else {
            tracing::warn!(path = %path.display(), "cached code does not verify, it will be compiled again");
            return None;
        };
        let component = deserialize(engine, &path)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cached code does not load, it will be compiled again"))
            .ok()?;
        // Remembers the use; a read-only disk merely forgets it.
        let _ = file.set_modified(SystemTime::now());
        Some((component, carried))
    }

    /// Loads what the compiler wrote to [`Cache::scratch`] and keeps it. Blocks on the disk.
    ///
    /// # Errors
    /// The artifact is not there, or needs more than this host's pool has. A cache file that cannot be written costs the next
    /// start a compilation, no more.
    pub(crate) fn put(&self, digest: &Digest, carried: &Carried, engine: &Engine) -> Result<Component, CompileError> {
        let scratch = self.scratch(digest);
        let component = size_limited(&scratch)
            .map_err(|source| CompileError::Artifact { path: scratch.clone(), source })
            .and_then(|()| deserialize(engine, &scratch).map_err(|error| CompileError::Unfit(format!("{error:#}"))));
        if component.is_ok()
            && let Err(error) = self.store(digest, carried, &scratch)
        {
            tracing::warn!(%digest, %error, "compiled code cannot be cached");
        }
        // Gone in any case: it is no file of the cache. What is mapped stays.
        self.discard(digest);
        component
    }

    /// Makes what the compiler wrote to `scratch` a file of the cache.
    fn store(&self, digest: &Digest, carried: &Carried, scratch: &Path) -> std::io::Result<()> {
        let carried = serde_json::to_vec(carried)?;
        let mut file = std::fs::OpenOptions::new().read(true).append(true).open(scratch)?;
        let length = file.metadata()?.len();
        self.prune(MAX_TOTAL_BYTES.saturating_sub(length))?;
        let tag = hmac::sign(&self.key, &self.authenticated(digest, &hash(&mut file, length)?, &carried));
        file.write_all(&carried)?;
        file.write_all(&u32::try_from(carried.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        file.write_all(MAGIC)?;
        file.write_all(tag.as_ref())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.sync_all()?;
        std::fs::rename(scratch, self.path(digest))?;
        std::fs::File::open(&self.dir)?.sync_all()
    }

    /// Removes the artifacts that were not used for longest until the rest has at most `limit` bytes.
    fn prune(&self, limit: u64) -> std::io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = std::fs::read_dir(&self.dir)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                let path = entry.path();
                let ours = path.extension().is_some_and(|extension| extension == SUFFIX);
                ours.then_some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        files.sort();
        let mut total = files.iter().fold(0_u64, |sum, (_, size, _)| sum.saturating_add(*size));
        for (_, size, path) in files {
            if total <= limit {
                break;
            }
            std::fs::remove_file(path)?;
            total = total.saturating_sub(size);
        }
        Ok(())
    }

    /// What the source of a file carried, if the file is ours, and for `digest`.
    fn verified(&self, digest: &Digest, file: &mut std::fs::File) -> std::io::Result<Option<Carried>> {
        let length = file.metadata()?.len();
        let trailer_bytes = u64::try_from(TRAILER_BYTES).unwrap_or(u64::MAX);
        let Some(end) = length.checked_sub(trailer_bytes).filter(|_| length <= MAX_FILE_BYTES) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        file.seek(SeekFrom::Start(end))?;
        file.read_exact(&mut trailer)?;
        let Some((carried_bytes, proof)) = trailer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let carried_bytes = usize::try_from(u32::from_le_bytes(*carried_bytes)).unwrap_or(usize::MAX);
        let artifact = u64::try_from(carried_bytes).ok().and_then(|bytes| end.checked_sub(bytes));
        let (Some(tag), Some(artifact)) = (proof.strip_prefix(MAGIC.as_slice()), artifact.filter(|_| carried_bytes <= MAX_CARRIED_BYTES))
        else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(0))?;
        let content = hash(file, artifact)?;
        let mut carried = vec![0; carried_bytes];
        file.read_exact(&mut carried)?;
        let ours = hmac::verify(&self.key, &self.authenticated(digest, &content, &carried), tag).is_ok();
        Ok(if ours { serde_json::from_slice(&carried).ok() } else { None })
    }

    /// What the tag is over. The content enters by its hash; all parts but the last have fixed lengths.
    fn authenticated(&self, digest: &Digest, content: &ring::digest::Digest, carried: &[u8]) -> Vec<u8> {
        [MAGIC.as_slice(), digest.hex().as_bytes(), &self.engine.to_le_bytes(), content.as_ref(), carried].concat()
    }

    /// How compiling `digest` failed lately.
    pub(crate) fn failure(&self, digest: &Digest) -> Option<Arc<CompileError>> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (at, _)| at.elapsed() < FAILURE_MEMORY);
        failures.get(digest).map(|(_, error)| error.clone())
    }

    /// Remembers that `digest` does not compile.
    pub(crate) fn remember_failure(&self, digest: &Digest, error: Arc<CompileError>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_FAILURES
            && let Some(oldest) = failures.iter().min_by_key(|(_, (at, _))| *at).map(|(digest, _)| digest.clone())
        {
            failures.remove(&oldest);
        }
        failures.insert(digest.clone(), (Instant::now(), error));
    }
}

#[expect(unsafe_code, reason = "loading machine code; its bytes come from our own compiler: see the module's invariants")]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by the compiling child of this host, either just now or earlier and authenticated since
    // with a key that only this user can read. Its folder is this user's alone, and no program of ours writes to it again.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Removes what a host that was killed in the middle of its work left behind.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let half_done = path.extension().is_some_and(|extension| extension == SCRATCH_SUFFIX || extension == TEMPORARY_SUFFIX);
        let age = path.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|modified| modified.elapsed().ok());
        if half_done && age.is_some_and(|age| age > STALE) {
            // Left for the next start if it cannot be removed.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn size_limited(path: &Path) -> std::io::Result<()> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("{size} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    Ok(())
}

/// Hash of the next `length` bytes.
fn hash(file: &mut std::fs::File, length: u64) -> std::io::Result<ring::digest::Digest> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let part = chunk.get_mut(..wanted).unwrap_or_default();
        file.read_exact(part)?;
        context.update(part);
        left = left.saturating_sub(u64::try_from(wanted).unwrap_or(u64::MAX));
    }
    Ok(context.finish())
}

/// The key in `path`, made if there is none. Two hosts that start at once on one folder agree on one key.
fn read_or_make_key(path: &Path) -> Result<[u8; KEY_BYTES], CacheError> {
    let failed = |source| CacheError::Folder { path: path.to_owned(), source };
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_unspecified| CacheError::Random)?;
    let temporary = path.with_extension(format!("{}.{TEMPORARY_SUFFIX}", std::process::id()));
    let made = match std::fs::read(path) {
        Ok(found) => return found.try_into().map_err(|_| CacheError::Key { path: path.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
            // A link never replaces what another host has just put there.
            std::fs::hard_link(&temporary, path)
        }
        Err(error) => return Err(failed(error)),
    };
    let _ = std::fs::remove_file(&temporary);
    match made {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::read(path).map_err(failed)?;
            found.try_into().map_err(|_| CacheError::Key { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}
