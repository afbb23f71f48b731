//! Key-value in memory does what every key-value backend must.

use std::sync::Arc;

use provider_kv_memory::KvMemory;

#[tokio::test]
async fn conforms() {
    provider_conformance::keyvalue::all(Arc::new(KvMemory::new())).await;
}
