//! The body of a response: it must keep coming, and has a largest size.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use provider_api::http_client::{BodyError, RequestError};
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{Limits, fault};

/// A body and the connection that it comes over, which ends with it.
pub(crate) struct ResponseBody {
    body: Incoming,
    limits: Limits,
    /// Bytes that may still come.
    left: u64,
    idle: Duration,
    /// Runs while somebody waits for the server.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    _connection: AbortOnDropHandle<()>,
}

impl ResponseBody {
    pub(crate) fn new(body: Incoming, limits: &Limits, idle: Duration, connection: AbortOnDropHandle<()>) -> Self {
        let timer = Box::pin(tokio::time::sleep(idle));
        Self { body, limits: limits.clone(), left: limits.body_bytes, idle, timer, waiting: false, _connection: connection }
    }

    /// Counts what has come.
    fn taken(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, RequestError> {
        let size = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        match self.left.checked_sub(size) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => Err(RequestError::ResponseTooLarge { limit: self.limits.body_bytes }),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = false;
            let frame = frame.map(|frame| match frame {
                Ok(frame) => self.taken(frame),
                Err(error) => Err(fault::of(&error, &self.limits)),
            });
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Box::new(error) as BodyError)));
        }
        if !self.waiting {
            self.waiting = true;
            let end = Instant::now() + self.idle;
            self.timer.as_mut().reset(end);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Some(Err(Box::new(RequestError::TimedOut(self.idle.as_millis())))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
