//! The links of one actor, bound to backends.
//!
//! A link that is removed or changed is *revoked*: calls that are under way through it end at once with a typed error, and
//! whoever still holds it gets nothing through it any more. A link that stays the same stays the same object, so that a
//! change of one never disturbs another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::contract::Contract;
use lattice_core::id::LinkName;
use lattice_core::link::{HttpClientSettings, KindSettings, MessagingSettings, StoreBucket};
use lattice_core::wire::assignment::LinkAssignment;
use provider_api::CallError;
use provider_api::http_client::Outlet;
use provider_api::keyvalue::Bucket;
use provider_api::messaging::Messaging;
use provider_api::store::Store;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A link and what is at its other end.
#[derive(Clone)]
pub struct BoundLink {
    /// The link.
    pub spec: LinkAssignment,
    /// Its backend, opened.
    pub backend: Backend,
}

/// What is at the other end of a link.
#[derive(Clone)]
pub enum Backend {
    /// The one bucket that the link gives access to.
    KeyValue(Arc<dyn Bucket>),
    /// The message bus.
    Messaging(Arc<dyn Messaging>),
    /// A server that calls the actor; the actor calls nothing through it.
    HttpServer,
    /// The way out to other servers.
    HttpClient(Arc<dyn Outlet>),
    /// The control plane's buckets.
    Store(Arc<dyn Store>),
}

impl Backend {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::KeyValue(a), Self::KeyValue(b)) => Arc::ptr_eq(a, b),
            (Self::Messaging(a), Self::Messaging(b)) => Arc::ptr_eq(a, b),
            (Self::HttpServer, Self::HttpServer) => true,
            (Self::HttpClient(a), Self::HttpClient(b)) => Arc::ptr_eq(a, b),
            (Self::Store(a), Self::Store(b)) => Arc::ptr_eq(a, b),
            (Self::KeyValue(_) | Self::Messaging(_) | Self::HttpServer | Self::HttpClient(_) | Self::Store(_), _) => false,
        }
    }
}

/// Why a call through a link gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkCallError {
    /// The link was removed or changed during the call, or before it.
    #[error("link definition not found: link `{0}` was removed or changed")]
    Revoked(LinkName),
    /// The link's timeout or the message's deadline passed.
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// The backend said so.
    #[error(transparent)]
    Backend(#[from] CallError),
}

impl LinkCallError {
    /// Whether the backend was not there for this call, which says nothing of what the actor wanted of it.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Revoked(_) | Self::Backend(CallError::Unavailable(_)) => true,
            Self::TimedOut(_)
            | Self::Backend(
                CallError::Invalid(_)
                | CallError::TooLarge { .. }
                | CallError::NoResponder(_)
                | CallError::TimedOut(_)
                | CallError::Failed(_),
            ) => false,
        }
    }

    /// Whether there was no answer in time.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Backend(CallError::TimedOut(_)))
    }
}

/// One link of a running actor.
pub(crate) struct Link {
    pub(crate) spec: LinkAssignment,
    pub(crate) backend: Backend,
    revoked: CancellationToken,
}

impl Link {
    fn new(bound: BoundLink) -> Arc<Self> {
        Arc::new(Self { spec: bound.spec, backend: bound.backend, revoked: CancellationToken::new() })
    }

    /// Ends what is under way through this link and lets nothing new begin.
    pub(crate) fn revoke(&self) {
        self.revoked.cancel();
    }

    /// Ready when the link is revoked.
    pub(crate) fn revoked_owned(&self) -> WaitForCancellationFutureOwned {
        self.revoked.clone().cancelled_owned()
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.spec.settings.timeout_ms))
    }

    /// Calls the backend: each attempt may take the link's timeout, an attempt that found the backend unavailable is
    /// repeated as often as the link says, all of it ends at `deadline` or when the link is revoked.
    pub(crate) async fn call<T, F>(&self, deadline: Instant, mut attempt: impl FnMut() -> F) -> Result<T, LinkCallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let delay = Duration::from_millis(u64::from(self.spec.settings.retry_delay_ms));
        let mut retries = self.spec.settings.retry_count;
        loop {
            let error = match self.bounded(deadline, attempt()).await? {
                Err(error) if error.is_retryable() => error,
                settled => return Ok(settled?),
            };
            if retries == 0 || Instant::now() + delay >= deadline {
                return Err(error.into());
            }
            retries -= 1;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.revoked.cancelled() => return Err(self.revoked_error()),
            }
        }
    }

    /// One call, which ends when the link's timeout or `deadline` has passed, or when the link is revoked.
    pub(crate) async fn bounded<T>(&self, deadline: Instant, call: impl Future<Output = T>) -> Result<T, LinkCallError> {
        if self.is_revoked() {
            return Err(self.revoked_error());
        }
        // Begins when it is polled first: a call that is answered from memory costs neither a timer nor a registration.
        let stop = async {
            let start = Instant::now();
            let end = deadline.min(start + self.timeout());
            tokio::select! {
                () = self.revoked.cancelled() => self.revoked_error(),
                () = tokio::time::sleep_until(end) => LinkCallError::TimedOut((end - start).as_millis()),
            }
        };
        tokio::select! {
            biased;
            settled = call => Ok(settled),
            stop = stop => Err(stop),
        }
    }

    fn revoked_error(&self) -> LinkCallError {
        LinkCallError::Revoked(self.spec.name.clone())
    }
}

/// All links of an actor; a clone is the same list.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<[Arc<Link>]>);

