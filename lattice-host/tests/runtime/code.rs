//! From bytes to code: what is admitted, what is refused with which words, what the cache keeps and what it does not trust.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::error::ErrorCode;
use lattice_core::id::Digest;
use lattice_host::runtime::{Actor, CompileLimits, LoadError, Loaded, Runtime};

use crate::world::{World, call, config, program, settings};

/// A fetch that must not happen.
#[expect(clippy::unused_async, reason = "it stands where a fetch would")]
async fn nothing() -> Result<Bytes, std::io::Error> {
    Err(std::io::Error::other("nothing to fetch"))
}

fn cached_files(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.dir.path().join("cache")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

async fn refused(world: &World, wasm: impl Into<Bytes>, expected: &str) -> LoadError {
    let error = world.load(wasm.into()).await.err().unwrap_or_else(|| panic!("admitted, expected: {expected}"));
    let problem = error.problem("a", "file:///a.wasm");
    assert_eq!(problem.code, ErrorCode::InvalidComponent, "{problem:?}");
    assert!(problem.message.contains(expected), "{}", problem.message);
    error
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_name() {
    let world = World::new();
    refused(&world, "", "not a WebAssembly file: it starts with nothing").await;
    refused(&world, "#!/bin/sh", "not a WebAssembly file").await;
    refused(&world, &b"\0asm\x01\0\0\0"[..], "a core WebAssembly module, not a component").await;
    refused(&world, vec![0; 20 * 1024 * 1024 + 1], "at most 20971520").await;
    refused(&world, program("unknown-import"), "test:unknown-import/rocket").await;
    refused(&world, program("wrong-world"), "exports neither").await;
    let mut cut = program("echo").to_vec();
    cut.truncate(cut.len() / 2);
    let error = refused(&world, cut.clone(), "cannot compile").await;
    assert!(error.is_lasting());
    let again = world.runtime.load(&Digest::of(&cut), nothing()).await.err().unwrap();
    assert_eq!(again.to_string(), error.to_string(), "remembered, not fetched again");
    let other = world.runtime.load(&Digest::of(b"x"), async { Ok::<_, std::io::Error>(program("echo")) }).await.err().unwrap();
    assert_eq!(other.problem("a", "i").code, ErrorCode::ImagePull);
}

#[tokio::test]
async fn machine_code_is_never_taken_from_outside() {
    let world = World::new();
    world.load(program("echo")).await.unwrap();
    let file = std::fs::read(&cached_files(&world)[0]).unwrap();
    let elf = file.windows(4).position(|bytes| bytes == b"\x7fELF").unwrap();
    refused(&world, file[elf..].to_vec(), "a precompiled artifact").await;
}

#[tokio::test]
async fn code_is_compiled_once() {
    let world = World::new();
    let digest = Digest::of(&program("echo"));
    drop(world.load(program("echo")).await.unwrap());
    let loaded = world.runtime.load(&digest, nothing()).await.unwrap();
    let again = Runtime::start(config(world.dir.path().join("cache"))).unwrap();
    again.load(&digest, nothing()).await.unwrap();
    assert_eq!(loaded.digest(), &digest);
    assert!(loaded.shape().exports.contains("wasmcloud:messaging/handler@0.2.0"));
    let unknown = world.runtime.load(&Digest::of(b"unknown"), nothing()).await.err().unwrap();
    assert!(matches!(unknown, LoadError::Fetch { .. }));
}

#[tokio::test]
async fn a_file_that_was_tampered_with_is_compiled_again() {
    let world = World::new();
    drop(world.load(program("echo")).await.unwrap());
    let path = cached_files(&world).remove(0);
    let good = std::fs::read(&path).unwrap();
    let digest = Digest::of(&program("echo"));
    let positions = [0, 8, 20, 40, good.len() / 2, good.len() - 1];
    for position in positions {
        let mut bad = good.clone();
        bad[position] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(world.runtime.load(&digest, nothing()).await.is_err(), "byte {position}");
    }
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(world.runtime.load(&digest, nothing()).await.is_err(), "half a file");
    let loaded = world.load(program("echo")).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap().len(), good.len());
    assert_eq!(answer(&world, loaded).await, "hello");
}

#[tokio::test]
async fn a_file_counts_only_under_its_own_name_and_key() {
    let world = World::new();
    drop(world.load(program("echo")).await.unwrap());
    let echo = cached_files(&world).remove(0);
    let (echo_hex, fail) = (Digest::of(&program("echo")), Digest::of(&program("fail")));
    let renamed = echo.with_file_name(echo.file_name().unwrap().to_str().unwrap().replace(echo_hex.hex(), fail.hex()));
    std::fs::copy(&echo, &renamed).unwrap();
    assert!(world.runtime.load(&fail, nothing()).await.is_err(), "another component's code");

    let other = World::new();
    std::fs::copy(&echo, other.dir.path().join("cache").join(echo.file_name().unwrap())).unwrap();
    assert!(other.runtime.load(&echo_hex, nothing()).await.is_err(), "another host's code");
}

#[tokio::test]
async fn a_compiler_that_cannot_run_is_the_hosts_fault() {
    let world = World::with(|config| config.compile.program = "/nonexistent/lattice-host".into());
    let error = world.load(program("echo")).await.err().unwrap();
    assert!(!error.is_lasting());
    let problem = error.problem("a", "i");
    assert_eq!(problem.code, ErrorCode::Failed);
    assert!(problem.message.contains("/nonexistent/lattice-host"), "{problem:?}");
}

#[tokio::test]
async fn the_compiler_is_stopped_when_it_takes_too_long() {
    // `sleep compile …` fails at once, so something is needed that ignores its arguments and waits.
    let world = World::new();
    let script = world.dir.path().join("slow");
    std::fs::write(&script, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let slow = World::with(|config| {
        config.compile = CompileLimits { program: script, wall: Duration::from_millis(300), ..CompileLimits::default() }
    });
    let error = refused(&slow, program("echo"), "limit exceeded: time").await;
    assert!(error.is_lasting());
}

async fn answer(world: &World, loaded: Loaded) -> String {
    let actor = Actor::new(&world.runtime, loaded, settings("echo"), world.links()).unwrap();
    call(&actor, "hello").await.unwrap()
}

#[tokio::test]
async fn code_that_declares_more_than_any_instance_may_have_is_refused() {
    let world = World::new();
    let error = refused(&world, program("big-static"), "does not fit this host").await;
    assert!(error.to_string().contains("exceeds the limit"), "{error}");
    assert!(cached_files(&world).is_empty());
}
