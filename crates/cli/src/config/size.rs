//! Sizes as people write them: `64KiB`, `512MiB`, `2GiB`.

use std::{fmt, str::FromStr};

/// A number of bytes with its unit; a bare number is refused because nobody can tell what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Size(pub(crate) usize);

const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("\"{text}\" is no size; write a number and its unit: 64KiB, 512MiB, 2GiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let number: usize = number.parse().map_err(|_| wrong())?;
        let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*bytes).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    /// As it would be typed, in the largest unit that says it whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        let (name, bytes) = whole.unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [("7B", 7), ("64KiB", 65_536), ("16MiB", 16 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!((Size(1_500).to_string(), Size(0).to_string()), ("1500B".into(), "0B".into()));
        for text in ["", "10", "MiB", "16 MiB", "-1MiB", "1MB", "99999999999999999999B", "99999999999GiB"] {
            assert!(text.parse::<Size>().unwrap_err().contains("512MiB"), "{text}");
        }
    }
}
