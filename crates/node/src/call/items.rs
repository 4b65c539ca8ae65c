//! Streamed answers over HTTP, cut into the JSON texts they consist of.
//!
//! A caller behind a tunnel should not need to know whether a service streams server-sent events or lines of JSON: it
//! gets items.

use reachback_wire::limits::CALL_BODY_MAX;

/// Cuts a body into items.
#[derive(Debug)]
pub(super) struct Items {
    events: bool,
    line: Vec<u8>,
    /// The data lines of the event under way.
    event: Option<Vec<u8>>,
    after_return: bool,
}

/// One item is longer than a body may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Items {
    /// For bodies of this type, if they are streams of items.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let events = match essence.as_str() {
            "text/event-stream" => true,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => false,
            _ => return None,
        };
        Some(Self { events, line: Vec::new(), event: None, after_return: false })
    }

    /// Takes in the next piece and hands out what became complete with it.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut items = Vec::new();
        for byte in piece {
            let second_half = *byte == b'\n' && std::mem::take(&mut self.after_return);
            match byte {
                _ if second_half => {}
                b'\n' => items.extend(self.end_line()),
                b'\r' if self.events => {
                    self.after_return = true;
                    items.extend(self.end_line());
                }
                _ => {
                    self.after_return = false;
                    self.line.push(*byte);
                }
            }
        }
        let kept = self.line.len() + self.event.as_ref().map_or(0, Vec::len);
        if kept > CALL_BODY_MAX { Err(TooLong) } else { Ok(items) }
    }

    /// What the end of the body completes: the last line of JSON. An event without its empty line is none.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        if self.events { None } else { self.end_line() }
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if !self.events {
            let text = line.trim_ascii();
            return (!text.is_empty()).then(|| text.to_vec());
        }
        if line.is_empty() {
            return self.event.take().filter(|event| !event.is_empty());
        }
        let data = line.strip_prefix(b"data").and_then(|rest| match rest {
            [] => Some(rest),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        });
        if let Some(data) = data {
            match &mut self.event {
                Some(event) => {
                    event.push(b'\n');
                    event.extend_from_slice(data);
                }
                None => self.event = Some(data.to_vec()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(content_type: &str, body: &str, step: usize) -> Vec<String> {
        let mut items = Items::of(content_type).unwrap();
        let mut all = Vec::new();
        for piece in body.as_bytes().chunks(step) {
            all.extend(items.push(piece).unwrap());
        }
        all.extend(items.finish());
        all.into_iter().map(|item| String::from_utf8(item).unwrap()).collect()
    }

    #[test]
    fn events_are_their_data_however_they_arrive() {
        let body = ": hello\r\nevent: x\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nid: 7\n\ndata: 2\n\ndata\n\ndatabase: 1\n\rdata: 3\r\rdata: cut off";
        for step in 1..body.len() {
            assert_eq!(cut("Text/Event-Stream; charset=utf-8", body, step), ["{\"a\":\n1}", "2", "3"]);
        }
    }

    #[test]
    fn lines_are_items_and_empty_lines_are_nothing() {
        for step in 1..9 {
            assert_eq!(cut("application/x-ndjson", "{}\r\n\n  \n[1]\n2", step), ["{}", "[1]", "2"]);
        }
        assert!(Items::of("application/json").is_none() && Items::of("").is_none());
    }

    #[test]
    fn one_item_has_the_bound_of_a_body() {
        let mut items = Items::of("application/jsonl").unwrap();
        assert_eq!(items.push(&vec![b'1'; CALL_BODY_MAX]), Ok(vec![]));
        assert_eq!(items.push(b"1"), Err(TooLong));
    }
}
