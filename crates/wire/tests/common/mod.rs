//! Everything that can be said on the wire, as strategies; and byte streams cut into arbitrary pieces.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};
use reachback_wire::{
    Bye, Caller, Challenge, Code, ControlMessage, Credential, EndReport, EndStatus, Ends, Enrolled,
    Generation, GrantInfo, Health, HealthState, Heartbeat, HeartbeatAck, Hello, Hex, Instance, Mac, NodeId,
    Nonce, Open, OpenKind, Opened, Proof, ProtocolRange, Refusal, Renew, Renewed, Replaced, Role, Secret,
    ServiceHealth, ServiceInfo, ServiceName, Services, SessionId, SessionLimits, Target, Welcome,
};
use serde_json::{Value, json};

/// `bytes` in the pieces that `cuts` makes of it: each cut is the length of the next piece, used in turn.
pub(crate) fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut pieces = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let n = cuts.next().map_or(rest.len(), |n| (*n).clamp(1, rest.len()));
        pieces.push(rest.split_to(n));
    }
    pieces
}

/// Lengths of pieces: from single bytes to everything at once.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![3 => 1..12_usize, 2 => 1..700_usize, 1 => 1..70_000_usize], 0..8)
}

/// Text as peers choose it: line breaks, escapes, other scripts, nothing at all.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,40}",
        "\\PC{0,20}",
        select(vec!["", "\0", "a\r\nb", "\u{1b}[31m", "\u{202e}", "\"\\", "…"]).prop_map(str::to_owned),
    ]
}

pub(crate) fn code() -> impl Strategy<Value = Code> {
    select(Code::ALL)
}

pub(crate) fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Node, Role::Client, Role::Explorer])
}

pub(crate) fn node_id() -> impl Strategy<Value = NodeId> {
    "[a-z0-9]([a-z0-9._]{0,20}[a-z0-9])?"
        .prop_map(|id| id.parse::<NodeId>())
        .prop_filter_map("reserved", Result::ok)
}

pub(crate) fn service_name() -> impl Strategy<Value = ServiceName> {
    "[a-z0-9]([a-z0-9_]{0,20}[a-z0-9])?"
        .prop_map(|name| name.parse::<ServiceName>())
        .prop_filter_map("reserved", Result::ok)
}

pub(crate) fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (node_id(), service_name()).prop_map(|(node, service)| Target::Service { node, service }),
        (node_id(), select(vec!["db.local", "10.0.0.5", "::1"]), 1..=u16::MAX)
            .prop_map(|(node, host, port)| Target::Dial { node, host: host.into(), port }),
        service_name().prop_map(|service| Target::Explorer { service }),
    ]
}

pub(crate) fn instance() -> impl Strategy<Value = Instance> {
    any::<[u8; 16]>().prop_map(Instance::from_bytes)
}

pub(crate) fn session() -> impl Strategy<Value = SessionId> {
    any::<u64>().prop_map(SessionId)
}

pub(crate) fn generation() -> impl Strategy<Value = Generation> {
    (instance(), any::<u32>(), any::<u64>()).prop_map(|(instance, slot, seq)| Generation {
        instance,
        slot,
        seq,
    })
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        any::<u64>().prop_map(|n| json!({ "memory_mb": n, "flops": { "fp32": [n, null, true] } })),
        text().prop_map(|t| json!({ "model": t })),
    ]
}

/// Bytes as certificates are: of any length.
pub(crate) fn der() -> impl Strategy<Value = Hex> {
    vec(any::<u8>(), 0..80).prop_map(Hex)
}

pub(crate) fn credential() -> impl Strategy<Value = Credential> {
    prop_oneof![
        text().prop_map(|token| Credential::Token { token: Secret::new(token) }),
        Just(Credential::Secret { key: None }),
        (text(), der()).prop_map(|(token, csr)| Credential::Join { token: Secret::new(token), csr }),
        der().prop_map(|csr| Credential::Renew { csr }),
        Just(Credential::Unknown),
    ]
}

pub(crate) fn challenge() -> impl Strategy<Value = Challenge> {
    any::<([u8; 32], [u8; 32])>()
        .prop_map(|(nonce, proof)| Challenge { nonce: Nonce(nonce), proof: Mac(proof) })
}

pub(crate) fn proof() -> impl Strategy<Value = Proof> {
    any::<[u8; 32]>().prop_map(|proof| Proof { proof: Mac(proof) })
}

pub(crate) fn enrolled() -> impl Strategy<Value = Enrolled> {
    (vec(der(), 0..4), vec(der(), 0..3), text()).prop_map(|(chain, ca, name)| Enrolled { chain, ca, name })
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    let who = (role(), node_id(), generation(), text(), any::<[u8; 32]>());
    let what = (any::<(u32, u32)>(), vec(text(), 0..4), option::of(credential()), option::of(value()));
    (who, what).prop_map(|((role, id, generation, agent, nonce), ((a, b), features, credential, resume))| {
        Hello {
            role,
            id,
            generation,
            protocol: ProtocolRange { min: a.min(b), max: a.max(b) },
            agent,
            nonce: Nonce(nonce),
            features,
            credential,
            resume,
        }
    })
}

