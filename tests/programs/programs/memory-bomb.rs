//! Takes memory, page by page, until it gets no more, then fails with `memory refused after <n> MiB`.

use programs::BrokerMessage;

programs::program!(answer);

const CHUNK_BYTES: usize = 1024 * 1024;

fn answer(_message: BrokerMessage) -> Result<Vec<u8>, String> {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut chunk = Vec::new();
        if chunk.try_reserve_exact(CHUNK_BYTES).is_err() || chunks.try_reserve(1).is_err() {
            return Err(format!("memory refused after {} MiB", chunks.len()));
        }
        // Written to, so that the host must back it with real memory.
        chunk.resize(CHUNK_BYTES, 1);
        chunks.push(std::hint::black_box(chunk));
    }
}
