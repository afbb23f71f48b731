//! The custom sections of a component that hold claims: found, taken out, put in.
//!
//! Only the outermost sections of a component are looked at, by their lengths; what is in them is for the compiler to judge.
//! Custom sections carry no meaning for a component, so taking ours out changes nothing that runs.
//!
//! **Invariants.** Nothing is allocated that the input did not bring. Every length is checked against what is left. The
//! digest is over the bytes as they are, so that there is one digest for each component and no way to write it differently.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Claim, MAX_CLAIM_BYTES};
use crate::id::{Digest, hex};
use crate::trust::envelope::Envelope;

/// Section with our signed claim.
pub const CLAIM_SECTION: &str = "lattice:claim";
/// Section with a wascap token, as stock tools write and read it.
pub const TOKEN_SECTION: &str = "wasmcloud_jwt";
/// The same as tools before wascap 0.9 wrote it.
const OLD_TOKEN_SECTION: &str = "jwt";

/// Magic, version and layer.
const PREAMBLE_BYTES: usize = 8;
/// Number of a custom section.
const CUSTOM: u8 = 0;
/// Number of the section of a component that holds a core module.
const CORE_MODULE: u8 = 1;
/// Number of the section of a component that holds a component.
const COMPONENT: u8 = 4;
/// Version and layer of a component, after the magic.
const COMPONENT_LAYER: &[u8] = &[0x0d, 0x00, 0x01, 0x00];
/// Outermost sections of one component; real ones have some hundred.
const MAX_SECTIONS: usize = 100_000;
/// Components within components that a token's hash looks into.
const MAX_DEPTH: usize = 16;
/// Bytes of the longest 32-bit number.
const MAX_NUMBER_BYTES: u32 = 5;

/// Why sections cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// Not a component.
    #[error("it is no component, so it cannot carry a claim")]
    NoComponent,
    /// A length that does not fit.
    #[error("the file is cut or broken: {what} at byte {at} does not fit")]
    Broken {
        /// What does not fit.
        what: &'static str,
        /// Where it starts.
        at: usize,
    },
    /// More than anybody needs.
    #[error("more than {MAX_SECTIONS} sections, or nested deeper than {MAX_DEPTH}")]
    TooMany,
    /// Two claims, or two tokens: which of them counts would be up to the reader.
    #[error("it carries more than one section `{name}`")]
    Several {
        /// The section.
        name: &'static str,
    },
    /// A section that is too large, or no text.
    #[error("its section `{name}` is no text of at most {MAX_CLAIM_BYTES} bytes")]
    NoText {
        /// The section.
        name: &'static str,
    },
}

/// What a component carries beside its code. It can be kept with compiled code, and is all that [`super::verify`] needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Digest of the component without the sections that hold claims.
    pub digest: Digest,
    /// The signed claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The token of stock tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The hash that the token must name: of the component without tokens, as wascap computes it. Empty without a token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token_hash: String,
}

impl Carried {
    /// Looks through a component.
    ///
    /// # Errors
    /// [`SectionError`].
    pub fn read(component: &[u8]) -> Result<Self, SectionError> {
        let (mut claim, mut token) = (None, None);
        let mut hasher = Sha256::new();
        hasher.update(preamble(component)?);
        for section in Sections::of(component) {
            let section = section?;
            let (slot, name) = match section.name() {
                Some(CLAIM_SECTION) => (&mut claim, CLAIM_SECTION),
                Some(TOKEN_SECTION | OLD_TOKEN_SECTION) => (&mut token, TOKEN_SECTION),
                Some(_) | None => {
                    hasher.update(section.whole);
                    continue;
                }
            };
            let text = section.data().filter(|data| data.len() <= MAX_CLAIM_BYTES).and_then(|data| std::str::from_utf8(data).ok());
            let text = text.ok_or(SectionError::NoText { name })?;
            if slot.replace(text.to_owned()).is_some() {
                return Err(SectionError::Several { name });
            }
        }
        let digest = Digest::from_sha256(&hasher.finalize());
        let token_hash = if token.is_some() { token_hash(component)? } else { String::new() };
        Ok(Self { digest, claim, token, token_hash })
    }

    /// What the claim says, whether it is true or not: for people to read, and for nothing else.
    pub fn unverified(&self) -> Option<Claim> {
        Claim::decode(Envelope::read(self.claim.as_ref()?.as_bytes()).ok()?.unverified()).ok()
    }
}

/// The component without the sections that hold claims.
///
/// # Errors
/// [`SectionError`].
pub fn strip(component: &[u8]) -> Result<Vec<u8>, SectionError> {
    let mut bare = Vec::with_capacity(component.len());
    bare.extend_from_slice(preamble(component)?);
    for section in Sections::of(component) {
        let section = section?;
        if !matches!(section.name(), Some(CLAIM_SECTION | TOKEN_SECTION | OLD_TOKEN_SECTION)) {
            bare.extend_from_slice(section.whole);
        }
    }
    Ok(bare)
}