impl Links {
    pub(crate) fn new(bound: Vec<BoundLink>) -> Self {
        Self::default().replaced(bound)
    }

    /// The links `bound`; those that are unchanged are the same objects as here. The others are for the caller to revoke
    /// with [`Links::revoke_all_but`], once the new ones are in use.
    pub(crate) fn replaced(&self, bound: Vec<BoundLink>) -> Self {
        let keep_or_make = |new: BoundLink| {
            let same = self.0.iter().find(|old| old.spec == new.spec && old.backend.is_same(&new.backend));
            same.cloned().unwrap_or_else(|| Link::new(new))
        };
        Self(bound.into_iter().map(keep_or_make).collect())
    }

    /// Revokes every link that is not one of `kept`.
    pub(crate) fn revoke_all_but(&self, kept: &Self) {
        for link in self.0.iter() {
            if !kept.0.iter().any(|other| Arc::ptr_eq(link, other)) {
                link.revoke();
            }
        }
    }

    /// The contracts that there is a link for.
    pub(crate) fn contracts(&self) -> BTreeSet<Contract> {
        self.0.iter().map(|link| link.spec.contract).collect()
    }

    /// Environment variables that the links give.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().flat_map(|link| &link.spec.settings.env)
    }

    /// The key-value link that an actor means by `identifier`: the link's name, or its bucket's.
    pub(crate) fn bucket(&self, identifier: &str) -> Option<&Arc<Link>> {
        let by_name = self.of(Contract::KeyValue).find(|link| link.spec.name.as_str() == identifier);
        by_name.or_else(|| {
            self.of(Contract::KeyValue).find(|link| match &link.spec.settings.kind {
                KindSettings::KeyValue(settings) => settings.bucket == identifier,
                KindSettings::Messaging(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => false,
            })
        })
    }

    /// The bucket of the control plane that an actor knows as `name`, with the link that gives it.
    pub(crate) fn store(&self, name: &str) -> Option<(&Arc<Link>, &StoreBucket, &Arc<dyn Store>)> {
        self.of(Contract::Store).find_map(|link| match (&link.spec.settings.kind, &link.backend) {
            (KindSettings::Store(settings), Backend::Store(store)) => Some((link, settings.buckets.get(name)?, store)),
            _ => None,
        })
    }

    /// The messaging links, with their settings and backends.
    pub(crate) fn messaging(&self) -> impl Iterator<Item = (&Arc<Link>, &MessagingSettings, &Arc<dyn Messaging>)> {
        self.of(Contract::Messaging).filter_map(|link| match (&link.spec.settings.kind, &link.backend) {
            (KindSettings::Messaging(settings), Backend::Messaging(backend)) => Some((link, settings, backend)),
            _ => None,
        })
    }

    /// The HTTP client links, with their settings and ways out.
    pub(crate) fn http_clients(&self) -> impl Iterator<Item = (&Arc<Link>, &HttpClientSettings, &Arc<dyn Outlet>)> {
        self.of(Contract::HttpClient).filter_map(|link| match (&link.spec.settings.kind, &link.backend) {
            (KindSettings::HttpClient(settings), Backend::HttpClient(outlet)) => Some((link, settings, outlet)),
            _ => None,
        })
    }

    /// The link of `contract` with this name.
    pub(crate) fn named(&self, contract: Contract, name: &LinkName) -> Option<&Arc<Link>> {
        self.of(contract).find(|link| link.spec.name == *name)
    }

    fn of(&self, contract: Contract) -> impl Iterator<Item = &Arc<Link>> {
        self.0.iter().filter(move |link| link.spec.contract == contract)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lattice_core::id::{ActorId, ProviderId};
    use lattice_core::link::LinkSpec;

    use super::*;

    /// Longest wait for anything.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn link(timeout_ms: &str) -> Arc<Link> {
        let (name, provider, contract) = (LinkName::new("l").unwrap(), ProviderId::new("p").unwrap(), Contract::HttpServer);
        let spec = LinkSpec {
            source: ActorId::new("a").unwrap(),
            target: provider.clone(),
            contract,
            name: name.clone(),
            values: BTreeMap::from([("timeout-ms".to_owned(), timeout_ms.to_owned())]),
            permissions: BTreeSet::new(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        };
        let settings = spec.settings(&spec.merged_values([])).unwrap();
        Link::new(BoundLink { spec: LinkAssignment { name, contract, provider, settings }, backend: Backend::HttpServer })
    }

    #[tokio::test]
    async fn of_deadline_and_timeout_the_nearer_counts() {
        let check = async |timeout_ms: &str, left: Duration| {
            let link = link(timeout_ms);
            let call = link.bounded(Instant::now() + left, std::future::pending::<()>());
            let ended = tokio::time::timeout(PATIENCE, call).await.expect("it ends long before the further one");
            assert!(matches!(ended, Err(LinkCallError::TimedOut(ms)) if ms <= 50), "{timeout_ms} {left:?}: {ended:?}");
        };
        check("600000", Duration::from_millis(50)).await;
        check("50", Duration::from_secs(600)).await;
    }

    #[tokio::test]
    async fn nothing_begins_through_a_link_that_was_removed() {
        let link = link("600000");
        link.revoke();
        let called = link.bounded(Instant::now() + PATIENCE, async { "an answer that is there at once" }).await;
        assert!(matches!(called, Err(LinkCallError::Revoked(_))), "{called:?}");
    }
}
