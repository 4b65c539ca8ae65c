//! Connecting to a service: with its turn, under a deadline, and with a reason when it fails.

use std::{io, time::Duration};

use reachback_link::{Address, Net, Transport};
use reachback_wire::{Code, Refusal, ServiceName, limits};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
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
    let began = Instant::now();
    let _turn = gate.enter(deadline).await.map_err(|no_turn| {
        let so_many = match no_turn {
            NoTurn::Full => format!("{} more wait", limits::SERVICE_OPENS_WAITING),
            NoTurn::TooLate => format!("no turn came within {:?}", deadline - began),
        };
        let text = format!(
            "service {name} takes long to accept: {} opens dial it, {so_many}",
            limits::SERVICE_OPENS_IN_FLIGHT
        );
        Refusal::new(Code::Saturated, text).retry_after(reachback_wire::limits::SATURATED_RETRY)
    })?;
    let why = match timeout_at(deadline, connect(net, address)).await {
        Ok(Ok(transport)) => return Ok(transport),
        Ok(Err(error)) => explain(&error),
        Err(_) => format!("no answer within {:?}", deadline - began),
    };
    Err(Refusal::new(Code::ServiceUnreachable, format!("service {name} at {address}: {why}")))
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
