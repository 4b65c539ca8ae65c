//! The caller: sessions of role client, calls, streams, forwarded ports.
