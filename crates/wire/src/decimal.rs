//! 64-bit numbers as decimal strings: JSON readers of many languages keep only 53 bits of a number.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Takes exactly what [`serialize`] writes: no sign, no leading zero, no bare JSON number.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical).ok_or_else(|| {
        D::Error::custom(
            "a 64-bit number is written as a decimal string without sign or leading zeros, such as \"42\"",
        )
    })
}
