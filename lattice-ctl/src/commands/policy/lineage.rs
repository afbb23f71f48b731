//! What came before: which version of a policy the next one follows, and whose words may be signed again.
//!
//! Whoever may write the store may put anything there: what nobody signed, what a stranger signed with a key of his own, old
//! documents again, all under any number. So the newest document decides nothing by being the newest. What counts is what
//! hosts take: a document up to the highest version that they know, and the newest one unless one of them refuses this very
//! document, because they may not have read it yet. Where no host answers, every document without a flaw counts.
//!
//! **Invariants.** What hosts refuse does not move the number that the next version follows, and neither does what is missing
//! in the store: that number is never below what hosts know. Nothing is signed again that was written by anybody but the key
//! that signs now or the one whose document all hosts enforce.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::id::{ConfigName, Digest, Revision};
use lattice_core::policy::accept::{MAX_POLICIES, Mark, Refused, check_version};
use lattice_core::policy::report::Enforced;
use lattice_core::trust::PublicKey;

use super::document::Opened;

/// What hosts say of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Heard {
    /// The highest version that each of them knows; 0: none.
    known: Vec<u64>,
    /// What they refuse in its place, by digest: their names, and why.
    refused: BTreeMap<Digest, BTreeMap<String, String>>,
    /// Whether one of them refuses so much that it may refuse something here and not say it.
    crowded: bool,
}

impl Heard {
    /// Takes note of what the host `name` says of `policy`.
    pub(super) fn hear(&mut self, policy: &ConfigName, name: &str, said: &Enforced) {
        let known = [&said.policies, &said.elsewhere].into_iter().filter_map(|versions| versions.get(policy)).max();
        self.known.push(known.copied().unwrap_or(0));
        match said.refused.get(policy) {
            Some(refusal) => {
                let by = self.refused.entry(refusal.document.clone()).or_default();
                by.insert(name.to_owned(), refusal.why.clone());
            }
            None => self.crowded |= said.refused.len() >= MAX_POLICIES,
        }
    }

    /// Who refuses this very document, and why, in a few words.
    pub(super) fn refusal(&self, document: &Digest) -> Option<String> {
        let by = self.refused.get(document)?;
        let (_, why) = by.first_key_value()?;
        let names: Vec<&str> = by.keys().map(String::as_str).collect();
        Some(format!("refused by {}: {why}", super::watch::first_names(&names)))
    }

    /// The highest version that counts, of `kept` documents of which the one at `newest` is the store's word.
    pub(super) fn limit(&self, kept: &[Opened], newest: Revision) -> u64 {
        let is_refused = |opened: &Opened| self.crowded || self.refused.contains_key(&opened.digest());
        let unread = kept.iter().find(|opened| opened.stored.revision == newest && opened.flaw.is_none() && !is_refused(opened));
        match self.known.iter().max() {
            Some(highest) => unread.map_or(0, |opened| opened.mark.version).max(*highest),
            None => u64::MAX,
        }
    }

    fn highest(&self) -> u64 {
        self.known.iter().copied().max().unwrap_or(0)
    }

    /// The version that all hosts have come to, if none of them refuses anything in its place. While one does, whatever it is, the
    /// newest document is not what it took: what is kept under the number that it knows may be anybody's.
    fn agreed(&self) -> Option<u64> {
        self.known.iter().copied().min().filter(|_| self.refused.is_empty() && !self.crowded)
    }
}

/// The versions of a policy that count.
#[derive(Debug)]
pub(super) struct Lineage {
    /// Documents, the lowest version first; of several under one version the one that may be signed again is the last.
    counting: Vec<Opened>,
    /// Keys whose words may be signed again.
    authors: BTreeSet<PublicKey>,
    /// The highest version that counts; 0: none.
    version: u64,
    /// Where the store's word stands.
    newest: Revision,
}

