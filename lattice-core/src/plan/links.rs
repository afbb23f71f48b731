//! Links with their values merged and checked, as a plan needs them.

use crate::contract::Contract;
use crate::desired::{Desired, link_key};
use crate::error::{ErrorCode, Problem};
use crate::id::{ActorId, LinkName, ProviderId};
use crate::link::{Delivery, KindSettings, LinkError, LinkSettings, LinkSpec};
use crate::wire::assignment::LinkAssignment;

/// Why the links of an actor make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// A link's values make no sense.
    #[error("link {link} of {actor}: {source}")]
    Link {
        /// The actor.
        actor: ActorId,
        /// The link.
        link: LinkName,
        /// What is wrong.
        source: LinkError,
    },
    /// A link names a provider that serves another contract.
    #[error("link {link} of {actor}: provider `{provider}` is a {kind}, it does not serve {contract}")]
    WrongProvider {
        /// The actor.
        actor: ActorId,
        /// The link.
        link: LinkName,
        /// The provider.
        provider: ProviderId,
        /// Its kind.
        kind: &'static str,
        /// The link's contract.
        contract: Contract,
    },
    /// Two durable subscriptions of one actor overlap, so that it would get messages twice.
    #[error("subscriptions `{first}` and `{second}` of {actor} overlap: it would get messages twice")]
    Overlap {
        /// The actor.
        actor: ActorId,
        /// One subscription.
        first: String,
        /// The other.
        second: String,
    },
}

impl From<LinkFault> for Problem {
    fn from(fault: LinkFault) -> Self {
        let problem = Self::new(ErrorCode::Usage, fault.to_string());
        match &fault {
            LinkFault::Overlap { .. } => problem.hint("make the subscriptions disjoint"),
            LinkFault::Link { source, .. } => problem.hint(source.hint()),
            LinkFault::WrongProvider { .. } => problem.hint("`lattice-ctl get inventory` lists the providers"),
        }
    }
}

/// The links of an actor with their values merged and checked, in the order of their keys.
pub(super) fn resolve_links(actor: &ActorId, desired: &Desired) -> Result<Vec<LinkAssignment>, LinkFault> {
    let links: Vec<LinkAssignment> = desired.links_of(actor).map(|link| resolve_link(link, desired)).collect::<Result<_, _>>()?;
    check_overlap(actor, &links)?;
    Ok(links)
}

/// One link with the values of its named config under its own, checked against the provider that it names.
///
/// # Errors
/// [`LinkFault::Link`], [`LinkFault::WrongProvider`].
pub fn resolve_link(link: &LinkSpec, desired: &Desired) -> Result<LinkAssignment, LinkFault> {
    let values = link.merged_values(desired.values_of(&link.config));
    let settings: LinkSettings =
        link.settings(&values).map_err(|source| LinkFault::Link { actor: link.source.clone(), link: link.name.clone(), source })?;
    if let Some(provider) = desired.providers.get(&link.target).filter(|provider| provider.kind.contract() != link.contract) {
        return Err(LinkFault::WrongProvider {
            actor: link.source.clone(),
            link: link.name.clone(),
            provider: link.target.clone(),
            kind: provider.kind.as_str(),
            contract: link.contract,
        });
    }
    Ok(LinkAssignment { name: link.name.clone(), contract: link.contract, provider: link.target.clone(), settings })
}

fn check_overlap(actor: &ActorId, links: &[LinkAssignment]) -> Result<(), LinkFault> {
    let durable = links.iter().filter_map(|link| match &link.settings.kind {
        KindSettings::Messaging(messaging) if messaging.delivery == Delivery::Jetstream => Some(&messaging.subscriptions),
        KindSettings::Messaging(_)
        | KindSettings::KeyValue(_)
        | KindSettings::HttpServer(_)
        | KindSettings::HttpClient(_)
        | KindSettings::Store(_) => None,
    });
    let patterns: Vec<_> = durable.flatten().collect();
    for (index, first) in patterns.iter().enumerate() {
        if let Some(second) = patterns.iter().skip(index + 1).find(|second| first.overlaps(second)) {
            return Err(LinkFault::Overlap { actor: actor.clone(), first: first.to_string(), second: second.to_string() });
        }
    }
    Ok(())
}

/// Links whose provider is not among desired state's: they wait until it is started.
pub fn dangling_links(desired: &Desired) -> Vec<(String, &LinkSpec)> {
    desired.links.values().filter(|link| !desired.providers.contains_key(&link.target)).map(|link| (link_key(link), link)).collect()
}
