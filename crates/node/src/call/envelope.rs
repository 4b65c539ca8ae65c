//! The ids of JSON-RPC texts: found, exchanged, restored, and not a byte else touched.
//!
//! Callers choose their ids without knowing of each other, so on a connection they share each id is exchanged for one of
//! its own, and the answer gets the caller's back, as it was written. Nothing is built of the rest of a text: whoever
//! sends it chooses its size.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::limits::BATCH_MAX;

/// A request or a batch, and where its ids stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) ids: Vec<Range<usize>>,
    pub(super) batch: bool,
}

/// One line of a service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// An answer, or several of a batch; the ids that are ours and where they stand.
    Answer { ids: Vec<(u64, Range<usize>)>, batch: bool },
    /// A message of the service's own accord.
    Notice,
    /// An answer to nobody: its id is none of ours.
    Unknown,
}

impl Unit {
    pub(super) fn wants_answer(&self) -> bool {
        !self.ids.is_empty()
    }
}

/// Finds the ids of a request.
pub(super) fn read_request(text: &[u8]) -> Result<Unit, String> {
    let (members, batch) = read(text)?;
    let ids = members.iter().filter_map(|member| Some(place(text, member.id?))).collect();
    Ok(Unit { ids, batch })
}

/// Understands a line of a service.
pub(super) fn read_line(text: &[u8]) -> Result<Line, String> {
    let (members, batch) = read(text)?;
    // A request of the service's own can't be told from an answer by its id.
    if members.iter().all(|member| member.method || member.id.is_none()) {
        return Ok(Line::Notice);
    }
    let ours = |member: &Member<'_>| {
        let id = member.id.filter(|_| !member.method)?;
        Some((id.get().parse().ok()?, place(text, id)))
    };
    let ids: Vec<_> = members.iter().filter_map(ours).collect();
    Ok(if ids.is_empty() { Line::Unknown } else { Line::Answer { ids, batch } })
}

/// The text with other ids in these places, which are in order.
pub(super) fn replace<'a>(text: &[u8], ids: impl Iterator<Item = (Range<usize>, &'a str)>) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len() + 32);
    let mut done = 0;
    for (place, id) in ids {
        replaced.extend_from_slice(&text[done..place.start]);
        replaced.extend_from_slice(id.as_bytes());
        done = place.end;
    }
    replaced.extend_from_slice(&text[done..]);
    replaced
}

/// The id of an answer of which only the begin and the end are known: the first member of the one or the last of the
/// other.
pub(super) fn guess_id(begin: &[u8], end: &[u8]) -> Option<u64> {
    leading_id(begin).or_else(|| trailing_id(end))
}

fn leading_id(begin: &[u8]) -> Option<u64> {
    let mut rest = begin.trim_ascii_start().strip_prefix(b"{")?;
    loop {
        rest = rest.trim_ascii_start();
        let key_end = 1 + rest.strip_prefix(b"\"")?.iter().position(|byte| *byte == b'"')?;
        let key = &rest[1..key_end];
        rest = rest[key_end + 1..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let value_end = match rest.first()? {
            b'"' => 2 + rest[1..].iter().position(|byte| *byte == b'"')?,
            b'{' | b'[' => return None,
            _ => rest.iter().position(|byte| matches!(byte, b',' | b'}'))?,
        };
        let (value, later) = rest.split_at(value_end);
        // An escape would need more care than a guess is worth.
        if key.contains(&b'\\') || value.contains(&b'\\') {
            return None;
        }
        if key == b"id" {
            return number(value);
        }
        rest = later.trim_ascii_start().strip_prefix(b",")?;
    }
}

fn trailing_id(end: &[u8]) -> Option<u64> {
    let inside = end.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
    let digits = inside.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, value) = inside.split_at(inside.len() - digits);
    let key = before.trim_ascii_end().strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"id\"")?;
    key.trim_ascii_end().ends_with(b",").then(|| number(value))?
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn read(text: &[u8]) -> Result<(Vec<Member<'_>>, bool), String> {
    if text.trim_ascii_start().first() == Some(&b'[') {
        let Batch(members) = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        return Ok((members, true));
    }
    let member = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok((vec![member], false))
}

/// Where a part of the text stands in it.
fn place(text: &[u8], part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.get().len()
}

