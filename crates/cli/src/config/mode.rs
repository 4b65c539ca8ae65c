//! Who may use the local socket, in the octal form that `chmod` takes.

use std::{fmt, str::FromStr};

/// Permission bits of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketMode(pub(crate) u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode = match u32::from_str_radix(digits, 8) {
            Ok(mode) if !digits.starts_with('+') && digits.len() <= 4 && mode <= 0o777 => mode,
            _ => return Err(format!("\"{text}\" is no socket mode; write three octal digits: 0600, 0660")),
        };
        if mode & 0o600 != 0o600 {
            return Err(format!(
                "mode {text} would lock out the explorer's own user; it needs at least 0600"
            ));
        }
        Ok(Self(mode))
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_nothing_else() {
        for (text, mode) in [("0600", 0o600), ("660", 0o660), ("0o666", 0o666)] {
            assert_eq!(text.parse(), Ok(SocketMode(mode)), "{text}");
            assert_eq!(SocketMode(mode).to_string().parse(), Ok(SocketMode(mode)));
        }
        for text in ["", "rw", "0888", "1777", "00600", "+600", "-600"] {
            assert!(text.parse::<SocketMode>().unwrap_err().contains("octal"), "{text}");
        }
        assert!("0060".parse::<SocketMode>().unwrap_err().contains("own user"));
    }
}
