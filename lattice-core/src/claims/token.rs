//! The wascap token (a JWT) beside our claim, for stock tools to read.
//!
//! It repeats the claim in their words. Hosts decide by the claim alone, but a token that does not hold, or says something
//! else, means that somebody was at work: then neither counts.

use serde::{Deserialize, Serialize};

use super::{Claim, MAX_CLAIM_BYTES};
use crate::trust::{Verify, base64};
use crate::wire::json;

/// The only algorithm; `none` and all others are refused.
const ALGORITHM: &str = "Ed25519";
/// The only type.
const TYPE: &str = "jwt";
/// Revision of wascap's form from which on the hash must be right.
const WASCAP_REVISION: u32 = 3;
/// Deepest nesting in a token.
const DEPTH: usize = 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
}

/// What the token says, in wascap's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// End of validity in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Id of the token.
    #[serde(default)]
    pub jti: String,
    /// When it was signed.
    #[serde(default)]
    pub iat: u64,
    /// Issuer.
    pub iss: String,
    /// Subject.
    pub sub: String,
    /// Start of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// About the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wascap: Option<Metadata>,
    /// Revision of the form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wascap_revision: Option<u32>,
}

/// What the token says about the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hash of the component without tokens, in upper-case hex.
    pub hash: String,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Contracts.
    #[serde(default)]
    pub caps: Vec<String>,
    /// Build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<i32>,
    /// Version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ver: Option<String>,
    /// Whether it is a provider.
    #[serde(default)]
    pub prov: bool,
}

/// The part of the token that is signed: header and content. `id` tells tokens apart.
pub fn unsigned(claim: &Claim, hash: &str, id: &str) -> String {
    let header = Header { typ: TYPE.to_owned(), alg: ALGORITHM.to_owned() };
    // Plain fields always encode.
    let part = |json: Result<Vec<u8>, serde_json::Error>| base64::encode(&json.unwrap_or_default());
    format!("{}.{}", part(serde_json::to_vec(&header)), part(serde_json::to_vec(&said(claim, hash, id))))
}

/// The whole token.
pub fn signed(unsigned: &str, signature: &[u8]) -> String {
    format!("{unsigned}.{}", base64::encode(signature))
}

/// What the token says, whether it is true or not.
///
/// # Errors
/// Why it cannot be read.
pub fn unverified(token: &str) -> Result<Said, String> {
    parts(token).and_then(|(_, content, _)| read(content))
}

fn said(claim: &Claim, hash: &str, id: &str) -> Said {
    Said {
        exp: Some(claim.expires),
        jti: id.to_owned(),
        iat: claim.issued_at,
        iss: claim.issuer.to_string(),
        sub: claim.subject.to_string(),
        nbf: Some(claim.not_before),
        wascap: Some(Metadata {
            name: Some(claim.name.clone()),
            hash: hash.to_owned(),
            tags: Vec::new(),
            caps: claim.allow.iter().cloned().collect(),
            // Stock tools count builds in 31 bits.
            rev: Some(i32::try_from(claim.revision).unwrap_or(i32::MAX)),
            ver: Some(claim.version.to_string()),
            prov: false,
        }),
        wascap_revision: Some(WASCAP_REVISION),
    }
}

/// Whether the token is signed by the claim's issuer and says what the claim says, about the same bytes.
///
/// # Errors
/// A predicate: `has the algorithm none`, `names another issuer`, …
pub(super) fn check(token: &str, hash: &str, claim: &Claim, crypto: &impl Verify) -> Result<(), String> {
    let (header, content, signature) = parts(token)?;
    let header: Header = read(header)?;
    if header.alg != ALGORITHM || header.typ != TYPE {
        let shown = |text: &str| -> String { text.chars().take(20).flat_map(char::escape_debug).collect() };
        return Err(format!("has type `{}` and algorithm `{}`, not {TYPE} and {ALGORITHM}", shown(&header.typ), shown(&header.alg)));
    }
    let signature = base64::decode(signature).ok_or("has a signature that is no base 64")?;
    let message = token.rsplit_once('.').map_or("", |(message, _)| message);
    if !crypto.verify(&claim.issuer, message.as_bytes(), &signature) {
        return Err("is not signed by the claim's issuer".to_owned());
    }
    let found: Said = read(content)?;
    let expected = said(claim, hash, &found.jti);
    let metadata = found.wascap.as_ref().ok_or("says nothing about the component")?;
    let differs = [
        (metadata.hash != hash, "is about other code"),
        (found.iss != expected.iss, "names another issuer"),
        (found.sub != expected.sub, "names another subject"),
        (found.exp != expected.exp || found.nbf != expected.nbf, "is valid at another time"),
        (Some(&metadata.caps) != expected.wascap.as_ref().map(|metadata| &metadata.caps), "allows other capabilities"),
        (found.wascap != expected.wascap, "is about another name or version"),
    ];
    match differs.into_iter().find(|(differs, _)| *differs) {
        Some((_, how)) => Err(how.to_owned()),
        None => Ok(()),
    }
}

fn parts(token: &str) -> Result<(&str, &str, &str), String> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(content), Some(signature), None) => Ok((header, content, signature)),
        _ => Err("does not have three parts".to_owned()),
    }
}

fn read<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, String> {
    let bytes = base64::decode(part).ok_or("is no base 64")?;
    json::parse(&bytes, MAX_CLAIM_BYTES, DEPTH).map_err(|error| format!("makes no sense: {error}"))
}
