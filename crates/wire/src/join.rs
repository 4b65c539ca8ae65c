//! One line that lets a machine or a person in, and says what is wrong with it when it does not.
//!
//! The line is copied out of a terminal, through a chat, into another terminal. It loses its end, gains a line break, a
//! letter is typed wrong. Each of these would otherwise end as "invalid token" at an explorer that was perhaps not even
//! the right one, so the string knows its own length and has a checksum, and whoever holds it can be told before
//! anything is dialled.
//!
//! `rb1_` and then, in base64url without padding:
//!
//! ```text
//! u16     length of all that follows, the checksum left out
//! 32      SHA-256 of the public key (SubjectPublicKeyInfo) of the authority behind the explorer's certificate
//! u8      number of addresses, then for each: u8 length, text
//! rest    the token
//! u32     CRC-32 of everything before it, the prefix included
//! ```
//!
//! The checksum finds mistakes and no forgeries: whoever can forge a join string can make one of his own.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use crate::{secret::Secret, text::sanitize};

/// Addresses in one string: a cluster is reached through some of its members, which name the others.
pub const ADDRESSES_MAX: usize = 16;
/// The longest address, in bytes: the longest host name with a scheme and a port.
pub const ADDRESS_MAX: usize = 255;
/// The longest token, in bytes: one with all rights a caller can have. A `Hello` with it still fits its limit.
pub const TOKEN_MAX: usize = 4096;

/// What is before the string of this version.
const PREFIX: &str = "rb1_";
const PIN: usize = 32;
const CHECKSUM: usize = 4;
/// The longest string that can be right, in characters: above it nothing is decoded.
const TEXT_MAX: usize =
    PREFIX.len() + (2 + PIN + 1 + ADDRESSES_MAX * (1 + ADDRESS_MAX) + TOKEN_MAX + CHECKSUM) * 4 / 3 + 1;
/// How much of a string that is none an error repeats: of one that is right but for a letter, nothing.
const ECHO_MAX: usize = 12;

/// SHA-256 of a certificate authority's SubjectPublicKeyInfo: what a dialer that knows nothing else believes an explorer by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    /// In lower-case hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pin is 64 digits of lower-case hex")]
pub struct PinError;

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(given: &str) -> Result<Self, PinError> {
        crate::hex::parse(given.as_bytes()).map(Self).ok_or(PinError)
    }
}

/// Everything that is needed to come in for the first time. Holds a secret: its text is given by [`JoinString::expose`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    addresses: Vec<String>,
    pin: Pin,
    token: Secret,
}

/// Why a text is no join string. None of them repeats what could be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinStringError {
    /// Something else altogether.
    #[error(
        "\"{given}\" is no join string: it begins with rb1_; get one on the explorer with: reachback token create"
    )]
    Other {
        /// The beginning of what was given, escaped.
        given: String,
    },
    /// The format of a later version.
    #[error(
        "this join string is of a newer version (rb{version}_); this program knows rb1_: update reachback on this machine"
    )]
    Newer {
        /// Which.
        version: u32,
    },
    /// It ends too early.
    #[error(
        "this join string is cut off: {missing} of its characters are missing at the end; copy the whole of it"
    )]
    CutOff {
        /// How many.
        missing: usize,
    },
    /// Something is behind it.
    #[error("this join string has {surplus} characters too many at the end; was it pasted twice?")]
    Surplus {
        /// How many.
        surplus: usize,
    },
    /// A character that base64url does not have.
    #[error("this join string has a wrong character at place {place}; copy it instead of typing it")]
    Character {
        /// Which, counted from 1.
        place: usize,
    },
    /// All there and not right.
    #[error("this join string is mistyped: its checksum is wrong; copy it instead of typing it")]
    Mistyped,
    /// Rightly written and still not usable: another program made it.
    #[error(
        "this join string can't be used: {problem}; get another on the explorer with: reachback token create"
    )]
    Content {
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl JoinString {
    /// Addresses to dial, the authority to believe, and what to show for oneself.
    ///
    /// # Errors
    /// [`JoinStringError::Content`]: no address or too many, an empty or too long one, an empty or too long token.
    pub fn new(addresses: Vec<String>, pin: Pin, token: Secret) -> Result<Self, JoinStringError> {
        let content = |problem| Err(JoinStringError::Content { problem });
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return content("it needs 1 to 16 addresses");
        }
        if addresses.iter().any(|address| address.is_empty() || address.len() > ADDRESS_MAX) {
            return content("an address in it has to have 1 to 255 bytes");
        }
        if token.expose().is_empty() || token.expose().len() > TOKEN_MAX {
            return content("the token in it has to have 1 to 4096 bytes");
        }
        Ok(Self { addresses, pin, token })
    }

    /// Where explorers can be dialled, in the order in which to try them. Chosen by whoever made the string.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The authority that the explorer's certificate leads to.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// What to exchange for a certificate.
    #[must_use]
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// The string itself, secret as it is.
    #[must_use]
    pub fn expose(&self) -> Secret {
        let mut bytes = Zeroizing::new(vec![0, 0]);
        bytes.extend_from_slice(&self.pin.0);
        // The bounds of `new` make every length fit.
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(self.token.expose().as_bytes());
        let length = u16::try_from(bytes.len() - 2).unwrap_or(u16::MAX);
        bytes[..2].copy_from_slice(&length.to_be_bytes());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        let mut text = String::with_capacity(PREFIX.len() + (bytes.len() * 4).div_ceil(3));
        text.push_str(PREFIX);
        encode(&bytes, &mut text);
        Secret::new(text)
    }
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("addresses", &self.addresses)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinString {
    type Err = JoinStringError;

    /// Blanks and line breaks anywhere in it are passed over: terminals and mail programs break long lines.
    fn from_str(given: &str) -> Result<Self, JoinStringError> {
        let other = || JoinStringError::Other { given: sanitize(given.trim(), ECHO_MAX) };
        let characters = || given.bytes().filter(|byte| !byte.is_ascii_whitespace());
        if characters().nth(TEXT_MAX).is_some() {
            return Err(other());
        }
        let text = Secret::new(given.split_ascii_whitespace().collect::<String>());
        let text = text.expose();
        let rest = text.strip_prefix("rb").ok_or_else(other)?;
        let (version, body) = rest.split_once('_').ok_or_else(other)?;
        match version.parse::<u32>() {
            Ok(1) if version == "1" => {}
            Ok(newer) if newer > 1 => return Err(JoinStringError::Newer { version: newer }),
            _ => return Err(other()),
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() * 3 / 4));
        let whole = decode(body, &mut bytes)?;
        read(&bytes, whole, body.len())
    }
}

