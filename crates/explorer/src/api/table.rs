//! Every method that the explorer can be asked for, with what it takes and gives.
//!
//! The table is what `rpc.discover` shows and what an unknown method is compared with, so a method that is not in it
//! does not exist.

/// The method whose answer is a stream.
pub(super) const WATCH: &str = "explorer.watch";
pub(super) const HEARTBEAT: &str = "explorer.heartbeat";

/// One method, as `rpc.discover` shows it.
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) params: &'static [Param],
    pub(super) result: &'static str,
}

/// One parameter.
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

const fn required(name: &'static str, kind: &'static str, about: &'static str) -> Param {
    Param { name, kind, required: true, about }
}

const fn optional(name: &'static str, kind: &'static str, about: &'static str) -> Param {
    Param { name, kind, required: false, about }
}

/// Every method, in the order of the documentation.
pub(super) const METHODS: &[Method] = &[
    Method {
        name: "explorer.nodes",
        summary: "Every node the explorer knows, in the order of names.",
        params: &[optional("labels", "object", "Only nodes that have all of these labels.")],
        result: "{explorer, nodes}",
    },
    Method {
        name: "explorer.node",
        summary: "One node: state, services, sessions and how the last of them ended.",
        params: &[required("id", "string", "Its name.")],
        result: "one element of explorer.nodes",
    },
    Method {
        name: "explorer.status",
        summary: "The explorer itself: version, uptime, listeners, nodes by state, counters, memory, rates.",
        params: &[],
        result: "{explorer, version, uptime_s, ready, nodes, streams, listeners, counters, sessions, memory, rate_limit?}",
    },
    Method {
        name: "explorer.call",
        summary: "Calls a method of a service and gives its result; an error of the service comes back unchanged.",
        params: &[
            required("target", "string", "NODE/SERVICE"),
            required("method", "string", "The service's method."),
            optional("params", "any", "Its parameters."),
            optional("timeout_ms", "integer", "30000 if absent."),
            optional("headers", "object", "Headers for a service that takes HTTP."),
        ],
        result: "whatever the service answers",
    },
    Method {
        name: "explorer.kick",
        summary: "Ends every session of a node; with for_ms it may not come back before.",
        params: &[
            required("id", "string", "The node."),
            optional("for_ms", "integer", "How long its name stays locked; at most a day."),
        ],
        result: "{id, sessions, for_ms}",
    },
    Method {
        name: "explorer.forget",
        summary: "Forgets a node that is offline.",
        params: &[required("id", "string", "The node.")],
        result: "{id, forgotten}",
    },
    Method {
        name: "explorer.release",
        summary: "Lets another key take the id of a node, and ends its sessions.",
        params: &[required("id", "string", "The node.")],
        result: "{id, released, sessions}",
    },
    Method {
        name: "explorer.token_create",
        summary: "Makes a token for nodes that may join, for a user or for an admin, as a join string.",
        params: &[
            required("role", "string", "register, user or admin"),
            optional("name", "string", "Whom it is for: the user's name."),
            optional("node", "string", "Which nodes may join with it, as in edge-*."),
            optional("allow", "array", "Rights, as in edge-*/rpc."),
            required("ttl_ms", "integer", "How long it is valid."),
            optional("uses", "integer", "How many nodes may join with it; null: any number. 1 if absent."),
            optional("ephemeral", "boolean", "For containers: their ids are forgotten soon after they end."),
        ],
        result: "{id, role, name, join, addresses, address_is_guess, expires_unix_ms}",
    },
    Method {
        name: "explorer.token_list",
        summary: "Every token that was made here, without what makes it work.",
        params: &[],
        result: "{tokens}",
    },
    Method {
        name: "explorer.revoke",
        summary: "Withdraws a credential for good: a node's, a user's, or a token by its id. Sessions end at once.",
        params: &[required(
            "what",
            "string",
            "NODE, USER or TOKEN; node:NAME or user:NAME where both exist.",
        )],
        result: "{kind, name, sessions}",
    },
    Method {
        name: "explorer.audit",
        summary: "Who did what, and what came of it: the last records of the audit.",
        params: &[optional("last", "integer", "At most this many, 100 if absent.")],
        result: "{records}",
    },
    Method {
        name: "explorer.backup",
        summary: "Writes everything that this explorer would have to be restored from into a new file.",
        params: &[required("path", "string", "An absolute path on the explorer's machine.")],
        result: "{path, bytes}",
    },
    Method {
        name: "explorer.ca_rotate",
        summary: "Exchanges the authority: begin makes a new one and trusts both, finish drops the old one.",
        params: &[
            required("step", "string", "begin or finish"),
            optional("force", "boolean", "finish although some would have to join again."),
        ],
        result: "{cas, message}",
    },
    Method {
        name: HEARTBEAT,
        summary: "A node without a session of its own says where it can be dialled, and that it lives.",
        params: &[
            required("node_id", "string", "Its name."),
            optional("address", "string", "unix:///path, /path, tcp://HOST:PORT, or tunnel."),
            optional("socket_path", "string", "The old name of address."),
        ],
        result: "{ok, explorer, node_id, offline_after_ms}",
    },
    Method {
        name: WATCH,
        summary: "Streams the state of all nodes (or one) first, then every change: one JSON text each.",
        params: &[optional("node", "string", "Only this node.")],
        result: "a stream: first {explorer, nodes}, then elements of explorer.nodes as they change",
    },
    Method {
        name: "explorer.events",
        summary: "The last changes of state, oldest first.",
        params: &[optional("limit", "integer", "At most this many, the latest ones.")],
        result: "{events}",
    },
    Method {
        name: "rpc.discover",
        summary: "This description, as an OpenRPC document.",
        params: &[],
        result: "an OpenRPC document",
    },
];
