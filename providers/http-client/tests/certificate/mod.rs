//! A self-signed certificate, made anew for each test, so that no key stands in the repository.

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const TEXT: u8 = 0x0c;
const SHORT_TIME: u8 = 0x17;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` and `[3]` of a certificate, `[2]` of a name in it.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// A certificate with its key.
pub(crate) struct Certificate {
    der: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// One for the server of this name.
    pub(crate) fn new(name: &str) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap().as_ref().to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key, &random).unwrap();
        let algorithm = der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]);
        let names = der(SEQUENCE, &[&der(SET, &[&der(SEQUENCE, &[&der(OID, &[COMMON_NAME]), &der(TEXT, &[b"test"])])])]);
        let validity = der(SEQUENCE, &[&der(SHORT_TIME, &[b"250101000000Z"]), &der(TIME, &[b"20991231235959Z"])]);
        let kind = der(SEQUENCE, &[&der(OID, &[EC_PUBLIC_KEY]), &der(OID, &[P256])]);
        let public = der(SEQUENCE, &[&kind, &der(BITS, &[&[0], pair.public_key().as_ref()])]);
        let alt = der(OCTETS, &[&der(SEQUENCE, &[&der(DNS_NAME, &[name.as_bytes()])])]);
        let extensions = der(EXTENSIONS, &[&der(SEQUENCE, &[&der(SEQUENCE, &[&der(OID, &[SUBJECT_ALT_NAME]), &alt])])]);
        let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
        let serial = der(INTEGER, &[&[1]]);
        let signed = der(SEQUENCE, &[&version, &serial, &algorithm, &names, &validity, &names, &public, &extensions]);
        let signature = pair.sign(&random, &signed).unwrap();
        Self { der: der(SEQUENCE, &[&signed, &algorithm, &der(BITS, &[&[0], signature.as_ref()])]), key }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from(self.der.clone())];
        let key = PrivatePkcs8KeyDer::from(self.key.clone()).into();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        // A server that would rather speak something else.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn pem(&self) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&self.der))
    }
}

/// A value with its tag and length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = u16::try_from(value.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=127 => vec![tag, low],
        128..=255 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, value].concat()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, byte| (bits << 8) | usize::from(*byte));
        for position in 0..4 {
            let is_there = position <= group.len();
            text.push(if is_there { char::from(DIGITS[(bits >> (18 - 6 * position)) & 63]) } else { '=' });
        }
    }
    text
}
