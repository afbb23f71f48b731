//! Messages that an actor works on.
//!
//! A message that is alone is worked on by the inlet's own task: handing it to another one, and the news of its end back,
//! costs two wake-ups, which on an idle machine are most of what a message costs. More than one at a time have a task
//! each, so that they may use all processors, and so have the messages of an actor that computes: while its guest runs, the
//! inlet would take nothing else. One that computes for long leaves the host's threads altogether ([`Pace`]).

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use crate::runtime::Pace;

/// Work under way; dropped, it is cut off.
pub(super) struct Work<T> {
    here: Option<BoxFuture<'static, Option<T>>>,
    elsewhere: JoinSet<Option<T>>,
}

impl<T> Default for Work<T> {
    fn default() -> Self {
        Self { here: None, elsewhere: JoinSet::new() }
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

    /// Takes up `work` of an actor with this pace; `alone` if no more of it is known to wait.
    pub(super) fn start(&mut self, work: impl Future<Output = T> + Send + 'static, alone: bool, pace: Pace) {
        let is_here = alone && pace.is_short() && self.is_empty();
        let work = work.boxed();
        let work = async move { pace.run(work).await };
        if is_here {
            self.here = Some(work.boxed());
        } else {
            self.elsewhere.spawn(work);
        }
    }

    /// Waits for a piece of work to end: `None` if there is none, `Some(None)` for one that panicked. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Option<T>> {
        let Self { here, elsewhere } = self;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;

    use super::*;

    fn pace() -> Pace {
        Pace::new(Arc::default())
    }

    #[tokio::test]
    async fn one_runs_here_and_more_beside_it() {
        let mut work = Work::default();
        let (first, waits) = oneshot::channel();
        work.start(async { waits.await.unwrap_or(0) }, true, pace());
        assert!(work.here.is_some());
        work.start(std::future::ready(2), true, pace());
        assert_eq!((work.len(), work.elsewhere.len()), (2, 1));
        assert_eq!(work.next().await, Some(Some(2)));
        first.send(1).unwrap();
        assert_eq!(work.next().await, Some(Some(1)));
        assert!(work.is_empty());
        work.start(std::future::ready(3), false, pace());
        assert!(work.here.is_none(), "others wait");
        assert_eq!(work.next().await, Some(Some(3)));
        assert_eq!(work.next().await, None);
    }

    #[tokio::test]
    async fn whoever_computes_gets_a_task() {
        let (mut work, pace) = (Work::default(), pace());
        let compute = async {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1) {}
        };
        work.start(compute, true, pace.clone());
        work.next().await;
        work.start(std::future::ready(()), true, pace.clone());
        assert!(work.here.is_none(), "the one before took long");
        work.next().await;
        work.start(std::future::ready(()), true, pace);
        assert!(work.here.is_some(), "the one before did not");
    }

    #[tokio::test]
    async fn a_panic_ends_one_piece_only() {
        let mut work: Work<u8> = Work::default();
        work.start(async { panic!("on purpose") }, true, pace());
        assert_eq!(work.next().await, Some(None));
        assert!(work.is_empty());
        work.start(std::future::ready(1), true, pace());
        assert_eq!(work.next().await, Some(Some(1)));
    }
}
