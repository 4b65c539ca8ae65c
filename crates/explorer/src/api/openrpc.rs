//! The OpenRPC document: what `rpc.discover` and `GET /openrpc.json` answer, made from the table of methods.

use serde_json::{Value, json};

use super::table::{METHODS, Method};

/// The document. The same for every explorer of this version, so that it can be kept beside the documentation.
pub(crate) fn document() -> Value {
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Reachback explorer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Everything an explorer knows and does. See docs/api.md.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "methods": METHODS.iter().map(method).collect::<Vec<_>>(),
    })
}

fn method(method: &Method) -> Value {
    let params: Vec<_> = method
        .params
        .iter()
        .map(|param| {
            let schema = match param.kind {
                "any" => json!({}),
                kind => json!({ "type": kind }),
            };
            json!({
                "name": param.name,
                "description": param.about,
                "required": param.required,
                "schema": schema,
            })
        })
        .collect();
    json!({
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": params,
        "result": { "name": "result", "description": method.result, "schema": {} },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo test -p reachback-explorer openrpc` writes it anew.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test that may rewrite its snapshot asks the environment")]
    fn the_document_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openrpc.json");
        let now = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var("UPDATE").is_ok() {
            std::fs::write(path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == now, "docs/openrpc.json is not what the explorer says; UPDATE=1 writes it anew");
    }
}
