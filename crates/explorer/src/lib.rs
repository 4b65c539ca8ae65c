//! The hub: accepts connections, keeps the registry of nodes, routes and proxies.
