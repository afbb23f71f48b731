//! Threads for guests that compute.
//!
//! The host's own threads serve connections and hand out messages; a guest that computes keeps one of them for a tick of
//! the epoch at a time, and everything else waits. So work that has kept a thread for [`LONG`] goes on here, on threads
//! which the kernel lets run behind those of the host. They are started when they are needed first.
//!
//! **Invariant.** Work changes threads only between two polls, at most once, and is cut off when its owner drops it.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::engine::EPOCH_TICK;

/// Work that keeps its thread for longer computes: half a tick tells a guest that was interrupted from one that was not.
const LONG: Duration = Duration::from_millis(EPOCH_TICK.as_millis() as u64 / 2);
/// Most threads: a node has few cores.
const MAX_THREADS: usize = 4;
/// How far behind the host's own threads these stand (nice value): about a tenth of a core while both want it all.
const NICENESS: i32 = 10;

/// The threads.
#[derive(Debug, Default)]
pub(crate) struct Lane(OnceLock<Option<Runtime>>);

impl Lane {
    /// Runs `work` where it is polled until it computes, then here; `None` if it panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: BoxFuture<'static, T>) -> Option<T> {
        let mut work = std::panic::AssertUnwindSafe(work).catch_unwind().boxed();
        let done = poll_fn(|context| {
            let start = Instant::now();
            match work.poll_unpin(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if start.elapsed() >= LONG => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match done {
            Some(done) => done.ok(),
            None => AbortOnDropHandle::new(self.threads().spawn(work)).await.ok()?.ok(),
        }
    }

    /// The threads; those of the caller if the system gives no more.
    fn threads(&self) -> Handle {
        let runtime = self.0.get_or_init(|| start().inspect_err(|error| tracing::warn!(%error, "no threads for guests that compute")).ok());
        runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

fn start() -> std::io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MAX_THREADS);
    Builder::new_multi_thread().worker_threads(threads).thread_name("compute").on_thread_start(step_back).enable_all().build()
}

/// Lets the kernel prefer other threads to this one. Without it guests only compete harder.
fn step_back() {
    // On Linux this means the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "guests that compute run at the host's own priority");
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            // May be dropped by a task, which must not wait.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute() {
        let start = Instant::now();
        while start.elapsed() < LONG {}
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn work_moves_when_it_computes() {
        let (lane, here) = (Lane::default(), thread());
        let light = async {
            tokio::task::yield_now().await;
            thread()
        };
        assert_eq!(lane.run(light.boxed()).await, Some(here.clone()));
        assert!(lane.0.get().is_none(), "no threads before they are needed");
        let heavy = async {
            let before = thread();
            compute();
            tokio::task::yield_now().await;
            (before, thread(), rustix::process::getpriority_process(None).unwrap())
        };
        let (before, after, priority) = lane.run(heavy.boxed()).await.unwrap();
        assert_eq!((before, after.as_str()), (here, "compute"));
        assert!(priority >= NICENESS, "{priority}");
    }

    #[tokio::test]
    async fn a_panic_is_the_work_s_own() {
        let lane = Lane::default();
        assert_eq!(lane.run(async { panic!("at once") }.boxed()).await, None::<()>);
        let later = async {
            compute();
            tokio::task::yield_now().await;
            panic!("later");
        };
        assert_eq!(lane.run(later.boxed()).await, None::<()>);
    }

    #[tokio::test]
    async fn whoever_gives_up_ends_the_work() {
        let lane = Lane::default();
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _alive = alive;
            compute();
            std::future::pending::<()>().await;
        };
        assert!(tokio::time::timeout(10 * LONG, lane.run(work.boxed())).await.is_err());
        assert!(gone.await.is_err());
    }
}
