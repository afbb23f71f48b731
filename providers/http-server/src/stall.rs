//! Clients that neither go on nor go away.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use provider_api::http_server::BodyError;
use tokio::time::{Instant, Sleep};

/// A clock that runs only while somebody is waited for.
struct Patience {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(tokio::time::sleep(limit)), waiting: false }
    }

    /// Passes on what is ready; what is not may be so for the limit, then it is an error.
    fn watch<T>(&mut self, polled: Poll<T>, context: &mut Context<'_>) -> Poll<Result<T, std::io::Error>> {
        if let Poll::Ready(value) = polled {
            self.waiting = false;
            return Poll::Ready(Ok(value));
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("nothing moved for {} ms", self.limit.as_millis()))))
    }
}

/// A stream whose peer must take what is written.
pub(crate) struct StallGuard<T> {
    io: T,
    writing: Patience,
}

impl<T> StallGuard<T> {
    pub(crate) fn new(io: T, limit: Duration) -> Self {
        Self { io, writing: Patience::new(limit) }
    }
}

impl<T: Read + Unpin> Read for StallGuard<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for StallGuard<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.writing.watch(polled, context).map(Result::flatten)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.writing.watch(polled, context).map(Result::flatten)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(context);
        self.writing.watch(polled, context).map(Result::flatten)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.writing.watch(polled, context).map(Result::flatten)
    }
}

/// A body that must keep coming while it is read.
pub(crate) struct KeepsComing<B> {
    body: B,
    reading: Patience,
}

impl<B> KeepsComing<B> {
    pub(crate) fn new(body: B, limit: Duration) -> Self {
        Self { body, reading: Patience::new(limit) }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for KeepsComing<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.reading.watch(polled, context).map(|watched| watched.unwrap_or_else(|stalled| Some(Err(stalled.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
