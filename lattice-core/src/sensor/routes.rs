//! Which request over HTTP asks for what.

use super::reading::device_key;
use crate::id::Region;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /healthz`: whether the actor answers.
    Health,
    /// `GET /stats`: the counters.
    Stats,
    /// `POST /ingest`: process the body like a message.
    Ingest,
    /// `GET /devices/<region>/<id>`: a device's last value, by its key.
    Device {
        /// Its key in the bucket.
        key: String,
    },
}

/// A request that asks for nothing we have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Code in the error's JSON.
    pub code: &'static str,
    /// Message in the error's JSON.
    pub message: String,
    /// Value of the header `Allow`, for 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// 404 for what may exist but does not.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: 404, code: "not-found", message: message.into(), allow: None }
    }
}

/// Finds the route of a request; `path` may carry a query, which is ignored. The parts of the path are percent-decoded.
///
/// # Errors
/// [`Refusal`]: 400 for a path that does not decode, 404 for an unknown path or a device that cannot exist, 405 for a
/// known path with another method.
pub fn route(method: &str, path: &str) -> Result<Route, Refusal> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("healthz"), None, ..) => only("GET", method, Route::Health),
        (Some("stats"), None, ..) => only("GET", method, Route::Stats),
        (Some("ingest"), None, ..) => only("POST", method, Route::Ingest),
        (Some("devices"), Some(region), Some(id), None) => only("GET", method, device(region, id)?),
        _ => Err(Refusal::not_found("no such path: there are /devices/<region>/<id>, /stats, /ingest, /healthz")),
    }
}

fn only(allowed: &'static str, method: &str, route: Route) -> Result<Route, Refusal> {
    if method == allowed {
        return Ok(route);
    }
    let message = format!("this path takes {allowed} only");
    Err(Refusal { status: 405, code: "method-not-allowed", message, allow: Some(allowed) })
}

fn device(region: &str, id: &str) -> Result<Route, Refusal> {
    let (region, id) = (percent_decode(region)?, percent_decode(id)?);
    let region = Region::new(region).map_err(|error| Refusal::not_found(error.to_string()))?;
    let key = device_key(&region, &id).map_err(|error| Refusal::not_found(error.to_string()))?;
    Ok(Route::Device { key })
}

fn percent_decode(text: &str) -> Result<String, Refusal> {
    let bad = || Refusal { status: 400, code: "bad-request", message: "the path is not percent-encoded UTF-8".to_owned(), allow: None };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_value).ok_or_else(bad)?;
                let low = bytes.next().and_then(hex_value).ok_or_else(bad)?;
                high << 4 | low
            }
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| bad())
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_find_their_route() {
        let check = |method: &str, path: &str, expected: Result<Route, u16>| {
            assert_eq!(route(method, path).map_err(|refusal| refusal.status), expected, "{method} {path}");
        };
        let device = |key: &str| Ok(Route::Device { key: key.to_owned() });
        check("GET", "/healthz", Ok(Route::Health));
        check("GET", "/stats?pretty", Ok(Route::Stats));
        check("POST", "/ingest", Ok(Route::Ingest));
        check("GET", "/devices/eu/sensor-001", device("eu.sensor-001"));
        check("GET", "/devices/eu/a%2Fb%20c", device("eu.a=2Fb=20c"));
        check("GET", "/devices/eu/%C3%A9", device("eu.=C3=A9"));
        check("GET", "/devices/eu/a.b", device("eu.a=2Eb"));
        check("GET", "/devices/eu/..", device("eu.=2E=2E"));

        check("POST", "/stats", Err(405));
        check("GET", "/ingest", Err(405));
        check("DELETE", "/devices/eu/a", Err(405));
        check("HEAD", "/healthz", Err(405));
        for path in
            ["", "/", "/nope", "/stats/", "/devices", "/devices/eu", "/devices/eu/", "/devices//a", "/devices/eu/a/b", "/devices/a%2Eb/c"]
        {
            check("GET", path, Err(404));
        }
        check("GET", &format!("/devices/eu/{}", "a".repeat(1000)), Err(404));
        for path in ["/devices/eu/%", "/devices/eu/%2", "/devices/eu/%zz", "/devices/eu/%ff", "/devices/eu/%+1"] {
            check("GET", path, Err(400));
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        assert_eq!(route("PUT", "/ingest").unwrap_err().allow, Some("POST"));
    }
}
