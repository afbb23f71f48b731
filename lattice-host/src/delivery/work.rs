//! Messages that an actor works on.
//!
//! A message that is alone is worked on by the inlet's own task: handing it to another one, and the news of its end back,
//! costs two wake-ups, which on an idle machine are most of what a message costs. More than one at a time have a task
//! each, so that they may use all processors, and so have the messages of an actor that computes: while its guest runs, the
//! inlet would take nothing else. One that computes for long leaves the host's threads altogether ([`Lane`]).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use crate::runtime::Lane;

/// An actor computes if the last message kept a thread for longer than this at a stretch.
const SHORT: Duration = Duration::from_micros(500);

/// Work under way; dropped, it is cut off.
pub(super) struct Work<T> {
    here: Option<BoxFuture<'static, Option<T>>>,
    elsewhere: JoinSet<Option<T>>,
    /// Nanoseconds for which the piece that ended last kept a thread at a stretch.
    stretch: Arc<AtomicU64>,
}

impl<T> Default for Work<T> {
    fn default() -> Self {
        Self { here: None, elsewhere: JoinSet::new(), stretch: Arc::default() }
    }
}

impl<T: Send + 'static> Work<T> {
    /// How many pieces of work there are.
    pub(super) fn len(&self) -> usize {
        self.elsewhere.len().saturating_add(usize::from(self.here.is_some()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes up `work`; `alone` if no more of it is known to wait.
    pub(super) fn start(&mut self, work: impl Future<Output = T> + Send + 'static, alone: bool, lane: Arc<Lane>) {
        let is_short = u128::from(self.stretch.load(Ordering::Relaxed)) < SHORT.as_nanos();
        let work = timed(work, self.stretch.clone()).boxed();
        let work = async move { lane.run(work).await };
        if alone && is_short && self.is_empty() {
            self.here = Some(work.boxed());
        } else {
            self.elsewhere.spawn(work);
        }
    }

    /// Waits for a piece of work to end: `None` if there is none, `Some(None)` for one that panicked. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Option<T>> {
        let Self { here, elsewhere, .. } = self;
        let Some(own) = here else { return elsewhere.join_next().await.map(|done| done.ok().flatten()) };
        tokio::select! {
            done = own => {
                *here = None;
                Some(done)
            }
            Some(done) = elsewhere.join_next() => Some(done.ok().flatten()),
        }
    }
}

/// Does `work` and leaves the longest time that it kept its thread without a pause in `stretch`.
async fn timed<T>(work: impl Future<Output = T>, stretch: Arc<AtomicU64>) -> T {
    let (mut work, mut longest) = (pin!(work), Duration::ZERO);
    let done = poll_fn(|context| {
        let start = Instant::now();
        let polled = work.as_mut().poll(context);
        longest = longest.max(start.elapsed());
        polled
    })
    .await;
    stretch.store(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    done
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn one_runs_here_and_more_beside_it() {
        let mut work = Work::default();
        let (first, waits) = oneshot::channel();
        work.start(async { waits.await.unwrap_or(0) }, true, Arc::default());
        assert!(work.here.is_some());
        work.start(std::future::ready(2), true, Arc::default());
        assert_eq!((work.len(), work.elsewhere.len()), (2, 1));
        assert_eq!(work.next().await, Some(Some(2)));
        first.send(1).unwrap();
        assert_eq!(work.next().await, Some(Some(1)));
        assert!(work.is_empty());
        work.start(std::future::ready(3), false, Arc::default());
        assert!(work.here.is_none(), "others wait");
        assert_eq!(work.next().await, Some(Some(3)));
        assert_eq!(work.next().await, None);
    }

    #[tokio::test]
    async fn whoever_computes_gets_a_task() {
        let mut work = Work::default();
        let compute = async {
            let start = Instant::now();
            while start.elapsed() < 2 * SHORT {}
        };
        work.start(compute, true, Arc::default());
        work.next().await;
        work.start(std::future::ready(()), true, Arc::default());
        assert!(work.here.is_none(), "the one before took long");
        work.next().await;
        work.start(std::future::ready(()), true, Arc::default());
        assert!(work.here.is_some(), "the one before did not");
    }

    #[tokio::test]
    async fn a_panic_ends_one_piece_only() {
        let mut work: Work<u8> = Work::default();
        work.start(async { panic!("on purpose") }, true, Arc::default());
        assert_eq!(work.next().await, Some(None));
        assert!(work.is_empty());
        work.start(std::future::ready(1), true, Arc::default());
        assert_eq!(work.next().await, Some(Some(1)));
    }
}
