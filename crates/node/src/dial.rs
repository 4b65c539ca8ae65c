//! Connecting to a service, or to a host behind the node: with its turn, under a deadline, and with a reason when it
//! fails.

use std::{io, net::SocketAddr, time::Duration};

use reachback_link::{Address, Net, Transport};
use reachback_wire::{Code, Refusal, ServiceName, limits};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    allow::{AllowDial, allows_port, objection},
    gate::{Gate, NoTurn},
    limits::FULL_QUEUE_PAUSE,
};

/// Connects to `address` when the gate gives a turn.
///
/// # Errors
/// `saturated` when too many wait already, `service_unreachable` with the reason otherwise. Nothing has reached the
/// service then.
pub(crate) async fn dial(
    net: &dyn Net,
    name: &ServiceName,
    address: &Address,
    gate: &Gate,
    deadline: Instant,
) -> Result<Transport, Refusal> {
    let what = format!("service {name}");
    let _turn = turn(&what, gate, deadline).await?;
    reach(net, &what, address, deadline).await
}

/// Connects to a host behind the node, if the rules allow every address it has.
///
/// # Errors
/// `denied` with what is allowed, `saturated` and `service_unreachable` as for a service.
pub(crate) async fn dial_host(
    net: &dyn Net,
    rules: &[AllowDial],
    (host, port): (&str, u16),
    gate: &Gate,
    deadline: Instant,
) -> Result<Transport, Refusal> {
    let denied = |why: String| {
        let allowed: Vec<_> = rules.iter().map(ToString::to_string).collect();
        let allowed = allowed.join(", ");
        Refusal::new(Code::Denied, format!("{why}; this node allows: {allowed} (--allow-dial)"))
    };
    // Nobody learns here what a name means who could not go there anyway.
    if !allows_port(rules, port) {
        return Err(denied(format!("port {port} of {host} is not allowed")));
    }
    let what = format!("{host} port {port}");
    let _turn = turn("hosts behind the node", gate, deadline).await?;
    let unreachable = |why: String| Refusal::new(Code::ServiceUnreachable, format!("{what}: {why}"));
    let addresses: Vec<SocketAddr> = match timeout_at(deadline, net.resolve(host, port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(unreachable(format!("its name can't be looked up here: {error}"))),
        Err(_) => return Err(unreachable("looking its name up took too long".into())),
    };
    for address in &addresses {
        if let Some(why) = objection(rules, address.ip(), port) {
            return Err(denied(if host == address.ip().to_string() {
                why
            } else {
                format!("{host}: {why}")
            }));
        }
    }
    let mut refusal = unreachable("the name has no address".into());
    for (left, address) in (1..=addresses.len()).rev().zip(&addresses) {
        let address = Address::Tcp { host: address.ip().to_string(), port };
        // Each has its share of the time, so that one that is silent leaves some to the others.
        let share =
            deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match reach(net, &what, &address, Instant::now() + share).await {
            Ok(transport) => return Ok(transport),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

async fn turn<'a>(what: &str, gate: &'a Gate, deadline: Instant) -> Result<SemaphorePermit<'a>, Refusal> {
    let began = Instant::now();
    gate.enter(deadline).await.map_err(|no_turn| {
        let so_many = match no_turn {
            NoTurn::Full(waiting) => format!("{waiting} more wait"),
            NoTurn::TooLate => format!("no turn came within {:?}", deadline - began),
        };
        let text = format!(
            "{what} takes long to accept: {} opens dial it, {so_many}",
            limits::SERVICE_OPENS_IN_FLIGHT
        );
        Refusal::new(Code::Saturated, text).retry_after(limits::SATURATED_RETRY)
    })
}

/// Connects, and says why not.
///
/// # Errors
/// `service_unreachable`.
pub(crate) async fn reach(
    net: &dyn Net,
    what: &str,
    address: &Address,
    deadline: Instant,
) -> Result<Transport, Refusal> {
    let began = Instant::now();
    let why = match timeout_at(deadline, connect(net, address)).await {
        Ok(Ok(transport)) => return Ok(transport),
        Ok(Err(error)) => explain(&error),
        Err(_) => format!("no answer within {:?}", deadline - began),
    };
    Err(Refusal::new(Code::ServiceUnreachable, format!("{what} at {address}: {why}")))
}

/// A Unix socket whose accept queue is full says so instead of making the caller wait as TCP does.
async fn connect(net: &dyn Net, address: &Address) -> io::Result<Transport> {
    let mut pause = Duration::from_millis(1);
    loop {
        match net.connect(address).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause = (pause * 2).min(FULL_QUEUE_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// The kernel's words, and what they usually mean here.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused (is the service running?)".into(),
        io::ErrorKind::NotFound => format!("{error} (is the service running, and is the address right?)"),
        io::ErrorKind::PermissionDenied => format!("{error} (may the user who runs the node connect to it?)"),
        _ => error.to_string(),
    }
}
