//! SIGINT and SIGTERM: the first asks for an orderly end, the second gets an immediate one.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    exit::{Exit, Failure},
    limits::ORDERLY_END,
};

/// Both signals, caught from the moment this exists.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches the signals. Inside a runtime only.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Self::streams()
            .map_err(|error| Failure::new(Exit::Failed, format_args!("can't catch signals: {error}")))
    }

    fn streams() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal, as the exit code it stands for if it has to end the process at once.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }

    /// Runs an orderly end that a further signal, or its time limit, cuts short.
    pub(crate) async fn orderly(&mut self, end: impl Future<Output = ()>) -> Result<(), Failure> {
        tokio::select! {
            () = end => Ok(()),
            code = self.next() => Err(Failure::new(Exit::Signal(code), "ended at once by a second signal")),
            () = tokio::time::sleep(ORDERLY_END) => Err(Failure::new(
                Exit::Failed,
                format_args!("the orderly end took longer than {} s and was cut short", ORDERLY_END.as_secs()),
            )),
        }
    }
}
