//! A component made to hurt the compiler: the child dies of it, the host does not even grow.
//!
//! Alone in its program, because it measures the memory of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::error::ErrorCode;
use lattice_core::id::Digest;
use lattice_host::runtime::{CompileLimits, LoadError, NoLogs, Runtime, RuntimeConfig};

const MIB: u64 = 1024 * 1024;
/// What the bomb itself and the bookkeeping around it may cost.
const MAX_GROWTH_BYTES: u64 = 48 * MIB;

#[tokio::test]
async fn the_child_dies_and_the_host_stays_as_it_was() {
    let tight = CompileLimits { memory_bytes: 128 * MIB, ..limits() };
    let problem = explode(tight, "limit exceeded: memory, 128 MiB").await;
    assert_eq!(problem, ErrorCode::InvalidComponent);
    let hasty = CompileLimits { memory_bytes: 8 * 1024 * MIB, cpu: Duration::from_secs(1), ..limits() };
    explode(hasty, "limit exceeded: CPU time, 1 s").await;
    let impatient = CompileLimits { memory_bytes: 8 * 1024 * MIB, wall: Duration::from_millis(200), ..limits() };
    explode(impatient, "limit exceeded: time").await;
}

fn limits() -> CompileLimits {
    CompileLimits { program: env!("CARGO_BIN_EXE_lattice-host").into(), ..CompileLimits::default() }
}

async fn explode(limits: CompileLimits, expected: &str) -> ErrorCode {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(RuntimeConfig {
        cache_dir: dir.path().to_owned(),
        max_instances: 2,
        max_actor_memory_mb: 64,
        host_memory_mb: 64,
        node_name: "NEDGE01".parse().unwrap(),
        compile: limits,
        logs: Arc::new(NoLogs),
        thread_clock: true,
    })
    .unwrap();
    let bomb = bomb();
    let digest = Digest::of(&bomb);
    let before = resident_bytes();
    let started = Instant::now();
    let error = runtime.load(&digest, async { Ok::<_, std::io::Error>(bomb) }).await.err().unwrap();
    assert!(error.to_string().contains(expected), "{error}");
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth <= MAX_GROWTH_BYTES, "the host grew by {growth} bytes");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["key"], "nothing half done is left");
    let again = runtime.load(&digest, async { Err::<Bytes, _>(std::io::Error::other("not to be fetched")) }).await.err().unwrap();
    assert!(matches!(again, LoadError::Compile(_)), "{again}");
    error.problem("bomb", "file:///bomb.wasm").code
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A component with one core module with functions that are as long as they may be: each instruction makes a value that
/// lives until the end, and each `if` a block where all of them meet.
fn bomb() -> Bytes {
    const FUNCTIONS: usize = 4;
    const LOCALS: u32 = 20_000;
    const STEPS: u32 = 60_000;
    let mut body = Vec::new();
    body.extend([1]);
    leb(&mut body, LOCALS);
    body.push(0x7f);
    for step in 0..STEPS {
        let (from, to) = (step % LOCALS, (step.wrapping_mul(7919)) % LOCALS);
        // local.get from; if; local.get to; local.get 0; i32.add; local.set to; end
        body.push(0x20);
        leb(&mut body, from);
        body.extend([0x04, 0x40, 0x20]);
        leb(&mut body, to);
        body.extend([0x20, 0x00, 0x6a, 0x21]);
        leb(&mut body, to);
        body.push(0x0b);
    }
    body.push(0x0b);
    let mut code = Vec::new();
    leb(&mut code, u32::try_from(FUNCTIONS).unwrap());
    for _ in 0..FUNCTIONS {
        leb(&mut code, u32::try_from(body.len()).unwrap());
        code.extend_from_slice(&body);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(&mut module, 1, &[1, 0x60, 1, 0x7f, 0]);
    let functions: Vec<u8> = std::iter::once(u8::try_from(FUNCTIONS).unwrap()).chain(std::iter::repeat_n(0, FUNCTIONS)).collect();
    section(&mut module, 3, &functions);
    section(&mut module, 10, &code);
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    section(&mut component, 1, &module);
    component.into()
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    leb(out, u32::try_from(content.len()).unwrap());
    out.extend_from_slice(content);
}

fn leb(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        out.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}
