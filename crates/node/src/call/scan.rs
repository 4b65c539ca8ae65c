//! Where a JSON text ends, found while it arrives and without building anything.
//!
//! A service that frames nothing ends its answer by completing it. Waiting for it to close instead would wait for ever
//! with many, and parsing again from the begin with each piece would cost the square of the length.

/// Reads a JSON text piece by piece. It follows brackets and strings and judges nothing else.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    depth: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nothing but blanks so far.
    #[default]
    Before,
    /// Between brackets.
    Inside,
    InString,
    /// Behind a backslash in a string.
    Escaped,
    /// A number or a word without brackets around it: the next blank ends it.
    Bare,
    Complete,
    /// It does not begin as JSON does: only the end of the connection can be its end.
    Foreign,
}

impl Scanner {
    /// Takes in the next piece. `Some(n)`: the text is complete with its first `n` bytes.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Option<usize> {
        for (at, byte) in piece.iter().enumerate() {
            let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            match self.state {
                State::Before if blank => {}
                State::Before => {
                    self.state = match byte {
                        b'{' | b'[' => State::Inside,
                        b'"' => State::InString,
                        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => State::Bare,
                        _ => State::Foreign,
                    };
                    self.depth = usize::from(self.state == State::Inside);
                }
                State::Inside => match byte {
                    b'"' => self.state = State::InString,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                },
                State::InString => match byte {
                    b'\\' => self.state = State::Escaped,
                    b'"' => self.state = State::Inside,
                    _ => {}
                },
                State::Escaped => self.state = State::InString,
                State::Bare if blank => {
                    self.state = State::Complete;
                    return Some(at);
                }
                State::Bare => {}
                State::Complete => return Some(at),
                State::Foreign => return None,
            }
            if self.state == State::Inside && self.depth == 0 {
                self.state = State::Complete;
                return Some(at + 1);
            }
        }
        None
    }

    /// Whether the connection may end here: a text that began has to be complete by then.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.state, State::Before | State::Bare | State::Complete | State::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Option<usize> {
        Scanner::default().feed(text.as_bytes())
    }

    #[test]
    fn a_text_ends_where_its_brackets_close() {
        for (text, end) in [
            ("{}", Some(2)),
            (" [1]\n", Some(4)),
            (r#"{"a":"}"}x"#, Some(9)),
            (r#"{"a":"\"}"}"#, Some(11)),
            (r#""a\\"b"#, Some(5)),
            ("12\n", Some(2)),
            ("12", None),
            ("{", None),
            (r#"{"a":"}"#, None),
            ("", None),
            ("HTTP/1.1 200 {}", None),
        ] {
            assert_eq!(whole(text), end, "{text}");
        }
    }

    #[test]
    fn only_what_is_complete_or_foreign_may_end_with_the_connection() {
        for (text, may) in [
            ("", true),
            ("\n", true),
            ("12", true),
            ("hello", true),
            ("{}", true),
            ("{", false),
            ("\"a", false),
        ] {
            let mut scanner = Scanner::default();
            scanner.feed(text.as_bytes());
            assert_eq!(scanner.may_end(), may, "{text}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            strings in prop::collection::vec("[\\PC\"\\\\{}\\[\\]]{0,12}", 0..6),
            cuts in prop::collection::vec(1usize..9, 0..20),
        ) {
            let text = serde_json::to_string(&strings).unwrap();
            let mut scanner = Scanner::default();
            let (mut rest, mut before) = (text.as_bytes(), 0);
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len().saturating_sub(1)));
                prop_assert_eq!(scanner.feed(piece), None);
                (rest, before) = (later, before + piece.len());
            }
            prop_assert!(!scanner.may_end() || before == 0);
            prop_assert_eq!(scanner.feed(rest), Some(rest.len()));
        }
    }
}