/// Puts a custom section at the end.
pub fn append(component: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut content = Vec::with_capacity(name.len().saturating_add(data.len()).saturating_add(1));
    write_number(&mut content, name.len());
    content.extend_from_slice(name.as_bytes());
    content.extend_from_slice(data);
    write_section(component, CUSTOM, &content);
}

/// The hash that wascap computes of a component: without tokens at any depth, and with every length written in its shortest
/// form.
///
/// # Errors
/// [`SectionError`].
pub fn token_hash(component: &[u8]) -> Result<String, SectionError> {
    let mut plain = Vec::with_capacity(component.len());
    write_plain(&mut plain, component, MAX_DEPTH)?;
    Ok(hex(&Sha256::digest(&plain)).to_ascii_uppercase())
}

fn write_plain(out: &mut Vec<u8>, bytes: &[u8], depth: usize) -> Result<(), SectionError> {
    let head = bytes.get(..PREAMBLE_BYTES).ok_or(SectionError::Broken { what: "a nested component", at: 0 })?;
    let is_component = head.ends_with(COMPONENT_LAYER);
    out.extend_from_slice(head);
    for section in Sections::of(bytes) {
        let section = section?;
        match section.number {
            CUSTOM if matches!(section.name(), Some(TOKEN_SECTION | OLD_TOKEN_SECTION)) => {}
            CORE_MODULE | COMPONENT if is_component => {
                let depth = depth.checked_sub(1).ok_or(SectionError::TooMany)?;
                let mut nested = Vec::with_capacity(section.content.len());
                write_plain(&mut nested, section.content, depth)?;
                write_section(out, section.number, &nested);
            }
            number => write_section(out, number, section.content),
        }
    }
    Ok(())
}

fn preamble(component: &[u8]) -> Result<&[u8], SectionError> {
    let head = component.get(..PREAMBLE_BYTES).ok_or(SectionError::NoComponent)?;
    let known = head.starts_with(b"\0asm") && head.ends_with(COMPONENT_LAYER);
    if known { Ok(head) } else { Err(SectionError::NoComponent) }
}

fn write_section(out: &mut Vec<u8>, number: u8, content: &[u8]) {
    out.push(number);
    write_number(out, content.len());
    out.extend_from_slice(content);
}

/// Unsigned LEB128 in its shortest form.
fn write_number(out: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// One section.
struct Section<'a> {
    number: u8,
    /// Everything of it: number, length, content.
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Section<'a> {
    /// Name of a custom section; none for others, and for a name that cannot be read: that is for the compiler to refuse.
    fn name(&self) -> Option<&'a str> {
        self.split().and_then(|(name, _)| std::str::from_utf8(name).ok())
    }

    /// What a custom section holds after its name.
    fn data(&self) -> Option<&'a [u8]> {
        self.split().map(|(_, data)| data)
    }

    fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (length, rest) = (self.number == CUSTOM).then(|| read_number(self.content))??;
        rest.split_at_checked(length)
    }
}

/// The sections of a component or module, one after the other, until the first that does not fit: whoever reads them stops there.
struct Sections<'a> {
    rest: &'a [u8],
    /// Bytes before `rest`.
    at: usize,
    left: usize,
}

impl<'a> Sections<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.get(PREAMBLE_BYTES..).unwrap_or_default(), at: PREAMBLE_BYTES, left: MAX_SECTIONS }
    }

    fn take(&mut self) -> Result<Section<'a>, SectionError> {
        self.left = self.left.checked_sub(1).ok_or(SectionError::TooMany)?;
        let broken = SectionError::Broken { what: "a section", at: self.at };
        let (number, rest) = self.rest.split_first().ok_or_else(|| broken.clone())?;
        let (length, rest) = read_number(rest).ok_or_else(|| broken.clone())?;
        let (content, rest) = rest.split_at_checked(length).ok_or(broken)?;
        let size = self.rest.len().saturating_sub(rest.len());
        let whole = self.rest.get(..size).unwrap_or_default();
        (self.rest, self.at) = (rest, self.at.saturating_add(size));
        Ok(Section { number: *number, whole, content })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, SectionError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.take())
    }
}

