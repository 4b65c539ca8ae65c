//! A truncated file that looks complete is the worst thing a tunnel can do. The mux can't tell a finish from a drop
//! from a dead line once one side has ended its own direction, so every kind of end is tried here in both situations.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{pin::pin, task::Poll, time::Duration};

use common::{
    End, Settings, across, empty, end, open, pair, pattern,
    raw::{ACK, DATA, RawPeer, data, header},
    read_all, received, soon, tcp_pair,
};
use futures::{future::poll_fn, poll};
use reachback_link::{Side, StreamEnd, Substream, Transport};
use reachback_wire::{Code, RecordKind, record_header_of};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Finish,
    Reset,
    Drop,
    Lost,
}

const ENDINGS: [Ending; 4] = [Ending::Finish, Ending::Reset, Ending::Drop, Ending::Lost];
