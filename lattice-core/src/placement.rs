//! Which hosts an actor runs on, and how many instances each of them may have.
//!
//! Hosts that the operator names are taken as they are. Without names an actor stays where it is, or goes to the
//! placeable host that has the fewest actors.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::HostId;

/// A host as placement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The host.
    pub host: &'a HostId,
    /// Name by which ties are broken and people are told.
    pub name: &'a str,
    /// Actors that the plan has put there so far.
    pub actors: usize,
    /// Why it cannot take this actor, if so.
    pub refuses: Option<&'a str>,
}

/// Shares of `max` instances among `hosts`: as even as can be, the first ones get one more; a host whose share is 0 is left
/// out. The shares sum up to `max`.
pub fn shares(max: u32, hosts: &BTreeSet<HostId>) -> BTreeMap<HostId, u32> {
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
    let (base, rest) = (max / count, max % count);
    let share = |index: usize| base.saturating_add(u32::from(u32::try_from(index).unwrap_or(u32::MAX) < rest));
    let all = hosts.iter().enumerate().map(|(index, host)| (host.clone(), share(index)));
    all.filter(|(_, share)| *share > 0).collect()
}

/// The host for an actor whose operator named none: where it is (`current`, answering or not), else the host with the
/// fewest actors, the name deciding between equals.
///
/// # Errors
/// Why each host was rejected, by name.
pub fn choose(current: &BTreeSet<HostId>, candidates: &[Candidate<'_>]) -> Result<BTreeSet<HostId>, Vec<(String, String)>> {
    if !current.is_empty() {
        return Ok(current.clone());
    }
    let best = candidates.iter().filter(|candidate| candidate.refuses.is_none()).min_by_key(|candidate| (candidate.actors, candidate.name));
    match best {
        Some(candidate) => Ok(BTreeSet::from([candidate.host.clone()])),
        None => Err(candidates.iter().map(|candidate| (candidate.name.to_owned(), candidate.refuses.unwrap_or("").to_owned())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::host_id;

    #[test]
    fn shares_are_even_and_sum_up() {
        let hosts: BTreeSet<HostId> = (0..3).map(host_id).collect();
        let check = |max: u32, expected: &[u32]| assert_eq!(shares(max, &hosts).into_values().collect::<Vec<_>>(), expected);
        check(10, &[4, 3, 3]);
        check(3, &[1, 1, 1]);
        check(1, &[1]);
        check(0, &[]);
        check(u32::MAX, &[1_431_655_765; 3]);
        assert!(shares(5, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn the_emptiest_host_wins_and_an_actor_stays() {
        let (a, b, c) = (host_id(0), host_id(1), host_id(2));
        let candidate = |host, name, actors, refuses| Candidate { host, name, actors, refuses };
        let all = [candidate(&a, "x", 2, None), candidate(&b, "z", 1, None), candidate(&c, "y", 1, None)];
        assert_eq!(choose(&BTreeSet::new(), &all), Ok(BTreeSet::from([c.clone()])));
        assert_eq!(choose(&BTreeSet::from([a.clone()]), &all), Ok(BTreeSet::from([a.clone()])));
        let full = [candidate(&a, "x", 0, Some("draining"))];
        assert_eq!(choose(&BTreeSet::new(), &full), Err(vec![("x".into(), "draining".into())]));
    }
}