/// An unsigned LEB128 number of 32 bits, and what comes after it.
fn read_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_u64;
    for (position, byte) in (0..MAX_NUMBER_BYTES).zip(bytes) {
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            let used = usize::try_from(position).ok()?.checked_add(1)?;
            let number = u32::try_from(number).ok().and_then(|number| usize::try_from(number).ok())?;
            return Some((number, bytes.get(used..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn with(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut component = EMPTY.to_vec();
        for (name, data) in sections {
            append(&mut component, name, data);
        }
        component
    }

    #[test]
    fn found_and_taken_out_wherever_they_stand() {
        let bare = with(&[("name", b"x"), ("producers", &[7; 300])]);
        let mut signed = EMPTY.to_vec();
        append(&mut signed, CLAIM_SECTION, b"claim");
        signed.extend_from_slice(&bare[8..]);
        append(&mut signed, TOKEN_SECTION, b"token");
        let carried = Carried::read(&signed).unwrap();
        assert_eq!((carried.claim.as_deref(), carried.token.as_deref()), (Some("claim"), Some("token")));
        assert_eq!(carried.digest, Digest::of(&bare));
        assert_eq!(strip(&signed).unwrap(), bare);
        let unsigned = Carried::read(&bare).unwrap();
        assert_eq!(unsigned, Carried { digest: Digest::of(&bare), claim: None, token: None, token_hash: String::new() });
    }

    #[test]
    fn the_digest_covers_everything_else() {
        let digest = |sections: &[(&str, &[u8])]| Carried::read(&with(sections)).unwrap().digest;
        let first = digest(&[("name", b"x")]);
        assert_eq!(first, digest(&[("name", b"x"), (CLAIM_SECTION, b"anything")]));
        for other in [digest(&[("name", b"y")]), digest(&[("nam", b"ex")]), digest(&[("lattice:claim2", b"x")]), digest(&[])] {
            assert_ne!(first, other);
        }
        // A section of a nested component is no section of this one.
        let mut nested = EMPTY.to_vec();
        write_section(&mut nested, COMPONENT, &with(&[(CLAIM_SECTION, b"inner")]));
        let carried = Carried::read(&nested).unwrap();
        assert_eq!((carried.claim, carried.digest), (None, Digest::of(&nested)));
    }

    #[test]
    fn what_is_there_twice_counts_not_at_all() {
        let check = |names: [&str; 2], expected: &str| {
            let found = Carried::read(&with(&names.map(|name| (name, &b"x"[..])))).unwrap_err();
            assert_eq!(found.to_string(), format!("it carries more than one section `{expected}`"));
        };
        check([CLAIM_SECTION, CLAIM_SECTION], CLAIM_SECTION);
        check([TOKEN_SECTION, OLD_TOKEN_SECTION], TOKEN_SECTION);
    }

    #[test]
    fn hostile_files() {
        let check = |bytes: &[u8], part: &str| {
            let found = Carried::read(bytes).unwrap_err().to_string();
            assert!(found.contains(part), "{bytes:?}: {found}");
            assert!(strip(bytes).is_err() || part.contains("text"), "{bytes:?}");
        };
        check(b"", "no component");
        check(b"\0asm\x01\0\0\0", "no component");
        check(b"\0asm\x0d\0\x01", "no component");
        check(b"\0elf\x0d\0\x01\0", "no component");
        check(&[EMPTY, &[0]].concat(), "cut or broken: a section at byte 8");
        check(&[EMPTY, &[0, 5, 1]].concat(), "cut or broken");
        check(&[EMPTY, &[0, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat(), "cut or broken");
        check(&[EMPTY, &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0]].concat(), "cut or broken");
        check(&[EMPTY, &[0, 0].repeat(MAX_SECTIONS + 1)].concat(), "more than");
        check(&with(&[(CLAIM_SECTION, &[0xff])]), "no text");
        check(&with(&[(CLAIM_SECTION, &vec![b'x'; MAX_CLAIM_BYTES + 1])]), "no text");
        // A name longer than its section is not ours; the compiler refuses it.
        assert!(Carried::read(&[EMPTY, &[0, 2, 9, b'x']].concat()).unwrap().claim.is_none());
        // So deep that a token's hash does not follow.
        let mut deep = with(&[]);
        for _ in 0..=MAX_DEPTH {
            let mut outer = EMPTY.to_vec();
            write_section(&mut outer, COMPONENT, &deep);
            deep = outer;
        }
        append(&mut deep, TOKEN_SECTION, b"x");
        assert_eq!(Carried::read(&deep), Err(SectionError::TooMany));
    }

    #[test]
    fn a_tokens_hash_is_of_the_plain_form() {
        let plain = with(&[("name", b"x")]);
        // The same with the length of the section in two bytes, as linkers write it.
        let mut padded = EMPTY.to_vec();
        padded.extend_from_slice(&[0, 0x86, 0]);
        padded.extend_from_slice(&plain[10..]);
        assert_eq!(token_hash(&plain).unwrap(), hex(&Sha256::digest(&plain)).to_uppercase());
        assert_eq!(token_hash(&padded).unwrap(), token_hash(&plain).unwrap());
        let nested = |inner: &[u8]| {
            let mut outer = EMPTY.to_vec();
            write_section(&mut outer, CORE_MODULE, inner);
            token_hash(&outer).unwrap()
        };
        assert_eq!(nested(&padded), nested(&plain));
        assert_eq!(nested(&with(&[("name", b"x"), (OLD_TOKEN_SECTION, b"inner")])), nested(&plain));
        // In a module the numbers of the sections mean something else.
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        write_section(&mut module, COMPONENT, &[0]);
        assert_ne!(nested(&module), nested(&plain));
        assert_ne!(Carried::read(&padded).unwrap().digest, Carried::read(&plain).unwrap().digest);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(tail: Vec<u8>) {
            let bytes = [EMPTY, &tail].concat();
            if let Ok(carried) = Carried::read(&bytes) {
                proptest::prop_assert_eq!(carried.digest, Digest::of(&strip(&bytes).unwrap()));
                proptest::prop_assert!(token_hash(&bytes).is_ok() || carried.token.is_none());
            }
        }
    }
}
