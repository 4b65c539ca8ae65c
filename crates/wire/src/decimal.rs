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

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Number(#[serde(with = "super")] u64);

    #[test]
    fn keeps_all_64_bits_and_one_way_to_write_them() {
        for number in [0, 1, 10, u64::MAX] {
            let json = serde_json::to_string(&Number(number)).unwrap();
            assert_eq!(json, format!("\"{number}\""));
            assert_eq!(serde_json::from_str::<Number>(&json).unwrap(), Number(number));
        }
        for wrong in [
            "7",
            "\"\"",
            "\"+7\"",
            "\"-7\"",
            "\"007\"",
            "\"00\"",
            "\" 7\"",
            "\"18446744073709551616\"",
            "null",
        ] {
            serde_json::from_str::<Number>(wrong).unwrap_err();
        }
    }
}
