//! Join strings: pasted by people, so anything at all. One text has one meaning, a slip is found before anything is
//! dialled, and no error repeats what could be a secret.

use reachback_wire::{
    Code, Secret,
    join::{ADDRESS_MAX, ADDRESSES_MAX, JoinString, JoinStringError, TOKEN_MAX},
    text::sanitize,
};

use super::{Verdict, situation};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The first byte chooses whether the input is the text itself or the content of a text whose length and checksum are
/// right, which no fuzzer finds.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, cuts, bytes) = situation(input);
    if selector % 2 == 1 {
        return read(&sealed(bytes));
    }
    let text = String::from_utf8_lossy(bytes);
    let verdict = read(&text);
    if verdict == Verdict::Fine {
        slips_are_found(&text, cuts);
    }
    verdict
}

fn read(text: &str) -> Verdict {
    match text.parse::<JoinString>() {
        Ok(join) => {
            let written: String = text.split_ascii_whitespace().collect();
            assert_eq!(join.expose().expose(), written, "two texts mean the same");
            assert!((1..=ADDRESSES_MAX).contains(&join.addresses().len()));
            assert!(join.addresses().iter().all(|address| (1..=ADDRESS_MAX).contains(&address.len())));
            let token = join.token().expose();
            assert!((1..=TOKEN_MAX).contains(&token.len()));
            let other = JoinString::new(join.addresses().to_vec(), join.pin(), Secret::new("other"));
            let other = other.expect("the same with another token");
            assert_eq!(format!("{join:?}"), format!("{other:?}"), "the token shows");
            Verdict::Fine
        }
        Err(error) => {
            let told = error.to_string();
            assert_eq!(sanitize(&told, usize::MAX), told, "an error forges what it is printed on");
            assert!(told.len() < 300, "an error repeats too much: {told}");
            match error {
                JoinStringError::CutOff { .. } => Verdict::Incomplete,
                JoinStringError::Newer { .. } => Verdict::Refused(Code::VersionMismatch),
                JoinStringError::Other { .. }
                | JoinStringError::Surplus { .. }
                | JoinStringError::Character { .. }
                | JoinStringError::Mistyped
                | JoinStringError::Content { .. } => Verdict::Refused(Code::BadFrame),
            }
        }
    }
}

/// A letter less, a letter more, another letter: each is an error.
fn slips_are_found(text: &str, [at, with]: [usize; 2]) {
    let right: String = text.split_ascii_whitespace().collect();
    let at = at % right.len();
    assert_ne!(read(&right[..at]), Verdict::Fine, "cut off after {at}");
    assert_ne!(read(&format!("{right}A")), Verdict::Fine);
    let other = char::from(DIGITS[with % DIGITS.len()]);
    if !right[at..].starts_with(other) {
        let wrong = format!("{}{other}{}", &right[..at], &right[at + 1..]);
        assert_ne!(read(&wrong), Verdict::Fine, "{other} at {at}");
    }
}

/// The text of this content, said a second time and differently.
fn sealed(content: &[u8]) -> String {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_be_bytes()[..], content].concat();
    let sum = crc32(b"rb1_".iter().chain(&bytes));
    bytes.extend_from_slice(&sum.to_be_bytes());
    let bits: Vec<bool> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    let digits = bits.chunks(6).map(|six| {
        let value = (0..6).fold(0, |value, at| value << 1 | usize::from(six.get(at) == Some(&true)));
        char::from(DIGITS[value])
    });
    "rb1_".chars().chain(digits).collect()
}

fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        (0..8)
            .fold(index as u32, |value, _| if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 })
    });
    !bytes.fold(!0, |sum, byte| sum >> 8 ^ table[usize::from(sum as u8 ^ byte)])
}
