//! What an error of hyper means for whoever sent the request.

use std::error::Error;

use http_body_util::LengthLimitError;
use provider_api::http_client::RequestError;

use crate::Limits;

pub(crate) fn of(error: &hyper::Error, limits: &Limits) -> RequestError {
    let text = chain(error);
    if sources(error).any(|source| source.is::<LengthLimitError>()) {
        RequestError::RequestTooLarge { limit: limits.body_bytes }
    } else if error.is_parse_too_large() {
        RequestError::HeadTooLarge { limit: limits.head_bytes }
    } else if error.is_parse() || error.is_parse_status() {
        RequestError::Protocol(text)
    } else {
        RequestError::Terminated(text)
    }
}

/// The error with its sources on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
