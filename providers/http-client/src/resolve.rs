//! Names to addresses, as the system resolves them.
//!
//! A name that does not exist is told apart from a resolver that cannot say: the first is an answer, the second passes.

use std::net::SocketAddr;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use provider_api::http_client::RequestError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;

/// Does `lookup` in a thread that may block. It goes on there when nobody waits for it any more, and `permit` stays with it:
/// so whoever gives up and asks again takes no second thread.
pub(crate) async fn apart<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    lookup: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let lookup = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        lookup()
    });
    lookup.await
}

/// All addresses of `host`, at least one: the resolver has an error for names without any. Blocks.
pub(crate) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, RequestError> {
    // Without it each address would come once for each kind of socket.
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = dns_lookup::getaddrinfo(Some(host), None, Some(hints)).map_err(|error| fault(host, error))?;
    let mut addresses: Vec<SocketAddr> = found.filter_map(Result::ok).map(|info| info.sockaddr).collect();
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
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
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    /// Longest wait for anything.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// Numbers of the C library (`netdb.h` of glibc and musl).
    const EAI_NONAME: i32 = -2;
    const EAI_AGAIN: i32 = -3;
    const EAI_FAIL: i32 = -4;
    const EAI_NODATA: i32 = -5;
    const EAI_MEMORY: i32 = -10;
    const EAI_SYSTEM: i32 = -11;

    #[test]
    fn a_name_that_does_not_exist_is_an_answer() {
        let of = |number: i32| fault("server.test", LookupError::new(number));
        for number in [EAI_NONAME, EAI_NODATA] {
            let error = of(number);
            assert_eq!((error.is_outage(), &error), (false, &RequestError::UnknownHost("server.test".to_owned())), "{number}");
        }
        for number in [EAI_AGAIN, EAI_FAIL, EAI_MEMORY, EAI_SYSTEM] {
            let error = of(number);
            assert!(error.is_outage() && matches!(error, RequestError::Unresolved { .. }), "{number}: {error}");
        }
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_keeps_its_permit() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.clone().try_acquire_owned().unwrap();
        let (begun, begins) = oneshot::channel();
        let (end, ends) = mpsc::channel::<()>();
        let asking = tokio::spawn(apart(permit, move || {
            let _ = begun.send(());
            let _ = ends.recv();
        }));
        begins.await.unwrap();
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert!(permits.try_acquire().is_err(), "its thread is still taken");
        drop(end);
        tokio::time::timeout(PATIENCE, permits.acquire()).await.expect("it is given back in the end").unwrap().forget();
    }
}
