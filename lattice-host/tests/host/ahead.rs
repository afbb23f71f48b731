//! What a host has ready for the case that it takes over.

use lattice_core::desired::{ComponentSpec, Desired, Stamp};

use crate::world::{World, actor, eventually, program};

#[tokio::test(flavor = "multi_thread")]
async fn code_of_actors_elsewhere_is_compiled_ahead_of_need() {
    let world = World::start().await;
    let (_host, _) = world.joined("NEDGE01").await;
    let (_frugal, _) = world.joined_with("NEDGE02", &["--prefetch", "0"]).await;
    let digest = world.lattice.put_artifact(program("echo")).await.unwrap();
    let mut desired = Desired::default();
    desired.components.insert(actor("echo"), ComponentSpec::new("file://echo.wasm", digest.clone()));
    let (before, revision) = world.lattice.read_desired().await.unwrap();
    let stamp = Stamp { by: "test".into(), at_ms: 1 };
    world.lattice.commit_desired(&before.diff(&desired, &stamp), revision).await.unwrap();
    let compiled = |host: &str| {
        let files = std::fs::read_dir(world.host_dir(host).join("cache")).unwrap().map(|file| file.unwrap().file_name());
        files.into_iter().any(|file| file.to_string_lossy().starts_with(digest.hex()) && !file.to_string_lossy().ends_with(".new"))
    };
    eventually("the code is in the cache", async || compiled("NEDGE01").then_some(())).await;
    assert!(!compiled("NEDGE02"), "the other one was told not to");
    assert!(world.reports().await.iter().all(|report| report.components.is_empty()), "nobody runs it");
}