/// Why a document cannot be the next one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotNext {
    /// After the one that is kept.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// After one that is not.
    #[error("version {offered} of {policy} is not above {known}, which hosts know")]
    NotAbove {
        /// The policy.
        policy: ConfigName,
        /// The document's version.
        offered: u64,
        /// What hosts know.
        known: u64,
    },
}

/// Why an earlier version does not come again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// It is not there.
    #[error("{} is kept (kept: {kept})", .wanted.map_or_else(|| format!("no version before {before}"), |wanted| format!("no version {wanted}")))]
    Gone {
        /// The version, if one was named.
        wanted: Option<u64>,
        /// The version in force.
        before: u64,
        /// The versions that are there.
        kept: String,
    },
    /// What is in force is not there, so nobody knows which keys it revoked.
    #[error("version {version}, which hosts know, is not kept, nor which keys it revoked")]
    Unknown {
        /// The version in force.
        version: u64,
    },
    /// Somebody else's words.
    #[error("version {version} was signed by {issuer}, which is neither the key that signs now nor the one that hosts go by")]
    Foreign {
        /// The version.
        version: u64,
        /// Who signed it.
        issuer: PublicKey,
    },
}

impl Lineage {
    /// What counts of the documents that are `kept`, the oldest first, of which the one at `newest` is the store's word, when
    /// `signer` signs and hosts say what was `heard`.
    pub(super) fn new(kept: Vec<Opened>, newest: Revision, heard: &Heard, signer: &PublicKey) -> Self {
        let limit = heard.limit(&kept, newest);
        let mut counting = kept;
        counting.retain(|opened| opened.flaw.is_none() && opened.mark.version <= limit);
        let mut authors: BTreeSet<PublicKey> = counting
            .iter()
            .filter(|opened| Some(opened.mark.version) == heard.agreed())
            .map(|opened| opened.bundle.issuer.clone())
            .collect();
        // Two issuers of one version: hosts do not say which of them they mean.
        if authors.len() > 1 {
            authors.clear();
        }
        authors.insert(signer.clone());
        counting.sort_by_key(|opened| (opened.mark.version, authors.contains(&opened.bundle.issuer)));
        let version = counting.last().map_or(0, |opened| opened.mark.version).max(heard.highest());
        Self { counting, authors, version, newest }
    }

    /// The version that the next one follows; 0: none.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The document of that version; none if it is not kept.
    pub(super) fn last(&self) -> Option<&Opened> {
        self.counting.last().filter(|opened| opened.mark.version == self.version)
    }

    /// Whether that document is the store's word, so that hosts that never read it will.
    pub(super) fn stands(&self) -> bool {
        self.last().is_some_and(|opened| opened.stored.revision == self.newest)
    }

    /// Whether the document of `version` with `digest` may be the next one.
    ///
    /// # Errors
    /// What hosts would say.
    pub(super) fn check(&self, policy: &ConfigName, version: u64, digest: &Digest) -> Result<(), NotNext> {
        let known = self.version;
        let numbered = || Mark { version: known, digest: digest.clone(), elsewhere: false };
        let last = self.last().map(|opened| opened.mark.clone());
        if last.is_none() && known > 0 && version <= known {
            return Err(NotNext::NotAbove { policy: policy.clone(), offered: version, known });
        }
        let before = last.or_else(|| (known > 0).then(numbered));
        check_version(policy, version, digest, before.as_ref()).map_err(NotNext::from)
    }

