//! Claims: what an issuer says about a component, and whether to believe it.
//!
//! A signed component carries two custom sections. [`sections::CLAIM_SECTION`] holds a [`Claim`], signed with the issuer's
//! account key: that is what hosts decide by. Beside it stands a wascap token ([`token`]), so that stock tools can read who
//! signed what. The digest in the claim covers every byte of the component except these sections.
//!
//! [`verify`] asks in this order, and the first answer that is no is the verdict: is there one claim; may its issuer sign
//! actors here; did he sign this; is it about these bytes; does the token, if there is one, say the same; is it meant for
//! this lattice and this time; is it older than, or different from, what was seen before. What comes later is not looked at
//! before what comes earlier holds.
//!
//! **Invariants.** Nothing but the issuer's name is believed before his signature holds. Marks ([`marks`]) are raised by
//! [`Verified`] alone, so by nothing that failed a check.

pub mod marks;
pub mod sections;
pub mod token;
mod version;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::error::{ErrorCode, Problem};
use crate::id::{Digest, LatticeName};
use crate::trust::clock::{self, Standing, date};
use crate::trust::envelope::{Envelope, Purpose};
use crate::trust::{Place, PublicKey, Verify};
use crate::wire::json;
use marks::{Mark, Marks};
use sections::{Carried, SectionError};
pub use version::{InvalidVersion, Version};

/// Largest claim or token in bytes.
pub const MAX_CLAIM_BYTES: usize = 16 * 1024;
/// Longest name of a claim in bytes.
pub const MAX_NAME_BYTES: usize = 63;
/// Contracts that one claim may name.
pub const MAX_CONTRACTS: usize = 64;
/// Longest validity, in seconds: ten years. What is meant to last longer is signed again.
pub const MAX_VALIDITY_S: u64 = 10 * 366 * 86_400;

/// What an issuer says about a component. A field that this program does not know is a reason to refuse: it may be a
/// restriction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What it is, whatever id it runs under; versions are counted by it.
    pub name: String,
    /// Which version of it.
    pub version: Version,
    /// Which build of that version.
    #[serde(default)]
    pub revision: u32,
    /// The component without the sections that hold claims.
    pub digest: Digest,
    /// Contracts that it may be linked to, in either spelling.
    pub allow: BTreeSet<String>,
    /// When it was signed, in seconds since 1970.
    pub issued_at: u64,
    /// Start of its validity, in seconds since 1970.
    pub not_before: u64,
    /// End of its validity, in seconds since 1970.
    pub expires: u64,
    /// Who says so.
    pub issuer: PublicKey,
    /// The component's own identity.
    pub subject: PublicKey,
    /// The only lattice that it is for; none: any that trusts the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lattice: Option<LatticeName>,
}

