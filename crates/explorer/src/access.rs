//! What a principal may do: the one function that decides it, at every open, call and question.
//!
//! Nothing is allowed unless a right says so. A right can come from two sides: from the credential, which is what
//! [`Principal::rights`] are, and from the node, which may have announced a grant for this caller and this service; a
//! grant ends by itself. Whoever is believed as it comes (on loopback, say) has every right, so that there is one way
//! through here and not two. What is asked of a service whose methods are restricted has to be read first: the body
//! decides, and a body that could be read in two ways is refused, because the service may read it the other way.

use std::{borrow::Cow, fmt};

use reachback_wire::{
    Code, NodeId, Open, OpenKind, Refusal, Role, SessionId, Target, open::Caller, text::sanitize,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use tokio::time::Instant;

use crate::{api, auth::Principal, limits, registry::Registry, security::CredentialId};

/// What an open is allowed, beyond being allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permission {
    /// By a grant of the node: it ends then, and what it let through ends with it.
    pub(crate) until: Option<Instant>,
    /// Each call has to be read and its methods looked at: [`Principal::check_methods`].
    pub(crate) by_method: bool,
}

/// Whether this caller may open this. The one place where that is decided.
///
/// # Errors
/// The refusal for the opener, with what it may do instead and who can change that.
pub(crate) fn authorise(
    who: &Principal,
    caller: &Caller,
    open: &Open,
    grants: &Registry,
) -> Result<Permission, Refusal> {
    if open.hop > 0 && who.role != Role::Explorer {
        return Err(Refusal::new(
            Code::NotHere,
            format!("hop is {}, but only an explorer may pass on what others opened; send 0", open.hop),
        ));
    }
    if who.role == Role::Explorer {
        return Err(Refusal::new(Code::Denied, "this version has no cluster"));
    }
    let free = Permission { until: None, by_method: false };
    // What there is to refuse about an open without a target is not a question of rights.
    let Some(target) = &open.target else { return Ok(free) };
    if matches!(target, Target::Explorer { .. }) {
        // Which questions it may ask there is decided question by question.
        return Ok(free);
    }
    if who.rights.allows_target(target) {
        let by_method = who.rights.restricts_methods(target);
        if by_method && open.kind == OpenKind::Stream {
            return Err(only_calls(who, target));
        }
        return Ok(Permission { until: None, by_method });
    }
    if let Target::Service { node, service } = target
        && let Some(until) = grants.granted(node, service, caller)
    {
        return Ok(Permission { until: Some(until), by_method: false });
    }
    Err(denied(who, target))
}

/// Whether this caller may know that there is such a node.
pub(crate) fn sees(who: &Principal, method: &str, node: &NodeId) -> bool {
    who.admin || who.rights.allows_method(api::target(), method) || who.rights.concerns(node)
}

/// How a principal is called in sentences.
pub(crate) fn subject(who: &Principal) -> String {
    match (who.role, &who.credential) {
        (Role::Client, CredentialId::Token { .. }) => format!("token \"{}\"", who.name),
        (Role::Client, _) => format!("user \"{}\"", who.name),
        (role, _) => format!("{role} {}", who.name),
    }
}

/// Who asks, as nodes are told.
pub(crate) fn caller(who: &Principal, session: Option<SessionId>, address: String) -> Caller {
    Caller {
        role: who.role,
        id: who.id.to_string(),
        name: Some(who.name.clone()),
        granted: false,
        session,
        address: Some(address),
    }
}

/// Whether every method that this body asks for is allowed there.
///
/// # Errors
/// The refusal, which names the method; or the body can't be read, or in two ways.
pub(crate) fn check_methods(who: &Principal, target: &Target, body: &[u8]) -> Result<(), Refusal> {
    let methods = methods(body).map_err(|error| {
        let what = sanitize(&error.to_string(), limits::TEXT);
        let message = format!(
            "{} may call {target} for some methods only, so a call to it must be one JSON-RPC request or a batch of them, \
             each with one \"method\": {what}",
            subject(who)
        );
        Refusal::new(Code::Denied, message)
    })?;
    match methods.iter().find(|method| !who.rights.allows_method(target, method)) {
        None => Ok(()),
        Some(method) => {
            let method = sanitize(method, 80);
            let message = format!(
                "{} may call {}, not {target}:{method}. Ask an admin for: {}",
                subject(who),
                rights(who),
                remedy(who, &format!("{target}:{method}"))
            );
            Err(Refusal::new(Code::Denied, message))
        }
    }
}

