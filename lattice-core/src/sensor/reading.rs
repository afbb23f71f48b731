//! Reading what a sensor sent, and refusing what cannot be worked with.

use serde::{Deserialize, Serialize};

use crate::id::{InvalidName, Region};
use crate::subject::escape_key_part;
use crate::wire::json::{self, JsonError};

/// Largest reading in bytes; a real one has about 150.
pub const MAX_READING_BYTES: usize = 256 * 1024;
/// Deepest nesting of a reading; a real one has one level, gateways wrap a few more around fields of their own.
pub const MAX_READING_DEPTH: usize = 32;
/// Longest device id in bytes. Escaping can triple it, so the limit of keys may refuse a shorter one.
pub const MAX_DEVICE_ID_BYTES: usize = 128;
/// How long a reason may be, in characters: parsers like to repeat the text that they refuse.
pub const MAX_REASON_CHARS: usize = 256;
/// Longest key in bytes that every key-value backend takes.
const MAX_KEY_BYTES: usize = 256;
/// Keys that start with this belong to the key-value backends.
const RESERVED_KEY_PREFIX: &str = "_kv";

/// A reading. `device` and `temp` are accepted for `device_id` and `temperature`; fields of other names are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorData {
    /// Who measured; any text, made fit for a key by [`device_key`].
    #[serde(alias = "device")]
    pub device_id: String,
    /// Temperature, in the unit of the threshold.
    #[serde(alias = "temp")]
    pub temperature: f64,
    /// Relative humidity in percent.
    #[serde(default)]
    pub humidity: Option<f64>,
    /// When it was measured, in seconds since 1970.
    #[serde(default)]
    pub timestamp: Option<u64>,
    /// Where; must be the subject's region when both are there.
    #[serde(default)]
    pub region: Option<String>,
}

/// Why a reading cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Too large, too deep, not UTF-8, not JSON, a field missing, twice there or of the wrong type.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// No device to file it under.
    #[error("device_id is empty")]
    EmptyDeviceId,
    /// See [`MAX_DEVICE_ID_BYTES`].
    #[error("device_id has {size} bytes, at most {MAX_DEVICE_ID_BYTES} are allowed")]
    DeviceIdTooLong {
        /// Bytes of the id.
        size: usize,
    },
    /// Escaped, region and device id are longer than a key may be.
    #[error("region and device_id make a key of {size} bytes, at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong {
        /// Bytes of the key.
        size: usize,
    },
    /// Neither finite nor a measurement.
    #[error("{field} is not finite")]
    NotFinite {
        /// Which field.
        field: &'static str,
    },
    /// Neither the subject nor the reading says where it was measured.
    #[error("region is missing in the subject and in the reading")]
    NoRegion,
    /// A region that cannot stand in a subject.
    #[error(transparent)]
    Region(#[from] InvalidName),
    /// A region whose keys belong to somebody else.
    #[error("region `{0}` is reserved")]
    ReservedRegion(Region),
    /// The reading contradicts the subject it came on.
    #[error("region `{reading}` contradicts the subject's region `{subject}`")]
    RegionMismatch {
        /// Region in the reading, escaped and cut.
        reading: String,
        /// Region in the subject.
        subject: Region,
    },
}

impl Malformed {
    /// The reason as a text of at most [`MAX_REASON_CHARS`] and an ellipsis.
    pub fn reason(&self) -> String {
        let reason = self.to_string();
        match reason.char_indices().nth(MAX_REASON_CHARS) {
            Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
            None => reason,
        }
    }

    /// Whether it was refused for its size.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Json(JsonError::TooLarge { .. }))
    }
}

/// A reading that can be worked with.
pub(super) struct Checked {
    pub(super) data: SensorData,
    pub(super) region: Region,
    pub(super) key: String,
}

/// Reads `body`; `subject_region` is the region token of the subject it came on.
pub(super) fn read(body: &[u8], subject_region: Option<&str>) -> Result<Checked, Malformed> {
    let data = parse(body)?;
    let region = region(data.region.as_deref(), subject_region)?;
    let key = device_key(&region, &data.device_id)?;
    Ok(Checked { data, region, key })
}

fn parse(body: &[u8]) -> Result<SensorData, Malformed> {
    // serde would take an array as the fields in order of declaration.
    if body.len() <= MAX_READING_BYTES && body.trim_ascii_start().starts_with(b"[") {
        return Err(Malformed::NotAnObject);
    }
    let data: SensorData = json::parse(body, MAX_READING_BYTES, MAX_READING_DEPTH)?;
    if !data.temperature.is_finite() {
        return Err(Malformed::NotFinite { field: "temperature" });
    }
    if data.humidity.is_some_and(|humidity| !humidity.is_finite()) {
        return Err(Malformed::NotFinite { field: "humidity" });
    }
    Ok(data)
}

fn region(reading: Option<&str>, subject: Option<&str>) -> Result<Region, Malformed> {
    let region = Region::new(subject.or(reading).ok_or(Malformed::NoRegion)?)?;
    match reading {
        Some(text) if text != region.as_str() => {
            let reading = text.chars().take(80).flat_map(char::escape_debug).collect();
            Err(Malformed::RegionMismatch { reading, subject: region })
        }
        Some(_) | None => Ok(region),
    }
}

/// The key of a device's last value: `<region>.<device_id>`, each part escaped.
///
/// # Errors
/// [`Malformed`] if the id is empty or too long, or the key would be too long or somebody else's.
pub fn device_key(region: &Region, device_id: &str) -> Result<String, Malformed> {
    if device_id.is_empty() {
        return Err(Malformed::EmptyDeviceId);
    }
    if device_id.len() > MAX_DEVICE_ID_BYTES {
        return Err(Malformed::DeviceIdTooLong { size: device_id.len() });
    }
    if region.as_str().starts_with(RESERVED_KEY_PREFIX) {
        return Err(Malformed::ReservedRegion(region.clone()));
    }
    let key = format!("{}.{}", escape_key_part(region.as_str()), escape_key_part(device_id));
    if key.len() > MAX_KEY_BYTES {
        return Err(Malformed::KeyTooLong { size: key.len() });
    }
    Ok(key)
}
