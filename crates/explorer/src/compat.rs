//! What old programs of the hero stack are used to: requests that are not ours, for a node they name.
//!
//! Such a program sends the node's own methods to the explorer, with the node's name among the parameters. The bytes
//! go to that node's `rpc` service as they came, and its answer goes back as it came.

use std::{borrow::Cow, collections::BTreeMap};

use reachback_wire::{NodeId, ServiceName, Target};
use serde_json::value::RawValue;

use crate::{api::rpc::Request, hub::Hub};

/// Where a request goes that is none of the explorer's own; `None`: nowhere.
pub(crate) fn destination(hub: &Hub, request: &Request<'_>) -> Option<Target> {
    let hero = hub.hero.as_ref().filter(|hero| hero.forward)?;
    let node = named(&hero.node_fields, request.params?)?;
    Some(Target::Service { node, service: ServiceName::parse("rpc").ok()? })
}

/// The node that the first of these members names.
fn named(fields: &[String], params: &RawValue) -> Option<NodeId> {
    let object = if params.get().starts_with('[') {
        let positional: Vec<&RawValue> = serde_json::from_str(params.get()).ok()?;
        *positional.first()?
    } else {
        params
    };
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object.get()).ok()?;
    fields.iter().find_map(|field| {
        let value: String = serde_json::from_str(members.get(field.as_str())?.get()).ok()?;
        NodeId::parse(&value).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_member_that_names_a_node_wins() {
        let fields = ["node_id".to_owned(), "node".to_owned()];
        for (params, expected) in [
            (r#"{"vm":"x","node_id":"Edge-7"}"#, Some("edge-7")),
            (r#"{"node":"b","node_id":"a"}"#, Some("a")),
            (r#"{"node":"b","node_id":7}"#, Some("b")),
            (r#"[{"node":"b"},1]"#, Some("b")),
            (r#"{"node":"../x"}"#, None),
            (r#"{"deep":{"node":"b"}}"#, None),
            ("[]", None),
            ("7", None),
        ] {
            let params = RawValue::from_string(params.to_owned()).unwrap();
            assert_eq!(named(&fields, &params).as_ref().map(AsRef::as_ref), expected, "{params}");
        }
    }
}
