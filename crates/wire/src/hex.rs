//! Binary values inside JSON: lower-case hex, one spelling only.
//!
//! Two spellings of one value would be two values to whoever compares texts, so upper case and odd lengths are refused.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of any length, written as lower-case hex: certificates and requests for them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Debug for Hex {
    /// How much it is: the bytes say nothing to a reader of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hex({} bytes)", self.0.len())
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pair = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
        let bytes = text.as_bytes().chunks(2).map(pair).collect::<Option<_>>();
        bytes.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("{} bytes that are no lower-case hex", text.len()))
        })
    }
}

pub(crate) fn write(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Exactly `N` bytes.
pub(crate) fn read<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(text.as_bytes()).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "expected {} digits of lower-case hex, got {} bytes",
            2 * N,
            text.len()
        ))
    })
}

pub(crate) fn parse<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_spelling_of_some_bytes() {
        let hex = Hex(vec![0x00, 0xa5, 0xff]);
        assert_eq!(serde_json::to_string(&hex).unwrap(), "\"00a5ff\"");
        assert_eq!(serde_json::from_str::<Hex>("\"00a5ff\"").unwrap(), hex);
        assert_eq!(serde_json::from_str::<Hex>("\"\"").unwrap(), Hex::default());
        for wrong in ["00A5ff", "0", "00a", "0x00", "zz", " 00", "00 ", "é"] {
            let error = serde_json::from_str::<Hex>(&format!("\"{wrong}\"")).unwrap_err().to_string();
            assert!(error.contains("lower-case hex"), "{wrong}: {error}");
        }
        assert_eq!(format!("{hex:?}"), "Hex(3 bytes)");
    }
}
