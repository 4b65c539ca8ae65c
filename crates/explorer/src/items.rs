//! How the items of a streamed answer look over HTTP: what the caller asked for with `Accept`.
//!
//! What crosses the tunnel are JSON texts. A caller that takes events gets them as events (WHATWG HTML, section 9.2,
//! "Server-sent events"), any other as lines.

use bytes::Bytes;
use hyper::{HeaderMap, header};

/// One of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemFormat {
    /// A JSON text and a newline.
    Lines,
    /// `data:` lines and an empty one.
    Events,
}

/// Writes items, whose pieces come one after the other.
#[derive(Debug)]
pub(crate) struct ItemWriter {
    format: ItemFormat,
    /// A piece of an item was written, and not its last one.
    inside: bool,
}

impl ItemFormat {
    /// The way that a request asks for, the first if it names several; `None` if it does not ask for a stream.
    pub(crate) fn wanted(headers: &HeaderMap) -> Option<Self> {
        let kinds = headers.get_all(header::ACCEPT).iter().filter_map(|kind| kind.to_str().ok());
        kinds.flat_map(|kinds| kinds.split(',')).find_map(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            match kind.as_str() {
                "text/event-stream" => Some(Self::Events),
                "application/x-ndjson" | "application/jsonl" => Some(Self::Lines),
                _ => None,
            }
        })
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    pub(crate) fn writer(self) -> ItemWriter {
        ItemWriter { format: self, inside: false }
    }
}

impl ItemWriter {
    /// A piece of an item, of which more comes.
    pub(crate) fn piece(&mut self, text: &[u8]) -> Bytes {
        let written = self.begin(text);
        self.inside = true;
        written.into()
    }

    /// The last piece of an item, or all of it.
    pub(crate) fn item(&mut self, text: &[u8]) -> Bytes {
        let mut written = self.begin(text.strip_suffix(b"\n").unwrap_or(text));
        self.inside = false;
        written.extend_from_slice(match self.format {
            ItemFormat::Lines => b"\n",
            ItemFormat::Events => b"\n\n",
        });
        written.into()
    }

    fn begin(&self, text: &[u8]) -> Vec<u8> {
        if self.format == ItemFormat::Lines {
            return text.to_vec();
        }
        let mut written = if self.inside { Vec::new() } else { b"data: ".to_vec() };
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                written.extend_from_slice(b"\ndata: ");
            }
            written.extend_from_slice(line);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &'static str) -> Option<ItemFormat> {
        ItemFormat::wanted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
    }

    #[test]
    fn a_caller_gets_what_it_asked_for() {
        assert_eq!(wanted("Text/Event-Stream"), Some(ItemFormat::Events));
        assert_eq!(
            wanted("application/json, application/x-ndjson;q=0.9, text/event-stream"),
            Some(ItemFormat::Lines)
        );
        assert_eq!(wanted("application/jsonl"), Some(ItemFormat::Lines));
        assert_eq!(wanted("application/json, */*"), None);
    }

    #[test]
    fn items_are_written_whole_or_in_pieces() {
        for (format, whole, pieces) in [
            (ItemFormat::Lines, "{\"a\":1}\n", "[1,\n2]\n"),
            (ItemFormat::Events, "data: {\"a\":1}\n\n", "data: [1,\ndata: 2]\n\n"),
        ] {
            let mut writer = format.writer();
            assert_eq!(writer.item(b"{\"a\":1}"), whole);
            let written = [writer.piece(b"["), writer.piece(b"1,\n"), writer.item(b"2]\n")].concat();
            assert_eq!(written, pieces.as_bytes());
            assert_eq!(writer.item(b"{\"a\":1}\n"), whole, "the next one begins anew");
        }
    }
}
