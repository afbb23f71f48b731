//! HTTP requests: handed to the actor's `wasi:http/incoming-handler`, bodies streamed both ways.
//!
//! The actor may go on after its response has begun (it writes the body then). Whoever takes the response drives it: the
//! two would only wait for each other in tasks of their own. What is left when nobody takes any more goes on by itself, and
//! ends with the actor's deadline at the latest. What goes wrong before the response begins becomes a status with a JSON
//! body `{"error": {"code", "message"}}`; after that the connection ends early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, Limited};
use lattice_core::contract::Contract;
use lattice_core::id::LinkName;
use lattice_core::policy::rules::Point;
use provider_api::http_server::{Body, BodyError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpView as _};

use super::actor::{Actor, Call};
use super::error::InvokeError;
use super::state::ReplyRoute;

/// Largest request body in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// How long a request waits for a free instance before it is turned away.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// When a client that was turned away should try again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// A response that the host makes because the actor cannot.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn into_response(self) -> Response<Body> {
        let text = serde_json::json!({ "error": { "code": self.code, "message": self.message } }).to_string();
        let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<InvokeError> for Refusal {
    fn from(error: InvokeError) -> Self {
        let (status, code) = match &error {
            InvokeError::Deadline(_) => (StatusCode::GATEWAY_TIMEOUT, "timed-out"),
            InvokeError::CpuLimit(_) => (StatusCode::GATEWAY_TIMEOUT, "cpu-limit"),
            InvokeError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            InvokeError::NotStored(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-stored"),
            InvokeError::Outage(_) => (StatusCode::SERVICE_UNAVAILABLE, "backend-unavailable"),
            InvokeError::Instantiate(_) => (StatusCode::SERVICE_UNAVAILABLE, "cannot-instantiate"),
            InvokeError::Trap(_) | InvokeError::Guest(_) => (StatusCode::INTERNAL_SERVER_ERROR, "trap"),
            InvokeError::OutOfMemory(_) => (StatusCode::INTERNAL_SERVER_ERROR, "out-of-memory"),
            InvokeError::NoHandler(_) => (StatusCode::INTERNAL_SERVER_ERROR, "no-handler"),
            InvokeError::Denied { .. } => (StatusCode::FORBIDDEN, "capability-denied"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl Actor {
    /// Answers a request that came over the HTTP link `link`. Never fails: what goes wrong becomes a status (403 policy, 503 no
    /// free instance or no link, 504 too slow, 500 anything else).
    pub async fn handle_http(&self, request: Request<Body>, link: &LinkName) -> Response<Body> {
        match self.answer(request, link).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn answer(&self, request: Request<Body>, link: &LinkName) -> Result<Response<Body>, Refusal> {
        check(&request)?;
        let turn = tokio::time::timeout(MAX_WAIT, self.begin()).await;
        let call =
            turn.map_err(|_elapsed| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "all instances of the actor are busy"))??;
        if !call.blueprint.handles(Contract::HttpServer) {
            return Err(call.failed(call.unavailable(Contract::HttpServer)).into());
        }
        call.permitted(Point::HttpIncoming)?;
        permitted(&call, &request, link)?;
        let (answer, mut answered) = oneshot::channel();
        let pace = self.pace();
        let work = Box::pin(work(call, request, answer));
        let mut work = Unfinished(Some(Box::pin(async move { pace.run(work).await })));
        let ended = tokio::select! {
            biased;
            answer = &mut answered => match answer {
                Ok(answer) => return respond(answer, work),
                // The actor's side is gone without an answer: its end says why.
                Err(_gone) => (&mut work).await,
            },
            ended = &mut work => match answered.try_recv() {
                Ok(answer) => return respond(answer, work),
                Err(_gone) => ended,
            },
        };
        match ended {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(())) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no-response", "the actor returned without a response")),
            None => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "host-error", "the request was lost in the host")),
        }
    }
}

fn respond(answer: Answer, work: Unfinished) -> Result<Response<Body>, Refusal> {
    match answer {
        Ok(response) => Ok(response.map(|body| Driven { body, work }.boxed_unsync())),
        Err(code) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "actor-error", format!("the actor answered with an error: {code:?}")))
        }
    }
}

/// How the actor's side of a request ended; `None` if it panicked.
type Ended = Option<Result<(), InvokeError>>;

/// The actor's side of a request. Dropped, it goes on in a task of its own.
struct Unfinished(Option<BoxFuture<'static, Ended>>);

impl Future for Unfinished {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let Some(work) = &mut self.0 else { return Poll::Ready(None) };
        let ended = ready!(work.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(ended)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// A response's body that drives the actor which writes it.
struct Driven {
    body: HyperOutgoingBody,
    work: Unfinished,
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.work.0.is_some() {
            // How it ended shows in the body, which ends early or does not.
            let _ = Pin::new(&mut self.work).poll(context);
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|error| Box::new(error) as BodyError)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What can be told before an instance is needed.
fn check(request: &Request<Body>) -> Result<(), Refusal> {
    let host = request.headers().get(header::HOST);
    if request.uri().authority().is_none() && host.is_none_or(|host| host.to_str().is_err()) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-request", "the request names no host"));
    }
    let length = http_body::Body::size_hint(request.body()).lower();
    if length > u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX) {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("request body has {length} bytes, at most {MAX_REQUEST_BYTES} are taken"),
        ));
    }
    Ok(())
}

/// Whether the link is there and lets this method through.
fn permitted(call: &Call, request: &Request<Body>, link: &LinkName) -> Result<(), Refusal> {
    let Some(link) = call.blueprint.around.links.named(Contract::HttpServer, link) else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "link-not-found", format!("link definition not found: `{link}`")));
    };
    if link.spec.settings.permits(request.method().as_str()) {
        return Ok(());
    }
    let what = format!("link `{}` does not permit {}", link.spec.name, request.method());
    let contract = Contract::HttpServer.as_str();
    call.blueprint.identity.log.denied(contract, &what);
    Err(Refusal::new(StatusCode::FORBIDDEN, "capability-denied", format!("capability denied: {contract}: {what}")))
}

/// One request from the actor's side, to the end of the response's body.
async fn work(call: Call, request: Request<Body>, answer: oneshot::Sender<Answer>) -> Result<(), InvokeError> {
    let task = call.blueprint.task(None, ReplyRoute::None);
    let (end, meter) = (task.deadline, task.meter.clone());
    let request = request.map(|body| Limited::new(body, MAX_REQUEST_BYTES).map_err(body_error).boxed_unsync());
    let mut instance = None;
    let outcome = call
        .limited(end, &meter, async {
            let instance = instance.insert(call.instance(task).await?);
            instance.instantiate().await?;
            let mut http = instance.state_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request)?;
            let answer = http.new_response_outparam(answer)?;
            let (handler, store) = instance.http()?;
            handler.wasi_http_incoming_handler().call_handle(store, request, answer).await
        })
        .await;
    match outcome {
        Ok(()) => {
            call.keep(instance);
            call.succeeded();
            Ok(())
        }
        Err(stop) => Err(call.failed(stop.explained_by(instance.as_ref()))),
    }
}

fn body_error(error: BodyError) -> HttpError {
    if error.is::<http_body_util::LengthLimitError>() {
        return HttpError::HttpRequestBodySize(u64::try_from(MAX_REQUEST_BYTES).ok());
    }
    HttpError::InternalError(Some(error.to_string()))
}