/// Takes the bytes apart. `whole`: no bits were left over; `characters`: how many they were as text.
fn read(bytes: &[u8], whole: bool, characters: usize) -> Result<JoinString, JoinStringError> {
    let length = bytes.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
    // Cut off before its length: at least the least there can be is missing.
    let size = 2 + length.unwrap_or(PIN + 1 + 2 + 1).max(PIN + 1) + CHECKSUM;
    let expected = (size * 4).div_ceil(3);
    if characters < expected {
        return Err(JoinStringError::CutOff { missing: expected - characters });
    }
    if characters > expected {
        return Err(JoinStringError::Surplus { surplus: characters - expected });
    }
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(JoinStringError::Mistyped)?;
    // A wrong last letter may change no byte.
    if !whole || checksum(content) != u32::from_be_bytes(*sum) {
        return Err(JoinStringError::Mistyped);
    }
    let broken = JoinStringError::Content { problem: "its parts don't fit together" };
    let mut rest = content.get(2..).unwrap_or_default();
    let pin = Pin(*take::<PIN>(&mut rest).ok_or_else(|| broken.clone())?);
    let [count] = *take(&mut rest).ok_or_else(|| broken.clone())?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let [length] = *take(&mut rest).ok_or_else(|| broken.clone())?;
        let (address, after) = rest.split_at_checked(length.into()).ok_or_else(|| broken.clone())?;
        addresses.push(str::from_utf8(address).map_err(|_| broken.clone())?.to_owned());
        rest = after;
    }
    let token = str::from_utf8(rest).map_err(|_| broken)?;
    JoinString::new(addresses, pin, Secret::new(token.to_owned()))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(first)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8], text: &mut String) {
    for chunk in bytes.chunks(3) {
        let three = [0, 1, 2].map(|index| u32::from(chunk.get(index).copied().unwrap_or(0)));
        let bits = three[0] << 16 | three[1] << 8 | three[2];
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
}

/// Whether the text was bytes and nothing more.
fn decode(text: &str, bytes: &mut Vec<u8>) -> Result<bool, JoinStringError> {
    let (mut bits, mut held) = (0_u32, 0);
    for (index, character) in text.bytes().enumerate() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return Err(JoinStringError::Character { place: PREFIX.len() + index + 1 }),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(held < 6 && bits & ((1 << held) - 1) == 0)
}

/// CRC-32 (the one of zip and Ethernet), of the prefix and these bytes.
fn checksum(bytes: &[u8]) -> u32 {
    let all = PREFIX.bytes().chain(bytes.iter().copied());
    !all.fold(u32::MAX, |mut sum, byte| {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> JoinString {
        let addresses = vec!["hub.example.com:9002".to_owned(), "tls://[::1]:9002".to_owned()];
        JoinString::new(addresses, Pin([7; 32]), Secret::new("aa.bb.cc".repeat(40))).unwrap()
    }

    fn text() -> String {
        sample().expose().expose().to_owned()
    }

    fn refusal(text: &str) -> String {
        text.parse::<JoinString>().unwrap_err().to_string()
    }

    #[test]
    fn goes_through_a_terminal_and_back() {
        let text = text();
        assert!(text.starts_with("rb1_") && text[4..].bytes().all(|byte| DIGITS.contains(&byte)), "{text}");
        assert_eq!(text.parse::<JoinString>().unwrap(), sample());
        let broken = format!("  {}\n   {}\r\n", &text[..50], &text[50..]);
        assert_eq!(broken.parse::<JoinString>().unwrap(), sample());
    }

    #[test]
    fn each_mistake_has_its_own_words() {
        let text = text();
        for cut in 4..text.len() {
            let refusal = refusal(&text[..cut]);
            assert!(refusal.contains("cut off"), "{cut}: {refusal}");
        }
        assert!(refusal(&text[..text.len() - 9]).contains("9 of its characters"));
        assert!(refusal(&format!("{text}AAAA")).contains("4 characters too many"));
        assert!(refusal(&format!("{text}{text}")).contains("pasted twice"));
        let wrong = format!("{}!{}", &text[..20], &text[21..]);
        assert!(refusal(&wrong).contains("place 21"), "{}", refusal(&wrong));
        assert!(refusal(&text.replace("rb1_", "rb2_")).contains("newer version (rb2_)"));
        for other in ["", "rb", "rb1", "rb_", "rb01_AAAA", "rb0_AAAA", "eyJhbGciOi.J9.sig", "rbx_"] {
            assert!(refusal(other).contains("is no join string"), "{other}");
        }
    }

    #[test]
    fn every_single_mistyped_letter_is_found() {
        let text = text();
        for place in 4..text.len() {
            for with in ["A", "b", "_"] {
                if &text[place..=place] != with {
                    let wrong = format!("{}{with}{}", &text[..place], &text[place + 1..]);
                    let error = wrong.parse::<JoinString>().unwrap_err();
                    let length = place < 4 + 3;
                    assert!(length || error == JoinStringError::Mistyped, "{place} {with}: {error}");
                }
            }
        }
    }

    #[test]
    fn no_refusal_and_no_debug_shows_the_token() {
        let text = text();
        let mistyped = format!("{}A", &text[..text.len() - 1]);
        let shown = format!("{:?} {} {}", sample(), refusal(&text[..90]), refusal(&mistyped));
        for secret in ["aa.bb", "cc", &text[60..80]] {
            assert!(!shown.contains(secret), "{shown}");
        }
        // What is no join string may be a token pasted by mistake.
        assert!(refusal(&"secret-token-of-somebody".repeat(4)).len() < 150);
    }

    #[test]
    fn a_pin_is_written_in_hex() {
        let pin = Pin([0xa5; 32]);
        assert_eq!((pin.to_string(), pin.to_string().parse()), ("a5".repeat(32), Ok(pin)));
        assert_eq!("A5".repeat(32).parse::<Pin>(), Err(PinError));
    }

    #[test]
    fn what_could_not_be_read_is_not_made() {
        let new = |addresses: Vec<String>, token: &str| {
            JoinString::new(addresses, Pin([0; 32]), Secret::new(token.to_owned()))
        };
        let a = || "a:1".to_owned();
        new(vec![a(); 16], &"t".repeat(TOKEN_MAX)).unwrap();
        for (addresses, token) in [
            (vec![], "t".to_owned()),
            (vec![a(); 17], "t".to_owned()),
            (vec![String::new()], "t".to_owned()),
            (vec!["a".repeat(256)], "t".to_owned()),
            (vec![a()], String::new()),
            (vec![a()], "t".repeat(TOKEN_MAX + 1)),
        ] {
            assert!(matches!(new(addresses, &token), Err(JoinStringError::Content { .. })));
        }
        let longest = new(vec!["a".repeat(255); 16], &"t".repeat(TOKEN_MAX)).unwrap();
        let text = longest.expose();
        assert_eq!(text.expose().len(), TEXT_MAX);
        assert_eq!(text.expose().parse::<JoinString>().unwrap(), longest);
    }

    #[test]
    fn a_checksum_that_fits_broken_parts_is_still_refused() {
        for content in [
            vec![0; 33],
            [vec![0; 32], vec![1, 9, b'a']].concat(),
            [vec![0; 32], vec![1, 1, 0xff, b't']].concat(),
        ] {
            let mut bytes = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend(content);
            bytes.extend(checksum(&bytes).to_be_bytes());
            let mut text = PREFIX.to_owned();
            encode(&bytes, &mut text);
            assert!(refusal(&text).contains("can't be used"), "{}", refusal(&text));
        }
    }

    #[test]
    fn the_checksum_is_the_one_everybody_knows() {
        // What zlib says of "rb1_123456789".
        assert_eq!(checksum(b"123456789"), 0x9db3194b);
    }

    proptest! {
        #[test]
        fn any_content_round_trips(addresses in prop::collection::vec("[a-z:.0-9]{1,40}", 1..=16), token in "[!-~]{1,300}", pin in any::<[u8; 32]>()) {
            let join = JoinString::new(addresses, Pin(pin), Secret::new(token)).unwrap();
            prop_assert_eq!(join.expose().expose().parse::<JoinString>().unwrap(), join);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<JoinString>();
            let _ = format!("rb1_{text}").parse::<JoinString>();
        }

        #[test]
        fn no_letters_panic(text in "[A-Za-z0-9_-]{0,200}") {
            let read = format!("rb1_{text}").parse::<JoinString>();
            prop_assert!(read.is_err());
        }
    }
}