impl Claim {
    /// The document to sign. Plain fields always encode.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a claim and checks its bounds.
    ///
    /// # Errors
    /// One sentence fragment that names what makes no sense.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        const DEPTH: usize = 4;
        let claim: Self = json::parse(body, MAX_CLAIM_BYTES, DEPTH).map_err(|error| error.to_string())?;
        claim.check().map(|()| claim).map_err(str::to_owned)
    }

    /// Whether the claim makes sense at all, whoever signed it.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), &'static str> {
        let readable = |text: &str| !text.trim().is_empty() && !text.chars().any(char::is_control);
        if !readable(&self.name) || self.name.len() > MAX_NAME_BYTES {
            Err("its name is empty, longer than 63 bytes or holds control characters")
        } else if self.allow.len() > MAX_CONTRACTS {
            Err("it names more than 64 contracts")
        } else if self.expires <= self.not_before {
            Err("it ends before it begins")
        } else if self.expires.saturating_sub(self.not_before) > MAX_VALIDITY_S {
            Err("it is valid for more than ten years")
        } else if self.subject.kind() != crate::trust::KeyKind::Module {
            Err("its subject is no module key (M…)")
        } else {
            Ok(())
        }
    }

    /// Whether the component may be linked to `contract`. What the claim names and nobody knows allows nothing.
    pub fn allows(&self, contract: Contract) -> bool {
        self.allow.iter().any(|text| Contract::parse(text).is_ok_and(|allowed| allowed == contract))
    }

    /// `capability denied: <contract>` if a link of `actor` to it is not covered.
    ///
    /// # Errors
    /// The problem, with the command that allows it.
    pub fn check_link(&self, actor: &str, contract: Contract, file: &str) -> Result<(), Problem> {
        if self.allows(contract) {
            return Ok(());
        }
        let allowed = if self.allow.is_empty() { "none".to_owned() } else { join(&self.allow) };
        let what = format!("the claim of {actor} does not allow it (allowed: {allowed})");
        let mut more = self.clone();
        more.allow.insert(contract.as_str().to_owned());
        more.revision = more.revision.saturating_add(1);
        Err(Problem::capability_denied(contract.as_str(), &what).hint(format!("sign it with more: {}", sign_command(file, Some(&more)))))
    }

    /// Version and revision, which are compared.
    pub fn mark(&self) -> Mark {
        Mark { version: self.version, revision: self.revision, digest: self.digest.clone() }
    }
}

/// Code that a policy admin lets in although newer was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// Name in the claim.
    pub name: String,
    /// Digest in the claim: this code and no other.
    pub digest: Digest,
}

/// What a claim is held against.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Accounts that may sign actors.
    pub trusted: &'a BTreeSet<PublicKey>,
    /// Keys that a policy has revoked.
    pub revoked: &'a BTreeSet<PublicKey>,
    /// Older code that a policy lets in.
    pub permits: &'a BTreeSet<Permit>,
    /// The highest versions seen.
    pub marks: &'a Marks,
    /// Lattice and time.
    pub place: Place<'a>,
}

/// A claim that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    claim: Claim,
    forced_below: Option<Mark>,
}

impl Verified {
    /// What it says.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The newer version that was seen, if a policy let this one in all the same: to be recorded.
    pub fn forced_below(&self) -> Option<&Mark> {
        self.forced_below.as_ref()
    }

    /// Remembers it, so that nothing older is accepted any more. Returns whether `marks` changed and must be written.
    pub fn remember(&self, marks: &mut Marks) -> bool {
        marks.raise(&self.claim)
    }
}

/// Why a component is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody signed it.
    #[error("it is not signed{}", if *.token_only { " (a wascap token alone does not say which bytes were signed)" } else { "" })]
    Unsigned {
        /// Whether it carries a token of a stock tool.
        token_only: bool,
    },
    /// The sections cannot be read.
    #[error(transparent)]
    Sections(#[from] SectionError),
    /// The claim cannot be read.
    #[error("the claim makes no sense: {reason}")]
    Malformed {
        /// Why not.
        reason: String,
    },
    /// A key of another kind.
    #[error("it is signed with {issuer}, which is a key of kind `{kind}`: actors are signed with account keys")]
    WrongKey {
        /// The key.
        issuer: PublicKey,
        /// What it is for.
        kind: &'static str,
    },
    /// An issuer that nobody told this lattice to trust.
    #[error("its issuer {issuer} is not trusted here")]
    Foreign {
        /// The issuer.
        issuer: PublicKey,
    },
    /// An issuer whose key a policy has revoked.
    #[error("the key of its issuer {issuer} was revoked")]
    Revoked {
        /// The issuer.
        issuer: PublicKey,
    },
    /// The signature is not by the issuer over this claim.
    #[error("wrong signature: it is not by {issuer}, or the claim was changed afterwards")]
    Signature {
        /// Who is said to have signed.
        issuer: PublicKey,
    },
    /// Other bytes than were signed.
    #[error("the code was changed after it was signed: {signed} was signed, this is {found}")]
    Tampered {
        /// Digest in the claim.
        signed: Digest,
        /// Digest of the component.
        found: Digest,
    },
    /// The wascap token beside the claim does not hold, or says something else.
    #[error("the wascap token beside the claim {reason}")]
    Token {
        /// What is wrong.
        reason: String,
    },
    /// Signed for another lattice.
    #[error("it is signed for lattice `{signed}`, not for `{here}`")]
    OtherLattice {
        /// Lattice in the claim.
        signed: LatticeName,
        /// This one.
        here: LatticeName,
    },
    /// Too early.
    #[error("not valid before {}{}", date(*.not_before), by_clock(.now))]
    NotYetValid {
        /// Start of its validity.
        not_before: u64,
        /// Time when it was asked.
        now: clock::Time,
    },
    /// Too late.
    #[error("expired {}{}", date(*.expires), by_clock(.now))]
    Expired {
        /// End of its validity.
        expires: u64,
        /// Time when it was asked.
        now: clock::Time,
    },
    /// A newer version was seen.
    #[error("{name} {claimed} is older than {seen}, which was seen here")]
    Older {
        /// Name in the claim.
        name: String,
        /// Its version.
        claimed: Mark,
        /// The highest version seen.
        seen: Mark,
    },
    /// Other code was seen under the same version.
    #[error("{name} {claimed} was seen with other code: {} before, {} now", .seen.digest, .claimed.digest)]
    Equivocal {
        /// Name in the claim.
        name: String,
        /// Its version.
        claimed: Mark,
        /// What was seen.
        seen: Mark,
    },
}

