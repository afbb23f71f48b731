//! Threads for guests that compute.
//!
//! The host's own threads serve connections and hand out messages; a guest that computes keeps one of them for a tick of
//! the epoch at a time, and everything else waits. So a call that has kept a thread for [`LONG`] goes on here, on threads
//! which the kernel lets run behind those of the host, and the actor's next one begins here. They are started when they
//! are needed first.
//!
//! **Invariant.** A call changes threads only between two polls, at most once, and is cut off when its owner drops it.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::engine::EPOCH_TICK;

/// A call that keeps its thread for longer computes: half a tick tells a guest that was interrupted from one that was not.
const LONG: Duration = Duration::from_millis(EPOCH_TICK.as_millis() as u64 / 2);
/// Calls that keep a thread for less do not hold up whoever makes them.
const SHORT: Duration = Duration::from_micros(500);
/// Most threads: a node has few cores.
const MAX_THREADS: usize = 4;
/// How far behind the host's own threads these stand (nice value): about a tenth of a core while both want it all.
const NICENESS: i32 = 10;

/// The threads.
#[derive(Debug, Default)]
pub(crate) struct Lane(OnceLock<Option<Runtime>>);

impl Lane {
    /// The threads; those of the caller if the system gives no more.
    fn threads(&self) -> Handle {
        let runtime = self.0.get_or_init(|| start().inspect_err(|error| tracing::warn!(%error, "no threads for guests that compute")).ok());
        runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

/// How an actor's calls keep threads busy, told by the last one that ended.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    lane: Arc<Lane>,
    /// Nanoseconds for which it kept its thread at a stretch.
    stretch: Arc<AtomicU64>,
}

impl Pace {
    /// That of an actor that nobody has called yet.
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, stretch: Arc::default() }
    }

    /// Whether whoever makes a call may as well do it himself.
    pub(crate) fn is_short(&self) -> bool {
        self.stretch() < SHORT
    }

    /// Runs a call where it is polled until it computes, then in the lane; `None` if it panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: BoxFuture<'static, T>) -> Option<T> {
        let work = AssertUnwindSafe(work).catch_unwind().boxed();
        let mut work = Timed { work, last: Duration::ZERO, longest: Duration::ZERO, stretch: self.stretch.clone() };
        if self.stretch() < LONG {
            let here = poll_fn(|context| match work.poll_unpin(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if work.last >= LONG => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(done) = here.await {
                return done.ok();
            }
        }
        AbortOnDropHandle::new(self.lane.threads().spawn(work)).await.ok()?.ok()
    }

    fn stretch(&self) -> Duration {
        Duration::from_nanos(self.stretch.load(Ordering::Relaxed))
    }
}

/// Work that knows how long it keeps its thread.
struct Timed<T> {
    work: BoxFuture<'static, T>,
    /// In the last poll.
    last: Duration,
    longest: Duration,
    /// Told at the end.
    stretch: Arc<AtomicU64>,
}

impl<T> Future for Timed<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let start = Instant::now();
        let polled = self.work.poll_unpin(context);
        self.last = start.elapsed();
        self.longest = self.longest.max(self.last);
        if polled.is_ready() {
            self.stretch.store(u64::try_from(self.longest.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        polled
    }
}

fn start() -> std::io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MAX_THREADS);
    Builder::new_multi_thread().worker_threads(threads).thread_name("compute").on_thread_start(step_back).enable_all().build()
}

thread_local! {
    static IS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a thread of a lane.
pub(crate) fn is_here() -> bool {
    IS_HERE.get()
}

/// CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Lets the kernel prefer other threads to this one. Without it guests only compete harder.
fn step_back() {
    IS_HERE.set(true);
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
    use crate::runtime::meter::Meter;

    fn compute(time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {}
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_call_moves_when_it_computes_and_the_next_begins_there() {
        let (pace, here) = (Pace::new(Arc::default()), thread());
        let light = || {
            let light = async {
                tokio::task::yield_now().await;
                thread()
            };
            light.boxed()
        };
        assert_eq!(pace.run(light()).await, Some(here.clone()));
        assert!(pace.is_short() && pace.lane.0.get().is_none(), "no threads before they are needed");
        let heavy = async {
            let before = thread();
            compute(LONG);
            tokio::task::yield_now().await;
            (before, thread(), rustix::process::getpriority_process(None).unwrap())
        };
        let (before, after, priority) = pace.run(heavy.boxed()).await.unwrap();
        assert_eq!((before, after.as_str()), (here.clone(), "compute"));
        assert!(priority >= NICENESS, "{priority}");
        assert!(!pace.is_short());
        assert_eq!(pace.run(light()).await.unwrap(), "compute");
        assert_eq!(pace.run(light()).await, Some(here), "the one before was light again");
    }

    #[tokio::test]
    async fn only_what_a_thread_of_the_lane_ran_counts() {
        let pace = Pace::new(Arc::default());
        let meter = Meter::new(Duration::from_secs(1), Arc::default());
        let measured = meter.clone();
        let work = async move {
            compute(LONG);
            tokio::task::yield_now().await;
            assert!(is_here());
            measured.measure(async { std::thread::sleep(EPOCH_TICK) }).await;
        };
        pace.run(work.boxed()).await.unwrap();
        assert!(meter.spent() < EPOCH_TICK, "{:?}", meter.spent());
    }

    #[tokio::test]
    async fn a_panic_is_the_call_s_own() {
        let pace = Pace::new(Arc::default());
        assert_eq!(pace.run(async { panic!("at once") }.boxed()).await, None::<()>);
        let later = async {
            compute(LONG);
            tokio::task::yield_now().await;
            panic!("later");
        };
        assert_eq!(pace.run(later.boxed()).await, None::<()>);
    }

    #[tokio::test]
    async fn whoever_gives_up_ends_the_call() {
        let pace = Pace::new(Arc::default());
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _alive = alive;
            compute(LONG);
            std::future::pending::<()>().await;
        };
        assert!(tokio::time::timeout(10 * LONG, pace.run(work.boxed())).await.is_err());
        assert!(gone.await.is_err());
    }
}
