//! The headers of a call, taken from HTTP and put back into it.

use std::collections::BTreeMap;

use hyper::{HeaderMap, header};
use reachback_wire::headers::{is_of_the_hop, named_by_connection};

/// What the node is told of a caller's headers, names in lower case. A caller with a session writes its names as it
/// likes; what it must not say it must not say in capitals either.
pub(crate) fn callers_own(given: &BTreeMap<String, String>) -> Vec<(String, &String)> {
    let all: Vec<_> = given.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let connection = all.iter().filter(|(name, _)| name == "connection");
    let named: Vec<_> = connection.flat_map(|(_, value)| named_by_connection(value)).collect();
    all.into_iter().filter(|(name, _)| !is_of_the_hop(name) && !named.contains(name)).collect()
}

/// What of a message's headers belongs to the call: names in lower case, values that are text.
pub(crate) fn headers(all: &HeaderMap) -> BTreeMap<String, String> {
    let named: Vec<_> = all
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(named_by_connection)
        .collect();
    let mut kept = BTreeMap::<String, String>::new();
    for (name, value) in all {
        let name = name.as_str();
        if is_of_the_hop(name) || named.iter().any(|named| named == name) {
            continue;
        }
        // A header that is no text can't be said in JSON; nobody in this family of programs sends one.
        let Ok(value) = value.to_str() else { continue };
        kept.entry(name.to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_the_callers_own_headers_however_they_are_written() {
        let given = [
            ("Transfer-Encoding", "chunked"),
            ("CONTENT-LENGTH", "7"),
            ("Host", "evil"),
            ("Expect", "100-continue"),
            ("Connection", "close, X-Secret-Hop"),
            ("X-secret-hop", "1"),
            ("X-Reachback-Caller", "root"),
            ("X-Hero-Claims", "a"),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(callers_own(&given), [("x-hero-claims".to_owned(), &"a".to_owned())]);
    }
}
