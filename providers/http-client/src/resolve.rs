//! Names to addresses, as the system resolves them.
//!
//! A name that does not exist is told apart from a resolver that cannot say: the first is an answer, the second passes.

use std::net::SocketAddr;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use provider_api::http_client::RequestError;

/// All addresses of `host`. Blocks.
pub(crate) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, RequestError> {
    // Without it each address would come once for each kind of socket.
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = dns_lookup::getaddrinfo(Some(host), None, Some(hints)).map_err(|error| fault(host, error))?;
    let mut addresses: Vec<SocketAddr> = found.filter_map(Result::ok).map(|info| info.sockaddr).collect();
    for address in &mut addresses {
        address.set_port(port);
    }
    if addresses.is_empty() { Err(RequestError::UnknownHost(host.to_owned())) } else { Ok(addresses) }
}

fn fault(host: &str, error: LookupError) -> RequestError {
    use LookupErrorKind as Kind;
    match error.kind() {
        Kind::NoName | Kind::NoData => RequestError::UnknownHost(host.to_owned()),
        Kind::Again
        | Kind::Badflags
        | Kind::Fail
        | Kind::Family
        | Kind::Socktype
        | Kind::Service
        | Kind::Memory
        | Kind::System
        | Kind::Unknown
        | Kind::IO => RequestError::Unresolved { host: host.to_owned(), reason: std::io::Error::from(error).to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the C library (`netdb.h` of glibc and musl).
    const EAI_NONAME: i32 = -2;
    const EAI_AGAIN: i32 = -3;
    const EAI_FAIL: i32 = -4;

    #[test]
    fn a_name_that_does_not_exist_is_an_answer() {
        let of = |number: i32| fault("server.test", LookupError::new(number));
        assert_eq!(of(EAI_NONAME), RequestError::UnknownHost("server.test".to_owned()));
        assert!(!of(EAI_NONAME).is_outage());
        for number in [EAI_AGAIN, EAI_FAIL] {
            let error = of(number);
            assert!(error.is_outage() && matches!(error, RequestError::Unresolved { .. }), "{number}: {error}");
        }
    }
}
