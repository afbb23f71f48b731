//! Answers HTTP requests with `<method> <path and query>`, a line break and the request's body. Except:
//!
//! * `/spin` never comes back, `/trap` traps;
//! * `/slow/<ms>` sleeps first;
//! * `/status/<code>` answers with that status;
//! * `/huge/<bytes>` answers with that many bytes;
//! * `/silent` returns without an answer, `/cut` stops in the middle of a body that was to have 100 bytes.

use std::time::Duration;

use programs::http::exports::wasi::http::incoming_handler::Guest;
use programs::http::wasi::http::types::{Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};
use programs::http::wasi::io::streams::StreamError;

struct Program;

programs::http::export_http!(Program);

/// How much a stream takes or gives at once, by its contract.
const CHUNK_BYTES: usize = 4096;

impl Guest for Program {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let mut parts = path.trim_start_matches('/').split('/');
        let (what, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0));
        match what {
            "spin" => loop {
                std::hint::black_box(());
            },
            "trap" => std::process::abort(),
            "silent" => return,
            "slow" => std::thread::sleep(Duration::from_millis(number)),
            _ => {}
        }
        let body = match what {
            "huge" => vec![b'x'; usize::try_from(number).unwrap_or(0)],
            "cut" => b"cut".to_vec(),
            _ => greeting(&request, &path),
        };
        let status = if what == "status" { u16::try_from(number).unwrap_or(0) } else { 200 };
        respond(out, status, &body, what == "cut");
    }
}

fn greeting(request: &IncomingRequest, path: &str) -> Vec<u8> {
    let method = match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Other(method) => method,
        rare @ (Method::Connect | Method::Options | Method::Trace) => format!("{rare:?}"),
    };
    let mut text = format!("{method} {path}\n").into_bytes();
    if let Ok(body) = request.consume() {
        text.append(&mut read(body));
    }
    text
}

fn read(body: IncomingBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(stream) = body.stream() {
        while let Ok(mut chunk) = stream.blocking_read(CHUNK_BYTES as u64) {
            bytes.append(&mut chunk);
        }
    }
    drop(IncomingBody::finish(body));
    bytes
}

/// Whatever goes wrong here is the caller hanging up, which ends the answer.
fn respond(out: ResponseOutparam, status: u16, bytes: &[u8], is_cut: bool) {
    let headers = Fields::new();
    if is_cut {
        let _ = headers.append("content-length", b"100");
    }
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    let _ = write(&body, bytes);
    if !is_cut {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn write(body: &OutgoingBody, bytes: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = body.write() else { return Ok(()) };
    bytes.chunks(CHUNK_BYTES).try_for_each(|chunk| stream.blocking_write_and_flush(chunk))
}
