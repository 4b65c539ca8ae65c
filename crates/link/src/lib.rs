//! One multiplexed connection to one peer.