pub(crate) fn welcome() -> impl Strategy<Value = Welcome> {
    let times = (100..=60_000_u64, any::<u64>(), any::<u64>());
    let rest = (any::<u32>(), vec(text(), 0..4), vec(text(), 0..4), option::of(value()));
    (node_id(), session(), times, rest).prop_map(
        |(explorer, session, (heartbeat_ms, time_unix_ms, reconnect_window_ms), rest)| {
            let (max_substreams, features, siblings, resume) = rest;
            Welcome {
                explorer,
                session,
                heartbeat_ms,
                time_unix_ms,
                limits: SessionLimits { max_substreams },
                features,
                siblings,
                reconnect_window_ms,
                resume,
            }
        },
    )
}

pub(crate) fn refusal() -> impl Strategy<Value = Refusal> {
    (code(), text(), option::of(any::<u64>())).prop_map(|(code, message, wait)| {
        let mut refusal = Refusal::new(code, message);
        refusal.retry_after_ms = wait;
        refusal
    })
}

pub(crate) fn caller() -> impl Strategy<Value = Caller> {
    (role(), text(), option::of(text()), any::<bool>(), option::of(session()), option::of(text())).prop_map(
        |(role, id, name, granted, session, address)| Caller { role, id, name, granted, session, address },
    )
}

pub(crate) fn open() -> impl Strategy<Value = Open> {
    let kind = prop_oneof![
        Just((OpenKind::Control, None)),
        target().prop_map(|target| (OpenKind::Stream, Some(target))),
        target().prop_map(|target| (OpenKind::Call, Some(target))),
    ];
    let texts = (option::of(text()), option::of(text()));
    (kind, option::of(caller()), option::of(any::<u64>()), any::<u8>(), texts, option::of(instance()))
        .prop_map(|((kind, target), caller, deadline_ms, hop, (trace, compression), expect_instance)| Open {
            target,
            kind,
            caller,
            deadline_ms,
            hop,
            trace,
            compression,
            expect_instance,
        })
}

pub(crate) fn opened() -> impl Strategy<Value = Opened> {
    option::of(instance()).prop_map(|instance| Opened { instance })
}

pub(crate) fn health() -> impl Strategy<Value = HealthState> {
    prop_oneof![
        Just(HealthState::Ok),
        Just(HealthState::Unknown),
        text().prop_map(|reason| HealthState::Failing { reason }),
    ]
}

pub(crate) fn services() -> impl Strategy<Value = Services> {
    let service = (service_name(), option::of(text()), option::of(text()), health())
        .prop_map(|(name, framing, compression, health)| ServiceInfo { name, framing, compression, health });
    let labels =
        vec((text(), text()), 0..5).prop_map(|labels| labels.into_iter().collect::<BTreeMap<_, _>>());
    let to = select(vec!["ann", "node:edge-*", "*"]);
    let grant = (service_name(), to, any::<u64>()).prop_map(|(service, to, left_ms)| GrantInfo {
        service,
        to: to.parse().expect("a pattern"),
        left_ms,
    });
    let all = (labels, vec(service, 0..6), vec(grant, 0..3), option::of(value()));
    all.prop_map(|(labels, services, grants, capabilities)| Services {
        labels,
        services,
        grants,
        capabilities,
    })
}

pub(crate) fn control() -> impl Strategy<Value = ControlMessage> {
    let changed = (service_name(), health()).prop_map(|(name, health)| ServiceHealth { name, health });
    let end = (any::<u64>(), option::of(session()), code(), text())
        .prop_map(|(at_unix_ms, session, code, message)| EndReport { at_unix_ms, session, code, message });
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(seq, sent_ms)| ControlMessage::Heartbeat(Heartbeat { seq, sent_ms })),
        any::<u64>().prop_map(|seq| ControlMessage::HeartbeatAck(HeartbeatAck { seq })),
        services().prop_map(ControlMessage::Services),
        vec(changed, 0..5).prop_map(|services| ControlMessage::Health(Health { services })),
        text().prop_map(|message| ControlMessage::Replaced(Replaced { message })),
        der().prop_map(|csr| ControlMessage::Renew(Renew { csr })),
        (vec(der(), 0..4), vec(der(), 0..3))
            .prop_map(|(chain, ca)| ControlMessage::Renewed(Renewed { chain, ca })),
        refusal().prop_map(ControlMessage::NotRenewed),
        text().prop_map(|reason| ControlMessage::Bye(Bye { reason })),
        vec(end, 0..10).prop_map(|ends| ControlMessage::Ends(Ends { ends })),
    ]
}

pub(crate) fn end_status() -> impl Strategy<Value = EndStatus> {
    (code(), text()).prop_map(|(code, message)| EndStatus { code, message })
}
