//! The HTTP side: `GET /nodes`, `GET /plan`, `POST /place`. Every body is JSON.

use std::io::Read as _;

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::wire::json::MAX_CONTROL_BYTES;
use wasmcloud_component::http::{self, HeaderValue, IncomingBody, IncomingRequest, OutgoingBody, Response, StatusCode, header};

use crate::answer::failure;
use crate::{Glue, with_replica};

http::export!(Glue);

impl http::Server for Glue {
    fn handle(request: IncomingRequest) -> http::Result<Response<impl OutgoingBody>> {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let allowed = match path.as_str() {
            "/nodes" | "/plan" => "GET",
            "/place" => "POST",
            _ => return Ok(json(StatusCode::NOT_FOUND, failure(&Problem::new(ErrorCode::NotFound, format!("nothing at {path}"))))),
        };
        if method != allowed {
            let problem = Problem::new(ErrorCode::Usage, format!("{path} takes {allowed} only"));
            let mut response = json(StatusCode::METHOD_NOT_ALLOWED, failure(&problem));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            return Ok(response);
        }
        let answer = match path.as_str() {
            "/nodes" => Ok(with_replica(crate::Replica::nodes)),
            "/plan" => with_replica(|replica| replica.shares()),
            _ => read(request.into_body()).and_then(|body| with_replica(|replica| replica.place(&body))),
        };
        Ok(answer.map_or_else(|problem| json(status(problem.code), failure(&problem)), |body| json(StatusCode::OK, body)))
    }
}

/// One byte more than is allowed, so that a longer body is refused like any that makes no sense.
fn read(body: IncomingBody) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_CONTROL_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let read = body.take(limit).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| Problem::new(ErrorCode::Usage, format!("request body: {error}")))
}

fn status(code: ErrorCode) -> StatusCode {
    match code.exit_code() {
        2 => StatusCode::BAD_REQUEST,
        3 | 7 => StatusCode::CONFLICT,
        4 => StatusCode::NOT_FOUND,
        5 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
