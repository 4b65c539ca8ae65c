//! Where one JSON text ends, found without building it.
//!
//! Old socket bridges send a request as one JSON text with no newline behind it and no length in front, and wait: it
//! has to be answered the moment its last bracket arrives. So brackets and strings are counted as bytes arrive;
//! whether what stands between them is JSON is for whoever reads it.

/// Follows one text that begins with `{` or `[`.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Follows texts of any kind, one after the other.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.end_in(bytes) {
            bytes = &bytes[end..];
        }
    }

    /// Whether what has come so far can't be all.
    pub(crate) fn is_inside(&self) -> bool {
        self.depth > 0 || self.in_string
    }

    /// How many of these bytes belong to the text, if it ends among them; none of them may come twice.
    pub(crate) fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bracket_ends_a_text_however_it_arrives() {
        for (text, rest) in [
            (r#"{}"#, ""),
            (r#"{"a":"}]"}"#, "\n{"),
            (r#"[{"a":"\"}"},[]]"#, "{}"),
            (r#"{"a":"\\"}"#, " "),
            ("{\"a\":{\"b\":[1,2,{}]}}", ""),
        ] {
            let all = format!("{text}{rest}");
            assert_eq!(Scanner::default().end_in(all.as_bytes()), Some(text.len()), "{all}");
            let mut scanner = Scanner::default();
            let ends: Vec<_> =
                text.bytes().enumerate().filter(|(_, byte)| scanner.end_in(&[*byte]).is_some()).collect();
            assert_eq!(ends.len(), 1, "{text}");
            assert_eq!(ends[0].0, text.len() - 1, "{text}");
        }
        assert_eq!(Scanner::default().end_in(b"{\"a\":[}"), None);
    }
}
