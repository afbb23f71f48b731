//! The HTTP side: `GET /hosts`, the seed's check of every host, and `GET /failovers`, newest first. Every body is JSON.

use lattice_core::error::{ErrorCode, Problem};
use wasmcloud_component::http::{self, HeaderValue, IncomingRequest, OutgoingBody, Response, StatusCode, header};

use crate::{Glue, failure, json, records, with_replica};

http::export!(Glue);

impl http::Server for Glue {
    fn handle(request: IncomingRequest) -> http::Result<Response<impl OutgoingBody>> {
        let path = request.uri().path();
        if !matches!(path, "/hosts" | "/failovers") {
            return Ok(answer(StatusCode::NOT_FOUND, failure(&Problem::new(ErrorCode::NotFound, format!("nothing at {path}")))));
        }
        if request.method().as_str() != "GET" {
            let problem = Problem::new(ErrorCode::Usage, format!("{path} takes GET only"));
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, failure(&problem));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return Ok(response);
        }
        let body = match path {
            "/hosts" => with_replica(|replica| json(&replica.failover.hosts(replica.now()))),
            _ => records::newest().and_then(|failovers| json(&failovers)),
        };
        Ok(body.map_or_else(|problem| answer(StatusCode::INTERNAL_SERVER_ERROR, failure(&problem)), |body| answer(StatusCode::OK, body)))
    }
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
