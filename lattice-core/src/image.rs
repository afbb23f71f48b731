//! References to code: where an actor or a provider comes from.

use crate::id::ProviderId;
use crate::wire::assignment::ProviderKind;

/// Where an actor's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorImage {
    /// A file on the machine of whoever starts it.
    File(String),
    /// A registry reference.
    Registry(String),
}

impl ActorImage {
    /// Reads `file:///path`, `file://relative/path`, a plain path, `oci://registry/name:tag`.
    pub fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("file://") {
            return Self::File(path.to_owned());
        }
        if let Some(reference) = text.strip_prefix("oci://") {
            return Self::Registry(reference.to_owned());
        }
        let looks_like_path = text.starts_with(['/', '.']) || text.ends_with(".wasm");
        if looks_like_path { Self::File(text.to_owned()) } else { Self::Registry(text.to_owned()) }
    }
}

/// Why an image names no provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderImageError {
    /// The last part of the name is no builtin provider.
    #[error("no provider `{name}` is built in; there are {}", builtin_names())]
    Unknown {
        /// The last part of the image's name.
        name: String,
    },
    /// A provider of the article that is not built in.
    #[error("`{name}` is not built in; use {instead} for the same contract")]
    NotBuiltIn {
        /// The name in the image.
        name: String,
        /// What to use.
        instead: &'static str,
    },
}

/// The backends that an operator may start; the store of the control plane comes with the actors that need it.
fn startable() -> impl Iterator<Item = ProviderKind> {
    ProviderKind::ALL.into_iter().filter(|kind| *kind != ProviderKind::Store)
}

fn builtin_names() -> String {
    startable().map(|kind| format!("builtin://{}", kind.as_str())).collect::<Vec<_>>().join(", ")
}

/// The backend that `builtin://kv-nats`, one of the article's image names or one of wasmCloud's own stands for.
///
/// # Errors
/// [`ProviderImageError`] names what there is instead.
pub fn provider_kind(image: &str) -> Result<ProviderKind, ProviderImageError> {
    let name = short_name(image);
    if let Some(kind) = startable().find(|kind| kind.as_str() == name) {
        return Ok(kind);
    }
    match name {
        "httpserver" => Ok(ProviderKind::HttpServer),
        "httpclient" => Ok(ProviderKind::HttpClient),
        "nats" => Ok(ProviderKind::MessagingNats),
        "keyvalue-nats" => Ok(ProviderKind::KvNats),
        "kvredis" => Err(ProviderImageError::NotBuiltIn { name: name.to_owned(), instead: "builtin://kv-nats" }),
        _ => Err(ProviderImageError::Unknown { name: name.chars().take(80).flat_map(char::escape_debug).collect() }),
    }
}

/// The id of a provider that was started without one: the last part of its image's name.
pub fn default_provider_id(image: &str) -> Option<ProviderId> {
    ProviderId::new(short_name(image)).ok()
}

/// `wasmcloud.azurecr.io/kvredis:0.27.0` → `kvredis`.
fn short_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    name.split_once(':').map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers() {
        assert_eq!(provider_kind("builtin://kv-nats"), Ok(ProviderKind::KvNats));
        assert!(provider_kind("builtin://store").unwrap_err().to_string().contains("builtin://http-server"));
        assert_eq!(provider_kind("wasmcloud.azurecr.io/httpserver:0.20.0"), Ok(ProviderKind::HttpServer));
        assert_eq!(provider_kind("wasmcloud.azurecr.io/nats:0.18.0"), Ok(ProviderKind::MessagingNats));
        assert_eq!(provider_kind("ghcr.io/wasmcloud/keyvalue-nats:0.3.1"), Ok(ProviderKind::KvNats));
        assert_eq!(provider_kind("ghcr.io/wasmcloud/messaging-nats:0.27.0"), Ok(ProviderKind::MessagingNats));
        assert_eq!(provider_kind("ghcr.io/wasmcloud/http-server:0.27.0"), Ok(ProviderKind::HttpServer));
        assert_eq!(provider_kind("builtin://http-client"), Ok(ProviderKind::HttpClient));
        assert_eq!(provider_kind("wasmcloud.azurecr.io/httpclient:0.7.0"), Ok(ProviderKind::HttpClient));
        assert!(provider_kind("wasmcloud.azurecr.io/kvredis:0.27.0").unwrap_err().to_string().contains("builtin://kv-nats"));
        assert!(provider_kind("acme/blob:1").unwrap_err().to_string().contains("no provider `blob`"));
        assert_eq!(default_provider_id("wasmcloud.azurecr.io/kvredis:0.27.0").unwrap().as_str(), "kvredis");
        assert_eq!(default_provider_id("builtin://"), None);
    }

    #[test]
    fn actors() {
        let check = |text: &str, expected: ActorImage| assert_eq!(ActorImage::parse(text), expected);
        check("file:///a/b.wasm", ActorImage::File("/a/b.wasm".into()));
        check("file://b.wasm", ActorImage::File("b.wasm".into()));
        check("./b.wasm", ActorImage::File("./b.wasm".into()));
        check("oci://ghcr.io/a/b:1", ActorImage::Registry("ghcr.io/a/b:1".into()));
        check("edge-processor", ActorImage::Registry("edge-processor".into()));
    }
}