fn by_clock(now: &clock::Time) -> String {
    match now.clock {
        Standing::Trusted => format!(" (it is {})", date(now.now_s)),
        Standing::Behind | Standing::Apart => {
            format!(" (it is {} at least; this host's clock is wrong)", date(now.now_s))
        }
    }
}

/// Whether the component that carries `carried` may run.
///
/// # Errors
/// [`Refused`]: the first thing that is wrong, in the order that the module says.
pub fn verify(carried: &Carried, rules: &Rules<'_>, crypto: &impl Verify) -> Result<Verified, Refused> {
    let sealed = carried.claim.as_deref().ok_or(Refused::Unsigned { token_only: carried.token.is_some() })?;
    let envelope = Envelope::read(sealed.as_bytes()).map_err(|error| Refused::Malformed { reason: error.to_string() })?;
    let issuer = envelope.issuer();
    check_issuer(issuer, rules)?;
    let body = envelope.open(Purpose::Claim, crypto).ok_or_else(|| Refused::Signature { issuer: issuer.clone() })?;
    let claim = Claim::decode(body).map_err(|reason| Refused::Malformed { reason })?;
    if claim.issuer != *issuer {
        return Err(Refused::Signature { issuer: claim.issuer });
    }
    if claim.digest != carried.digest {
        return Err(Refused::Tampered { signed: claim.digest, found: carried.digest.clone() });
    }
    if let Some(text) = &carried.token {
        token::check(text, &carried.token_hash, &claim, crypto).map_err(|reason| Refused::Token { reason })?;
    }
    check_place(&claim, rules.place)?;
    let forced_below = check_history(&claim, rules)?;
    Ok(Verified { claim, forced_below })
}

fn check_issuer(issuer: &PublicKey, rules: &Rules<'_>) -> Result<(), Refused> {
    let issuer = issuer.clone();
    if !Purpose::Claim.signers().contains(&issuer.kind()) {
        let kind = issuer.kind().as_str();
        return Err(Refused::WrongKey { issuer, kind });
    }
    if rules.revoked.contains(&issuer) {
        return Err(Refused::Revoked { issuer });
    }
    if !rules.trusted.contains(&issuer) {
        return Err(Refused::Foreign { issuer });
    }
    Ok(())
}

