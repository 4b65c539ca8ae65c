//! The name somebody probably meant.
//!
//! A refusal for a misspelt name should hold the right one; a guess that is far off is worse than none.

/// The candidate that differs least from `typed`, if that is little: at most a third of its letters, and at most 3.
pub(crate) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (typed.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|name| name.len().abs_diff(typed.len()) <= allowed)
        .map(|name| (distance(typed.as_bytes(), name.as_bytes()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, remove, change or swap with their neighbour (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let width = b.len() + 1;
    let mut table = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..width {
            let at = i * width + j;
            if i == 0 || j == 0 {
                table[at] = i + j;
                continue;
            }
            let change = table[at - width - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(table[at - 1] + 1).min(table[at - width] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(table[at - 2 * width - 2] + 1);
            }
            table[at] = least;
        }
    }
    table[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["edge-7", "edge-17", "mac1", "hub"];
        for (typed, expected) in [
            ("edge-8", Some("edge-7")),
            ("egde-7", Some("edge-7")),
            ("edge7", Some("edge-7")),
            ("hbu", Some("hub")),
            ("edge-177", Some("edge-17")),
            ("mac", Some("mac1")),
            ("database", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, names), expected, "{typed}");
        }
    }
}