/// What matters of one request or answer.
struct Member<'a> {
    id: Option<&'a RawValue>,
    method: bool,
}

struct Batch<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Member<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON-RPC object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut member = Member { id: None, method: false };
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match key.as_ref() {
                        "id" if member.id.is_some() => return Err(A::Error::duplicate_field("id")),
                        "id" => member.id = Some(map.next_value()?),
                        other => {
                            member.method |= other == "method";
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(member)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of JSON-RPC objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = array.next_element()? {
                    if members.len() == BATCH_MAX {
                        return Err(A::Error::custom(format_args!("a batch of more than {BATCH_MAX}")));
                    }
                    members.push(member);
                }
                if members.is_empty() {
                    return Err(A::Error::custom("an empty batch"));
                }
                Ok(Batch(members))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<&str> {
        let unit = read_request(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        unit.ids.into_iter().map(|place| &text[place]).collect()
    }

    #[test]
    fn ids_are_found_where_they_stand_and_nowhere_else() {
        assert_eq!(ids(r#"{"params":{"id":7},"id" : "a\"b" ,"x":[]}"#), [r#""a\"b""#]);
        assert_eq!(ids(r#" {"id":null}"#), ["null"]);
        assert_eq!(ids(r#"{"i\u0064":1.50}"#), ["1.50"]);
        assert_eq!(ids(r#"{"method":"m","params":{"id":1}}"#), [""; 0]);
        assert_eq!(ids(r#"[{"id":1},{"method":"n"},{"id":"2"}]"#), ["1", "\"2\""]);
    }

    #[test]
    fn what_is_no_request_is_said() {
        for text in
            ["", "1", "\"x\"", "{", "[]", "[1]", r#"[["id"]]"#, r#"{"id":1,"id":2}"#, "{}x", "{\"a\":\"\n\"}"]
        {
            assert!(read_request(text.as_bytes()).is_err(), "{text}");
        }
        let many = format!("[{}{{}}]", "{},".repeat(BATCH_MAX));
        assert!(read_request(many.as_bytes()).unwrap_err().contains("more than"));
    }

    #[test]
    fn replacing_leaves_every_other_byte() {
        let text = br#"[{"id":1, "a":"\u00e9"},{"id":"two"}]"#;
        let unit = read_request(text).unwrap();
        let replaced = replace(text, unit.ids.into_iter().zip(["100", "\"x\""]));
        assert_eq!(replaced, br#"[{"id":100, "a":"\u00e9"},{"id":"x"}]"#);
    }

    #[test]
    fn lines_of_a_service() {
        let read = |text: &str| read_line(text.as_bytes()).unwrap();
        assert_eq!(read(r#"{"id":12,"result":1}"#), Line::Answer { ids: vec![(12, 6..8)], batch: false });
        assert_eq!(
            read(r#"[{"id":null,"error":{}},{"id":3,"result":1}]"#),
            Line::Answer { ids: vec![(3, 30..31)], batch: true }
        );
        assert_eq!(read(r#"{"method":"event","params":[]}"#), Line::Notice);
        assert_eq!(read(r#"{"method":"ask","id":12}"#), Line::Notice);
        for unknown in [r#"{"id":"12","result":1}"#, r#"{"id":null,"error":{}}"#, r#"{"id":-1,"result":1}"#] {
            assert_eq!(read(unknown), Line::Unknown, "{unknown}");
        }
        assert!(read_line(b"Listening on port 5").is_err());
    }

    #[test]
    fn the_owner_of_a_line_too_long_to_keep_is_found_at_its_ends() {
        assert_eq!(guess_id(br#"{"jsonrpc":"2.0","id": 5 ,"result":"xxx"#, b"xxx\"}"), Some(5));
        assert_eq!(guess_id(br#"{"jsonrpc":"2.0","result":["#, br#"x"], "id" : 6 } "#), Some(6));
        for (begin, end) in [
            (r#"{"result":{"id":5"#, r#""id":5}}"#),
            (r#"{"result":{"#, r#""x\"id":5}"#),
            (r#"{"a\"id":5,"#, "}"),
            (r#"[{"id":5"#, "]"),
            (r#"{"id":"5","#, "}"),
            ("", ""),
        ] {
            assert_eq!(guess_id(begin.as_bytes(), end.as_bytes()), None, "{begin} … {end}");
        }
    }
}
