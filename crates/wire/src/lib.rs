//! What is said on the wire: frames, records, handshake, liveness; no I/O and no clock.
