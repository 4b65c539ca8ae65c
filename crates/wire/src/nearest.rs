//! The name somebody probably meant.
//!
//! A refusal for a misspelt name should hold the right one, on whichever side it is made; a guess that is far off is
//! worse than none.

/// The candidate that differs least from `typed`, if that is little: at most a third of its letters, and at most 3. Of
/// two that differ equally the first in the alphabet.
#[must_use]
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.chars().collect();
    let allowed = (typed.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|name| {
            let letters: Vec<char> = name.chars().collect();
            // What differs more in length alone needs no table.
            let near = letters.len().abs_diff(typed.len()) <= allowed;
            near.then(|| (distance(&typed, &letters), name))
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, remove, change or swap with their neighbour (optimal string alignment).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = ["edge-7", "edge-17", "mac1", "hub", "listen", "socket", "größe"];
        for (typed, expected) in [
            ("edge-8", Some("edge-7")),
            ("egde-7", Some("edge-7")),
            ("edge7", Some("edge-7")),
            ("hbu", Some("hub")),
            ("edge-177", Some("edge-17")),
            ("mac", Some("mac1")),
            ("lisen", Some("listen")),
            ("sokcet", Some("socket")),
            ("listen_on", Some("listen")),
            ("grösse", Some("größe")),
            ("database", None),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, names), expected, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("prot", "port", 1)]
        {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(distance(&letters(from), &letters(to)), expected, "{from} {to}");
        }
    }
}
