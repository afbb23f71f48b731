//! `wasi:http/outgoing-handler`: requests over the HTTP client links.
//!
//! A request goes through the first link that allows its host and method. The name is resolved once; policy judges every
//! address that comes of it, and one of those very addresses is connected to. The link's timeout bounds everything up to the
//! head of the response; a link that is removed ends the response's body, too, while a policy that comes into force lets one
//! that has begun come to its end. Nothing is tried again: only the actor knows whether a request may be sent twice.
//!
//! What is no fault of the message in hand is noted, so that a durable one is kept: a server out of reach, a link that goes,
//! and whatever policy forbids. A host that does not exist or that no link allows is the actor's own affair.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use lattice_core::contract::Contract;
use lattice_core::link::http_client::{Destination, Host, Scheme};
use lattice_core::policy::rules::Point;
use provider_api::http_client::{Body, BodyError, Outlet, Patience, RequestError, Target};
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

use crate::runtime::links::{Link, LinkCallError, Links};
use crate::runtime::state::Identity;

/// Largest piece of a body that is held for the network in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

type HttpBody = UnsyncBoxBody<Bytes, Error>;
type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<HttpBody>, Sending), Error>;

/// What happens to requests that an actor sends: nothing, unless a call has been let in with what it needs. The interface is
/// in no linker without a link; this is the second lock.
#[derive(Default)]
pub(crate) struct Outgoing(Option<Desk>);