    /// The version in force and version `to`, or the one before; both of them may be signed again.
    ///
    /// # Errors
    /// [`Lost`].
    pub(super) fn earlier(&self, to: Option<u64>) -> Result<(&Opened, &Opened), Lost> {
        let last = self.last().ok_or(Lost::Unknown { version: self.version })?;
        let mut versions = self.counting.iter().rev();
        let found = versions.find(|opened| to.map_or(opened.mark.version < self.version, |to| opened.mark.version == to));
        let found = found.ok_or_else(|| {
            let kept: Vec<String> = self.counting.iter().map(|opened| opened.mark.version.to_string()).collect();
            Lost::Gone { wanted: to, before: self.version, kept: kept.join(", ") }
        })?;
        // What is in force says which keys are revoked, so its words come again as well.
        match [last, found].into_iter().find(|opened| !self.authors.contains(&opened.bundle.issuer)) {
            Some(foreign) => Err(Lost::Foreign { version: foreign.mark.version, issuer: foreign.bundle.issuer.clone() }),
            None => Ok((last, found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::policy::document::Flaw;
    use crate::commands::policy::watch::tests::opened;
    use crate::commands::signing::public;
    use lattice_core::policy::force::Preset;
    use lattice_core::policy::report::Refusal;
    use lattice_core::trust::clock::Standing;
    use nkeys::KeyPair;

    /// Above all that hosts take.
    const HUGE: u64 = u64::MAX - 1;

    struct Keys {
        own: PublicKey,
        former: PublicKey,
        stranger: PublicKey,
    }

    impl Keys {
        fn new() -> Self {
            let key = || public(&KeyPair::new_account()).unwrap();
            Self { own: key(), former: key(), stranger: key() }
        }

        /// Documents as a word each: who signed (`o`wn, `f`ormer, `s`tranger, or nobody: `x`) and the version.
        fn kept(&self, words: &str) -> Vec<Opened> {
            let document = |(place, word): (usize, &str)| {
                let (issuer, flaw) = match &word[..1] {
                    "o" => (&self.own, None),
                    "f" => (&self.former, None),
                    "s" => (&self.stranger, None),
                    _ => (&self.own, Some(Flaw::Signature)),
                };
                let mut opened = opened(if &word[1..] == "huge" { HUGE } else { word[1..].parse().unwrap() }, "*");
                opened.bundle.issuer = issuer.clone();
                opened.stored.revision = Revision(place as u64 + 1);
                Opened { flaw, ..opened }
            };
            words.split_whitespace().enumerate().map(document).collect()
        }

        /// Where so many hosts refuse the newest of them.
        fn lineage(&self, words: &str, known: &[u64], refusing: usize) -> Lineage {
            self.where_refused(words, known, words.split_whitespace().count(), refusing)
        }

        /// Where so many hosts refuse the one in that place, counted from 1; in place 0 stands what is not kept any more.
        fn where_refused(&self, words: &str, known: &[u64], place: usize, refusing: usize) -> Lineage {
            let kept = self.kept(words);
            let refused = place.checked_sub(1).map_or_else(|| Digest::of(b"gone"), |place| kept[place].digest());
            let by: BTreeMap<String, String> = (0..refusing).map(|n| (format!("H{n}"), "no".to_owned())).collect();
            let refused = if by.is_empty() { BTreeMap::new() } else { BTreeMap::from([(refused, by)]) };
            self.read(kept, &Heard { known: known.to_vec(), refused, crowded: false })
        }

        fn read(&self, kept: Vec<Opened>, heard: &Heard) -> Lineage {
            let newest = Revision(kept.len() as u64);
            Lineage::new(kept, newest, heard, &self.own)
        }
    }

    #[test]
    fn what_the_next_version_follows() {
        let keys = Keys::new();
        let check = |words: &str, known: &[u64], refusals: usize, version: u64, stands: bool| {
            let lineage = keys.lineage(words, known, refusals);
            assert_eq!((lineage.version(), lineage.stands()), (version, stands), "{words} {known:?} {refusals}");
        };
        check("", &[], 0, 0, false);
        check("o1 o2", &[2, 2], 0, 2, true);
        // Put a moment ago, and not read by anybody yet.
        check("o1 o2 o3", &[2, 2], 0, 3, true);
        check("o1", &[0], 0, 1, true);
        // Nobody signed it, or a stranger.
        check("o1 o2 xhuge", &[2, 2], 2, 2, false);
        check("o1 o2 shuge", &[2, 2], 2, 2, false);
        check("o1 o2 shuge", &[1, 2, 0], 3, 2, false);
        check("shuge", &[0], 1, 0, false);
        // Behind an own document again, or one that hosts refuse for another reason.
        check("o1 o2 shuge o2", &[2], 0, 2, true);
        check("o1 o2 shuge xhuge", &[2], 1, 2, false);
        check("o1 o2 shuge x3", &[2], 0, 2, false);
        check("o1 o2 s3 x4", &[2], 0, 2, false);
        // An old one again.
        check("o1 o2 o1", &[2], 1, 2, false);
        // One host trusts nobody who signs here, the others do.
        check("o1 o2 o3", &[3, 0], 1, 3, true);
        // Pushed out, or deleted.
        check("xhuge shuge", &[4, 5], 2, 5, false);
        check("", &[4, 5], 0, 5, false);
        check("o1 o2", &[5], 1, 5, false);
        // Nobody answers: what has no flaw counts.
        check("o1 o2 xhuge", &[], 0, 2, false);
        check("o1 o2 s9", &[], 0, 9, true);
    }

    #[test]
    fn who_refuses_another_document_has_not_read_the_newest() {
        let keys = Keys::new();
        let check = |words: &str, known: &[u64], refused: usize, version: u64, stands: bool| {
            let lineage = keys.where_refused(words, known, refused, 2);
            assert_eq!((lineage.version(), lineage.stands()), (version, stands), "{words} {known:?} {refused}");
        };
        check("o1 o2 shuge o3", &[2, 2], 3, 3, true);
        check("o1 o2 xhuge o3", &[2, 2], 3, 3, true);
        check("o1 o2 o3", &[2, 2], 0, 3, true);
        check("o1 o2 shuge o3", &[2, 2], 4, 2, false);
        // Whose words all hosts go by is not known before they have read it.
        for refused in 0..=2 {
            let lineage = keys.where_refused("f1 f2", &[2, 2], refused, 1);
            assert_eq!(lineage.earlier(None).unwrap_err(), foreign(2, &keys.former), "{refused}");
        }
    }

    #[test]
    fn who_refuses_all_that_it_can_say_may_refuse_this_too() {
        let keys = Keys::new();
        let crowded = Heard { known: vec![2], crowded: true, ..Heard::default() };
        assert_eq!(keys.read(keys.kept("o1 o2 shuge"), &crowded).version(), 2);
        assert_eq!(keys.read(keys.kept("f1 f2"), &crowded).earlier(None).unwrap_err(), foreign(2, &keys.former));
    }

    fn foreign(version: u64, issuer: &PublicKey) -> Lost {
        Lost::Foreign { version, issuer: issuer.clone() }
    }

    #[test]
    fn whose_words_are_signed_again() {
        let keys = Keys::new();
        let check = |words: &str, known: &[u64], refusals: usize, to: Option<u64>, expected: Result<u64, Lost>| {
            let lineage = keys.lineage(words, known, refusals);
            let found = lineage.earlier(to).map(|(last, found)| {
                assert_eq!(last.mark.version, lineage.version());
                found.mark.version
            });
            assert_eq!(found, expected, "{words} {known:?} {refusals} {to:?}");
        };
        check("o1 o2 o3", &[3], 0, None, Ok(2));
        check("o1 o2 o3", &[3], 0, Some(1), Ok(1));
        check("o1 o2 o3", &[], 0, None, Ok(2));
        // By version, not by place.
        check("o1 o2 o3 o1", &[3], 1, None, Ok(2));
        // A stranger's words, whoever they are refused by and wherever they stand.
        check("o1 o2 shuge", &[2], 1, None, Ok(1));
        check("o1 s2 o3", &[3], 0, None, Err(foreign(2, &keys.stranger)));
        check("o1 s2 o3", &[3], 0, Some(2), Err(foreign(2, &keys.stranger)));
        check("o1 s2 o3", &[3], 0, Some(1), Ok(1));
        check("o1 o2 s2 o3", &[3], 0, None, Ok(2));
        check("o1 o2 s3", &[], 0, None, Err(foreign(3, &keys.stranger)));
        check("o1 o2 s3", &[], 0, Some(1), Err(foreign(3, &keys.stranger)));
        check("o1 o2 x3", &[], 0, Some(3), Err(Lost::Gone { wanted: Some(3), before: 2, kept: "1, 2".into() }));
        // The key that hosts go by, where all of them do and none has something against the newest.
        check("f1 f2", &[2, 2], 0, None, Ok(1));
        check("f1 f2 o3", &[3, 2], 0, None, Ok(2));
        check("f1 f2 o3", &[3, 3], 0, None, Err(foreign(2, &keys.former)));
        check("f1 f2", &[2, 0], 0, None, Err(foreign(2, &keys.former)));
        check("f1 f2", &[2, 2], 1, None, Err(foreign(2, &keys.former)));
        check("o1 f2 s2 o2 o3", &[3, 2], 0, Some(2), Ok(2));
        check("o1 f2 s2 o3", &[3, 2], 0, Some(2), Err(foreign(2, &keys.stranger)));
        // What is in force is not kept.
        check("o1 o2 shuge", &[5], 1, None, Err(Lost::Unknown { version: 5 }));
        check("o3", &[3], 0, None, Err(Lost::Gone { wanted: None, before: 3, kept: "3".into() }));
    }

    #[test]
    fn what_hosts_would_say_of_the_next() {
        let keys = Keys::new();
        let policy = ConfigName::new("edge").unwrap();
        let check = |words: &str, known: &[u64], version: u64, expected: &str| {
            let said = keys.lineage(words, known, 0).check(&policy, version, &Digest::of(b"next"));
            assert_eq!(said.err().map(|refused| refused.to_string()).unwrap_or_default().split(':').next(), Some(expected));
        };
        check("", &[], 1, "");
        check("o1", &[1], 2, "");
        check("o1", &[1], 1, "version 1 of edge was seen with other content");
        check("o1", &[5], 5, "version 5 of edge is not above 5, which hosts know");
        check("o1", &[5], 4, "version 4 of edge is not above 5, which hosts know");
        check("", &[5], HUGE, &format!("version {HUGE} of edge is too far above 5"));
    }

    #[test]
    fn what_hosts_say() {
        let policy = ConfigName::new("edge").unwrap();
        let said = |known: &[(&str, u64)], elsewhere: &[(&str, u64)], refused: &[String]| {
            let versions = |of: &[(&str, u64)]| of.iter().map(|(name, version)| (ConfigName::new(*name).unwrap(), *version)).collect();
            Enforced {
                policies: versions(known),
                elsewhere: versions(elsewhere),
                refused: refused.iter().map(|name| (ConfigName::new(name.as_str()).unwrap(), Refusal::new(b"this", "no"))).collect(),
                preset: Preset::Open,
                lost: None,
                no_starts: None,
                clock: Standing::Trusted,
            }
        };
        let mut heard = Heard::default();
        heard.hear(&policy, "A", &said(&[("edge", 3), ("other", 9)], &[], &[]));
        heard.hear(&policy, "B", &said(&[], &[("edge", 4)], &["other".to_owned()]));
        let this = Digest::of(b"this");
        assert_eq!((&heard.known[..], heard.refusal(&this), heard.crowded), (&[3, 4][..], None, false));
        heard.hear(&policy, "C", &said(&[], &[], &["edge".to_owned()]));
        heard.hear(&policy, "D", &said(&[], &[], &["edge".to_owned()]));
        assert_eq!((&heard.known[2..], heard.refusal(&this).as_deref()), (&[0, 0][..], Some("refused by C, D: no")));
        assert_eq!(heard.refusal(&Digest::of(b"that")), None);
        let many: Vec<String> = (0..MAX_POLICIES).map(|n| n.to_string()).collect();
        // It says what it refuses here, whatever else there is.
        heard.hear(&policy, "E", &said(&[], &[], &[&many[1..], &["edge".to_owned()]].concat()));
        assert!(!heard.crowded);
        heard.hear(&policy, "F", &said(&[], &[], &many));
        assert!(heard.crowded);
    }
}