fn denied(who: &Principal, target: &Target) -> Refusal {
    let wanted = match target {
        Target::Dial { node, .. } => format!("dial:{node}"),
        Target::Service { .. } | Target::Explorer { .. } => target.to_string(),
    };
    let message = format!(
        "{} may call {}, not {target}. Ask an admin for: {}",
        subject(who),
        rights(who),
        remedy(who, &wanted)
    );
    Refusal::new(Code::Denied, message)
}

fn only_calls(who: &Principal, target: &Target) -> Refusal {
    let message = format!(
        "{} may call {}, which is for calls of these methods and not for streams. Ask an admin for: {}",
        subject(who),
        rights(who),
        remedy(who, &target.to_string())
    );
    Refusal::new(Code::Denied, message)
}

/// The rights of somebody, as many as a sentence holds.
fn rights(who: &Principal) -> String {
    let mut all: Vec<_> = who.rights.iter().map(ToString::to_string).collect();
    if all.is_empty() {
        return "nothing".to_owned();
    }
    let more = all.len().saturating_sub(limits::NAMES_LISTED);
    all.truncate(limits::NAMES_LISTED);
    match more {
        0 => all.join(", "),
        more => format!("{} and {more} more", all.join(", ")),
    }
}

fn remedy(who: &Principal, wanted: &str) -> String {
    match who.role {
        Role::Node => format!("reachback token create --role register --node {} --allow '{wanted}'", who.id),
        Role::Client | Role::Explorer => {
            format!("reachback token create --role user --name {} --allow '{wanted}'", who.name)
        }
    }
}

/// The methods of a request or of every request in a batch.
fn methods(body: &[u8]) -> Result<Vec<Cow<'_, str>>, serde_json::Error> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        let all: Vec<Asked<'_>> = serde_json::from_slice(body)?;
        if all.is_empty() {
            return Err(serde_json::Error::custom("an empty batch"));
        }
        return Ok(all.into_iter().map(|asked| asked.0).collect());
    }
    serde_json::from_slice(body).map(|Asked(method)| vec![method])
}

