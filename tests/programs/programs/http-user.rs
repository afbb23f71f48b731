//! Sends a request for every line of the payload, `<method> <url> <body>`, and answers with `<status> <body>` line by line;
//! the first error is the handler's error. The body is what `<body>` says, or nothing. `<method>:<a>:<b>:<c>` waits at most so
//! many milliseconds for the connection, the first byte, and between bytes.

use programs::outgoing::wasi::http::outgoing_handler::handle;
use programs::outgoing::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use programs::outgoing::wasi::io::streams::StreamError;
use programs::{BrokerMessage, text};

programs::program!(answer);

/// How much a stream takes or gives at once, by its contract.
const CHUNK_BYTES: usize = 4096;

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let shown: Result<Vec<_>, _> = text(&message)?.lines().map(run).collect();
    Ok(shown?.join("\n").into_bytes())
}

fn run(line: &str) -> Result<String, String> {
    let mut words = line.splitn(3, ' ');
    let (method, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let response = send(method, url, words.next().unwrap_or_default()).map_err(|code| shown(&code))?;
    let status = response.status();
    match read(&response) {
        Ok(body) => Ok(format!("{status} {}", String::from_utf8_lossy(&body))),
        Err(code) => Err(format!("{status}, then {}", shown(&code))),
    }
}

/// The name of the code, with what it says.
fn shown(code: &ErrorCode) -> String {
    format!("{code:?}")
}

fn send(method: &str, url: &str, body: &str) -> Result<IncomingResponse, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let refused = |()| ErrorCode::HttpRequestUriInvalid;
    let request = OutgoingRequest::new(Fields::new());
    let (method, waits) = method.split_once(':').unwrap_or((method, ""));
    let options = options(waits).map_err(refused)?;
    request.set_method(&named(method)).map_err(refused)?;
    request.set_scheme(Some(if scheme == "https" { &Scheme::Https } else { &Scheme::Http })).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    let outgoing = request.body().map_err(refused)?;
    let coming = handle(request, options)?;
    write(&outgoing, body.as_bytes()).map_err(|error| code(&error))?;
    OutgoingBody::finish(outgoing, None)?;
    coming.subscribe().block();
    // Ready, and asked for once.
    coming.get().ok_or(ErrorCode::HttpProtocolError)?.map_err(|()| ErrorCode::HttpProtocolError)?
}

/// How long to wait for what.
fn options(waits: &str) -> Result<Option<RequestOptions>, ()> {
    let waits: Vec<Option<u64>> = waits.split(':').map(|millis| Some(millis.parse::<u64>().ok()? * 1_000_000)).collect();
    let [connect, first_byte, between_bytes] = waits[..] else { return Ok(None) };
    let options = RequestOptions::new();
    options.set_connect_timeout(connect)?;
    options.set_first_byte_timeout(first_byte)?;
    options.set_between_bytes_timeout(between_bytes)?;
    Ok(Some(options))
}

fn named(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: &OutgoingBody, bytes: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = body.write() else { return Ok(()) };
    match bytes.chunks(CHUNK_BYTES).try_for_each(|chunk| stream.blocking_write_and_flush(chunk)) {
        // A request that was refused takes no body; why stands in its response.
        Err(StreamError::Closed) => Ok(()),
        written => written,
    }
}

fn read(response: &IncomingResponse) -> Result<Vec<u8>, ErrorCode> {
    let body = response.consume().map_err(|()| ErrorCode::HttpProtocolError)?;
    let stream = body.stream().map_err(|()| ErrorCode::HttpProtocolError)?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(CHUNK_BYTES as u64) {
            Ok(mut chunk) => bytes.append(&mut chunk),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(code(&error)),
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(bytes)
}

fn code(error: &StreamError) -> ErrorCode {
    match error {
        StreamError::Closed => ErrorCode::ConnectionTerminated,
        StreamError::LastOperationFailed(error) => {
            http_error_code(error).unwrap_or_else(|| ErrorCode::InternalError(Some(error.to_debug_string())))
        }
    }
}
