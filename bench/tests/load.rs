//! The load generator with nothing between its two ends: what it counts is what was moved.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use reachback_bench::{
    load::{
        backend::Backend,
        bulk::{Bulk, Direction},
        calls,
        figures::now,
        small::{Echo, Idle, stalled_readers, visits_at_once, visits_in_turn},
    },
    peers::Side,
};

const MOMENT: Duration = Duration::from_millis(20);

fn service() -> Backend {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Backend::start(Path::new(env!("CARGO_BIN_EXE_bench")), &Side::loopback(), anywhere).unwrap()
}

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn round_trips_and_visits_are_counted() {
    let service = service();
    let mut echo = Echo::connect(service.address()).unwrap();
    assert!(!echo.round_trips(MOMENT).unwrap().is_empty());
    let visits = visits_in_turn(service.address(), MOMENT);
    assert!(!visits.samples.is_empty() && visits.failed == 0, "{visits:?}");
    let visits = visits_at_once(service.address(), MOMENT, 5).unwrap();
    assert!(visits.samples.len() >= 5 && visits.failed == 0, "{visits:?}");
}

#[test]
fn visits_to_nobody_are_failures_and_not_samples() {
    let visits = visits_in_turn(nowhere(), MOMENT);
    assert!(visits.samples.is_empty() && visits.failed > 0, "{visits:?}");
    let visits = visits_at_once(nowhere(), MOMENT, 2).unwrap();
    assert!(visits.samples.is_empty() && visits.failed > 0, "{visits:?}");
    assert!(Bulk::start(nowhere(), Direction::Up, 1).is_err());
}

#[test]
fn bulk_is_counted_per_stream_where_it_arrives() {
    let mut service = service();
    for direction in Direction::BOTH {
        let bulk = Bulk::start(service.address(), direction, 3).unwrap();
        eventually(|| Ok(bulk.delivered(&mut service)?.iter().all(|bytes| *bytes > 1 << 20)));
        assert_eq!(bulk.delivered(&mut service).unwrap().len(), 3);
        assert_eq!(bulk.broken(), 0);
    }
}

#[test]
fn streams_that_end_by_themselves_are_broken() {
    for direction in Direction::BOTH {
        let service = service();
        let bulk = Bulk::start(service.address(), direction, 3).unwrap();
        drop(service);
        eventually(|| Ok(bulk.broken() == 3));
    }
}

#[test]
fn idle_connections_grow_and_stalled_readers_hold_nobody_up() {
    let service = service();
    let mut idle = Idle::default();
    for total in [10, 25] {
        idle.grow_to(service.address(), total).unwrap();
        assert_eq!((idle.open(), idle.failed), (total, 0));
    }
    let stalled = stalled_readers(service.address(), 2).unwrap();
    assert_eq!(stalled.len(), 2);
    Echo::connect(service.address()).unwrap();
}

#[test]
fn calls_are_answered_by_the_service_itself() {
    let service = service();
    let visits = calls::posts(service.address(), "/rpc", "any", 3, MOMENT).unwrap();
    assert!(visits.samples.len() >= 3, "{visits:?}");
}

fn eventually(mut holds: impl FnMut() -> io::Result<bool>) {
    let begun = now();
    while !holds().unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it did not come about in 20 s");
        std::thread::yield_now();
    }
}