/// The method of one request that nobody can take for another one.
struct Asked<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Asked<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Asked<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON-RPC request")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut method = None;
                while let Some(Text(name)) = map.next_key()? {
                    // Some servers take names in any case, and the last one of several.
                    if !name.eq_ignore_ascii_case("method") {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if name != "method" || method.is_some() {
                        return Err(A::Error::custom("its method is named twice, or in capitals"));
                    }
                    let Text(named) = map.next_value()?;
                    method = Some(named);
                }
                method.map(Asked).ok_or_else(|| A::Error::custom("it names no method"))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A text that is copied only if it has to be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reachback_wire::rights::Rights;

    use super::*;

    fn principal(role: Role, rights: &[&str]) -> Principal {
        let rights = rights.iter().map(|right| right.parse().unwrap()).collect();
        let mut who = Principal::believed(role, "ann".parse().unwrap());
        who.rights = Arc::new(Rights::new(rights).unwrap());
        who.admin = false;
        who
    }

    fn asks(who: &Principal, open: &Open) -> Result<Permission, Refusal> {
        let registry = Registry::new(Arc::default());
        authorise(who, &caller(who, None, "test".to_owned()), open, &registry)
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    /// Default deny: what no right covers is refused, to every role and in every form.
    #[test]
    fn nothing_is_allowed_that_no_right_covers() {
        let second = std::time::Duration::from_secs(1);
        for role in [Role::Client, Role::Node] {
            for (rights, reaches) in [
                (&[][..], &[][..]),
                (&["edge-7/rpc"], &["edge-7/rpc"]),
                (&["edge-*/rpc"], &["edge-7/rpc", "edge-77/rpc"]),
                (&["edge-7/*"], &["edge-7/rpc", "edge-7/ssh"]),
                (&["dial:edge-7"], &["edge-7/10.0.0.5:22"]),
                (&["@explorer/api"], &[]),
                (&["*/*"], &["edge-7/rpc", "edge-77/rpc", "edge-7/ssh", "mac/rpc"]),
                (
                    &["*/*", "dial:*"],
                    &["edge-7/rpc", "edge-77/rpc", "edge-7/ssh", "mac/rpc", "edge-7/10.0.0.5:22"],
                ),
            ] {
                let who = principal(role, rights);
                for wanted in ["edge-7/rpc", "edge-77/rpc", "edge-7/ssh", "mac/rpc", "edge-7/10.0.0.5:22"] {
                    for open in [Open::stream(target(wanted)), Open::call(target(wanted), second)] {
                        let outcome = asks(&who, &open);
                        assert_eq!(outcome.is_ok(), reaches.contains(&wanted), "{role} {rights:?}: {wanted}");
                        let Err(refusal) = outcome else { continue };
                        assert_eq!(refusal.code, Code::Denied);
                        let said = refusal.message;
                        assert!(
                            said.contains(&format!("not {wanted}")) && said.contains("token create"),
                            "{said}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn whoever_is_believed_may_everything_and_nobody_may_pass_on() {
        for role in [Role::Client, Role::Node] {
            let who = Principal::believed(role, "ann".parse().unwrap());
            let mut open = Open::stream(target("edge-7/rpc"));
            assert_eq!(asks(&who, &open), Ok(Permission { until: None, by_method: false }));
            open.hop = 1;
            assert_eq!(asks(&who, &open).unwrap_err().code, Code::NotHere);
        }
        let explorer = Principal::believed(Role::Explorer, "hub-2".parse().unwrap());
        assert_eq!(asks(&explorer, &Open::stream(target("edge-7/rpc"))).unwrap_err().code, Code::Denied);
    }

    #[test]
    fn a_right_to_methods_is_one_to_calls_of_these_methods() {
        let who = principal(Role::Client, &["edge-7/rpc:vm.*", "edge-7/rpc:ping"]);
        let (rpc, second) = (target("edge-7/rpc"), std::time::Duration::from_secs(1));
        let refusal = asks(&who, &Open::stream(rpc.clone())).unwrap_err();
        assert!(refusal.code == Code::Denied && refusal.message.contains("not for streams"), "{refusal}");
        assert!(asks(&who, &Open::call(rpc.clone(), second)).unwrap().by_method);
        for (body, allowed) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"vm.list"}"#, true),
            (r#" [{"method":"vm.list"},{"params":[{"method":"rm"}],"method":"ping"}] "#, true),
            (r#"{"m\u0065thod":"vm.list"}"#, true),
            (r#"{"method":"vm"}"#, false),
            (r#"{"method":"rm"}"#, false),
            (r#"[{"method":"vm.list"},{"method":"rm"}]"#, false),
            (r#"{"method":"vm.list","method":"rm"}"#, false),
            (r#"{"method":"vm.list","m\u0065thod":"rm"}"#, false),
            (r#"{"method":"vm.list","Method":"rm"}"#, false),
            (r#"{"METHOD":"vm.list"}"#, false),
            (r#"{"method":["vm.list"]}"#, false),
            (r#"{"method":"vm.list"}{"method":"rm"}"#, false),
            ("{\"method\":\"vm.list\"}\n{\"method\":\"rm\"}", false),
            (r#"{"id":1}"#, false),
            ("[]", false),
            ("[[]]", false),
            ("", false),
            ("vm.list", false),
        ] {
            let outcome = check_methods(&who, &rpc, body.as_bytes());
            assert_eq!(outcome.is_ok(), allowed, "{body}: {outcome:?}");
            assert!(outcome.err().is_none_or(|refusal| refusal.code == Code::Denied));
        }
        let refusal = check_methods(&who, &rpc, br#"{"method":"rm\u001b[2J"}"#).unwrap_err().message;
        assert!(refusal.contains("edge-7/rpc:vm.*") && !refusal.contains('\u{1b}'), "{refusal}");
    }

    #[test]
    fn a_node_is_seen_by_those_it_concerns() {
        let node: NodeId = "edge-7".parse().unwrap();
        for (rights, method, expected) in [
            (&[][..], "explorer.nodes", false),
            (&["edge-*/rpc:vm.*"], "explorer.nodes", true),
            (&["dial:edge-7"], "explorer.nodes", true),
            (&["mac/rpc"], "explorer.nodes", false),
            (&["@explorer/api"], "explorer.nodes", true),
            (&["@explorer/api:explorer.nodes"], "explorer.nodes", true),
            (&["@explorer/api:explorer.nodes"], "explorer.watch", false),
        ] {
            assert_eq!(
                sees(&principal(Role::Client, rights), method, &node),
                expected,
                "{rights:?} {method}"
            );
        }
    }
}