fn check_place(claim: &Claim, place: Place<'_>) -> Result<(), Refused> {
    if let Some(signed) = claim.lattice.as_ref().filter(|lattice| *lattice != place.lattice) {
        return Err(Refused::OtherLattice { signed: signed.clone(), here: place.lattice.clone() });
    }
    if place.time.is_before(claim.not_before) {
        return Err(Refused::NotYetValid { not_before: claim.not_before, now: place.time });
    }
    if place.time.is_past(claim.expires) {
        return Err(Refused::Expired { expires: claim.expires, now: place.time });
    }
    Ok(())
}

fn check_history(claim: &Claim, rules: &Rules<'_>) -> Result<Option<Mark>, Refused> {
    let Some(seen) = rules.marks.of(&claim.issuer, &claim.name) else { return Ok(None) };
    let claimed = claim.mark();
    let same_age = claimed.age() == seen.age();
    if claimed.age() > seen.age() || (same_age && claimed.digest == seen.digest) {
        return Ok(None);
    }
    let permitted = rules.permits.iter().any(|permit| permit.name == claim.name && permit.digest == claim.digest);
    match (permitted, same_age) {
        (true, _) => Ok(Some(seen.clone())),
        (false, true) => Err(Refused::Equivocal { name: claim.name.clone(), claimed, seen: seen.clone() }),
        (false, false) => Err(Refused::Older { name: claim.name.clone(), claimed, seen: seen.clone() }),
    }
}

impl Refused {
    /// `actor start failed: invalid claim: <why>`, with the command that signs `file` so that it is accepted. `trusted` are
    /// the issuers that would be.
    pub fn problem(&self, file: &str, carried: Option<&Carried>, trusted: &BTreeSet<PublicKey>) -> Problem {
        let problem = Problem::new(ErrorCode::InvalidClaim, format!("actor start failed: invalid claim: {self}"));
        // What it says of itself makes the command complete; nothing is decided by it.
        let mut claim = carried.and_then(Carried::unverified);
        if let (Self::Older { seen, .. } | Self::Equivocal { seen, .. }, Some(claim)) = (self, &mut claim) {
            (claim.version, claim.revision) = (seen.version, seen.revision.saturating_add(1));
        }
        let command = sign_command(file, claim.as_ref());
        let hint = match self {
            Self::Foreign { .. } | Self::Revoked { .. } | Self::WrongKey { .. } => match trusted.iter().next() {
                Some(first) => format!("sign it with a key that is trusted here, like {}: {command}", first.short()),
                None => format!("name an issuer that is trusted, or sign it: {command}"),
            },
            Self::NotYetValid { now, .. } | Self::Expired { now, .. } if now.clock != Standing::Trusted => {
                format!("set the host's clock, or sign it again: {command}")
            }
            Self::Older { .. } => {
                format!(
                    "run the newer one, sign this one as newer: {command}; or let it in by policy: lattice-ctl policy put … --allow-older"
                )
            }
            Self::Unsigned { .. }
            | Self::Sections(_)
            | Self::Malformed { .. }
            | Self::Signature { .. }
            | Self::Tampered { .. }
            | Self::Token { .. }
            | Self::OtherLattice { .. }
            | Self::NotYetValid { .. }
            | Self::Expired { .. }
            | Self::Equivocal { .. } => format!("re-sign it: {command}"),
        };
        problem.hint(hint)
    }
}

/// The command that signs `file` with what `claim` says.
fn sign_command(file: &str, claim: Option<&Claim>) -> String {
    let file = file.strip_prefix("file://").unwrap_or(file);
    let file = if file.is_empty() { "<file>" } else { file };
    let name = claim.map_or_else(|| "<name>".to_owned(), |claim| quoted(&claim.name));
    let mut command = format!("lattice-ctl claim sign {} --name {name} --issuer keys/account.nk --subject keys/module.nk", quoted(file));
    if let Some(claim) = claim {
        command.push_str(&format!(" --ver {} --rev {} --allow {}", claim.version, claim.revision, quoted(&join(&claim.allow))));
    }
    command
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "<>…_-./:,=@+*".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn join(texts: &BTreeSet<String>) -> String {
    texts.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
