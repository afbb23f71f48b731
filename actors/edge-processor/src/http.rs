//! The HTTP side: last values, counters, readings by POST. Every body is JSON.

use std::io::Read as _;

use lattice_core::sensor::{self, Arrival, MAX_READING_BYTES, Refusal, Route};
use wasmcloud_component::error;
use wasmcloud_component::http::{self, HeaderValue, IncomingBody, IncomingRequest, OutgoingBody, Response, StatusCode, header};

use crate::{EdgeProcessor, LOG};

http::export!(EdgeProcessor);

impl http::Server for EdgeProcessor {
    fn handle(request: IncomingRequest) -> http::Result<Response<impl OutgoingBody>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Ok(match sensor::route(request.method().as_str(), path) {
            Ok(route) => answer(route, request.into_body()).unwrap_or_else(unavailable),
            Err(refusal) => refused(&refusal),
        })
    }
}

fn answer(route: Route, body: IncomingBody) -> Result<Response<Vec<u8>>, String> {
    match route {
        Route::Health => Ok(json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())),
        Route::Stats => Ok(json(StatusCode::OK, sensor::to_json(&crate::stats()?))),
        Route::Ingest => ingest(body),
        Route::Device { key } => Ok(match crate::last_value(&key)? {
            Some(value) => json(StatusCode::OK, value),
            None => refused(&Refusal::not_found("no reading of this device yet")),
        }),
    }
}

/// Reads one byte more than a reading may have, so that a longer one is refused like any malformed reading.
fn ingest(body: IncomingBody) -> Result<Response<Vec<u8>>, String> {
    let mut reading = Vec::new();
    let limit = u64::try_from(MAX_READING_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    body.take(limit).read_to_end(&mut reading).map_err(|error| format!("request body: {error}"))?;
    let effects = crate::process(Arrival { subject: None, body: &reading })?;
    let status = match &effects.outcome {
        Ok(_) => StatusCode::OK,
        Err(malformed) if malformed.is_too_large() => StatusCode::PAYLOAD_TOO_LARGE,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    Ok(json(status, effects.answer()))
}

fn refused(refusal: &Refusal) -> Response<Vec<u8>> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = json(status, sensor::error_json(refusal.code, &refusal.message));
    if let Some(allow) = refusal.allow {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// The host refused a call: a link, a bucket or a config value is not as it should be.
fn unavailable(reason: String) -> Response<Vec<u8>> {
    error!(context: LOG, "{reason}");
    json(StatusCode::SERVICE_UNAVAILABLE, sensor::error_json("unavailable", &reason))
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
