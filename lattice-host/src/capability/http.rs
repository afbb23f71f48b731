//! `wasi:http`: actors answer requests, they send none.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

/// Largest piece of a response body that is held for the network in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

type HttpBody = UnsyncBoxBody<Bytes, Error>;
type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<HttpBody>, Sending), Error>;

/// What happens to requests that an actor sends: nothing. The interface is in no linker; this is the second lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        _request: http::Request<HttpBody>,
        _options: Option<RequestOptions>,
        _done: Sending,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}
