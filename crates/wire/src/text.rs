//! Text a peer chose must never choose what an operator sees.
//!
//! Ids, messages and agent names arrive from strangers and end in logs, tables and error sentences. A line
//! break forges a log line, an ANSI sequence rewrites a terminal, a bidirectional mark turns a name round.
//! So everything a peer chose goes through [`sanitize`] once before it is shown, and stays readable.

/// `text` with everything invisible or misleading escaped, at most `max` characters long.
///
/// Control characters (line breaks, tabs, ANSI escapes, C1), line and paragraph separators, bidirectional
/// marks and zero-width characters become `\n`, `\r`, `\t` or `\u{…}`. What is cut off is marked by a final
/// `…`, which counts; an escape is never cut in two. Running it twice changes nothing more, so a sentence
/// may quote text that is already clean.
#[must_use]
pub fn sanitize(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut shown = 0;
    // Where to cut so that the mark still fits, should the rest turn out not to.
    let mut cut = 0;
    for character in text.chars() {
        let before = out.len();
        let added = push_escaped(&mut out, character);
        if shown + added > max {
            out.truncate(cut.min(before));
            if max > 0 {
                out.push('…');
            }
            return out;
        }
        shown += added;
        if shown < max {
            cut = out.len();
        }
    }
    out
}

/// Appends the character or its escape and returns how many characters that took.
fn push_escaped(out: &mut String, character: char) -> usize {
    if !misleads(character) {
        out.push(character);
        return 1;
    }
    let before = out.len();
    match character {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        other => out.extend(other.escape_unicode()),
    }
    // Every escape is ASCII: its bytes are its characters.
    out.len() - before
}

fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'       // zero width, direction marks
            | '\u{2028}'..='\u{202e}'       // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206f}'       // word joiner, isolates, deprecated format characters
            | '\u{fff9}'..='\u{fffb}'       // annotations
            | '\u{e0000}'..='\u{e007f}') // tags
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_readable_text_alone() {
        for text in ["", "edge-7", "Gerät „Küche“ 日本語 🚀", "C:\\path \"quoted\""] {
            assert_eq!(sanitize(text, 100), text);
        }
    }

    #[test]
    fn escapes_what_forges_lines_terminals_and_reading_order() {
        assert_eq!(sanitize("a\r\nb\tc", 100), "a\\r\\nb\\tc");
        assert_eq!(sanitize("\x1b[31mred\0\x7f\u{9b}", 100), "\\u{1b}[31mred\\u{0}\\u{7f}\\u{9b}");
        assert_eq!(
            sanitize("a\u{202e}b\u{2066}c\u{2028}\u{feff}", 100),
            "a\\u{202e}b\\u{2066}c\\u{2028}\\u{feff}"
        );
    }

    #[test]
    fn cuts_at_the_limit_and_says_so() {
        assert_eq!(sanitize("abcdef", 6), "abcdef");
        assert_eq!(sanitize("abcdefg", 6), "abcde…");
        assert_eq!(sanitize("日本語日本語", 3), "日本…");
        assert_eq!(sanitize("ab", 1), "…");
        assert_eq!(sanitize("ab", 0), "");
    }

    #[test]
    fn never_cuts_an_escape_in_two() {
        assert_eq!(sanitize("abc\x1bdef", 6), "abc…");
        assert_eq!(sanitize("abc\x1bdef", 9), "abc…");
        assert_eq!(sanitize("abc\x1bdef", 10), "abc\\u{1b}…");
    }

    proptest! {
        #[test]
        fn any_text_comes_out_bounded_visible_and_stable(text in any::<String>(), max in 0_usize..80) {
            let clean = sanitize(&text, max);
            prop_assert!(clean.chars().count() <= max);
            prop_assert!(!clean.chars().any(misleads));
            prop_assert_eq!(sanitize(&clean, max), clean);
        }
    }
}