impl Outgoing {
    pub(crate) fn through(desk: Desk) -> Self {
        Self(Some(desk))
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<HttpBody>,
        options: Option<RequestOptions>,
        _done: Sending,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let routed = match &self.0 {
            Some(desk) => desk.route(&request).map(|route| desk.clone().send(route, request, options)),
            None => Err(Error::HttpRequestDenied),
        };
        match routed {
            Ok(sending) => Box::new(sending),
            Err(error) => Box::new(std::future::ready(Err(error))),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

/// What one request needs of the instance that sends it.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) identity: Arc<Identity>,
    pub(crate) links: Links,
    /// End of the message in hand.
    pub(crate) deadline: Instant,
    /// Set when a server was out of reach, or policy forbade it.
    pub(crate) met_outage: Arc<AtomicBool>,
}

/// Where a request goes, and by which right.
struct Route {
    destination: Destination,
    link: Arc<Link>,
    outlet: Arc<dyn Outlet>,
}

impl Desk {
    /// Everything that can be told of a request before anything is asked of the network.
    fn route(&self, request: &Request<HttpBody>) -> Result<Route, Error> {
        if let Err(denied) = self.identity.shield.check(Point::HttpOutgoing) {
            self.outage();
            return Err(self.denied(&denied.to_string()));
        }
        let uri = request.uri();
        let scheme = if uri.scheme() == Some(&http::uri::Scheme::HTTP) { Scheme::Http } else { Scheme::Https };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let destination = Destination::read(scheme, authority.as_str()).map_err(|_invalid| Error::HttpRequestUriInvalid)?;
        // A tunnel to somewhere is no request.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let (mut covering, method) = (None, request.method().as_str());
        for (link, _, outlet) in self.links.http_clients().filter(|(_, settings, _)| settings.covers(&destination)) {
            if link.spec.settings.permits(method) {
                return Ok(Route { destination, link: link.clone(), outlet: outlet.clone() });
            }
            covering = Some(link);
        }
        Err(match covering {
            Some(link) => self.denied(&format!("link `{}` does not permit {method}", link.spec.name)),
            None => self.denied(&format!("no link lets this actor reach {destination}")),
        })
    }

    async fn send(self, route: Route, request: Request<HttpBody>, options: Option<RequestOptions>) -> Sent {
        let link = route.link.clone();
        match link.bounded(self.deadline, self.exchange(&route, request, options)).await {
            Ok(Ok(response)) => {
                let ended = Box::pin(link.revoked_owned());
                let response = response.map(|body| Received { body, ended, desk: self }.boxed_unsync());
                Ok((response, Box::new(std::future::ready(Ok(())))))
            }
            Ok(Err(error)) => Err(error),
            Err(error @ LinkCallError::Revoked(_)) => {
                self.outage();
                Err(self.denied(&error.to_string()))
            }
            Err(LinkCallError::TimedOut(_) | LinkCallError::Backend(_)) => Err(Error::HttpResponseTimeout),
        }
    }

    async fn exchange(&self, route: &Route, request: Request<HttpBody>, options: Option<RequestOptions>) -> Result<Response<Body>, Error> {
        let addresses = self.addresses(route).await?;
        let options = options.unwrap_or_default();
        // So that a silent address leaves time for the others, and is told apart from a slow answer.
        let connect = route.link.timeout() / 2;
        let target = Target {
            addresses,
            tls: (route.destination.scheme == Scheme::Https).then(|| bare(&route.destination.host)),
            patience: Patience {
                connect: Some(options.connect_timeout.map_or(connect, |wanted| wanted.min(connect))),
                first_byte: options.first_byte_timeout,
                between_bytes: options.between_bytes_timeout,
            },
        };
        let mut request = request.map(|body| body.map_err(|error| Box::new(error) as BodyError).boxed_unsync());
        *request.uri_mut() = Uri::from(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        route.outlet.send(request, target).await.map_err(|error| self.fault(error))
    }

    /// The addresses of the server, all of which policy allows.
    async fn addresses(&self, route: &Route) -> Result<Vec<SocketAddr>, Error> {
        let Destination { host, port, .. } = &route.destination;
        let addresses = route.outlet.resolve(&bare(host), *port).await.map_err(|error| self.fault(error))?;
        let force = self.identity.shield.in_force();
        for address in &addresses {
            // As with a contract that is denied: a link allows the host and policy does not, so the operator has said both, and
            // the message waits until one of them is taken back. Without the policy it goes through, without the link it fails.
            force.may_connect(address.ip()).map_err(|denied| {
                self.outage();
                self.denied(&format!("{}: {denied}", route.destination))
            })?;
        }
        Ok(addresses)
    }

    fn fault(&self, error: RequestError) -> Error {
        if error.is_outage() {
            self.outage();
        }
        code(error)
    }

    fn outage(&self) {
        self.met_outage.store(true, Ordering::Relaxed);
    }

    fn denied(&self, what: &str) -> Error {
        self.identity.log.denied(Contract::HttpClient.as_str(), what);
        Error::HttpRequestDenied
    }
}

/// The host as resolvers and certificates write it, without brackets.
fn bare(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string(),
    }
}

/// The body of a response, while its link is there.
struct Received {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    desk: Desk,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended.as_mut().poll(context).is_ready() {
            self.desk.outage();
            return Poll::Ready(Some(Err(self.desk.denied("its link was removed or changed before the response had come in full"))));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|error| match error.downcast::<RequestError>() {
            Ok(error) => code(*error),
            Err(error) => Error::InternalError(Some(error.to_string())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code(error: RequestError) -> Error {
    match error {
        RequestError::UnknownHost(_) => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
        RequestError::Unresolved { reason, .. } => Error::DnsError { rcode: Some(reason), info_code: None },
        RequestError::Refused(_) => Error::ConnectionRefused,
        RequestError::Unreachable { .. } => Error::DestinationUnavailable,
        RequestError::ConnectTimedOut(_) => Error::ConnectionTimeout,
        RequestError::Certificate(_) => Error::TlsCertificateError,
        RequestError::Tls(_) => Error::TlsProtocolError,
        RequestError::TimedOut(_) => Error::ConnectionReadTimeout,
        RequestError::Terminated(_) => Error::ConnectionTerminated,
        RequestError::HeadTooLarge { limit } => Error::HttpResponseHeaderSectionSize(u32::try_from(limit).ok()),
        RequestError::RequestTooLarge { limit } => Error::HttpRequestBodySize(Some(limit)),
        RequestError::ResponseTooLarge { limit } => Error::HttpResponseBodySize(Some(limit)),
        RequestError::Protocol(_) => Error::HttpProtocolError,
        RequestError::Setup(_) => Error::ConfigurationError,
        RequestError::Failed(text) => Error::InternalError(Some(text)),
    }
}
