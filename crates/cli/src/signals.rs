//! Signals: the first SIGINT or SIGTERM asks for an orderly end, the second gets an immediate one. SIGHUP asks a
//! program that stays to look again, or to end if it comes because its terminal has gone.
//!
//! Daemons know SIGHUP as a request, people know it as what happens to their programs when they close the window. Both
//! hold: a terminal that was there at the start and is none any more has been closed.

use std::{
    future::Future,
    io::{self, IsTerminal},
    pin::pin,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    exit::{Exit, Failure},
    limits::ORDERLY_END,
};

/// The signals, caught from the moment this exists.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    terminals: [bool; 3],
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end; with the exit code that the signal stands for if it has to end the process at once.
    End(u8),
    /// SIGHUP to a program whose terminal is still there, or that never had one.
    Hangup,
}

impl Signals {
    /// Catches the signals. Inside a runtime only.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Self::streams()
            .map_err(|error| Failure::new(Exit::Failed, format_args!("can't catch signals: {error}")))
    }

    fn streams() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            terminals: terminals(),
        })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End(130),
            _ = self.terminate.recv() => Asked::End(143),
            _ = self.hangup.recv() => match self.terminal_has_gone() {
                true => Asked::End(129),
                false => Asked::Hangup,
            },
        }
    }

    /// Goes on until the process is asked to end, which is fine, or until `broken` says why it can't go on. `hangup` is
    /// done at each SIGHUP.
    pub(crate) async fn serve(
        &mut self,
        hangup: impl AsyncFn(),
        broken: impl Future<Output = Failure>,
    ) -> Result<(), Failure> {
        let mut broken = pin!(broken);
        loop {
            tokio::select! {
                asked = self.next() => match asked {
                    Asked::End(_) => return Ok(()),
                    Asked::Hangup => hangup().await,
                },
                failure = &mut broken => return Err(failure),
            }
        }
    }

    /// Runs an orderly end that a further signal, or its time limit, cuts short.
    pub(crate) async fn orderly(&mut self, end: impl Future<Output = ()>) -> Result<(), Failure> {
        tokio::select! {
            () = end => Ok(()),
            code = self.second() => Err(Failure::new(Exit::Signal(code), "ended at once by a second signal")),
            () = tokio::time::sleep(ORDERLY_END) => Err(Failure::new(
                Exit::Failed,
                format_args!("the orderly end took longer than {} s and was cut short", ORDERLY_END.as_secs()),
            )),
        }
    }

    /// A closing window sends SIGHUP more than once; only who insists with the others is in a hurry.
    async fn second(&mut self) -> u8 {
        loop {
            if let Asked::End(code @ (130 | 143)) = self.next().await {
                return code;
            }
        }
    }

    fn terminal_has_gone(&self) -> bool {
        self.terminals.iter().zip(terminals()).any(|(before, now)| *before && !now)
    }
}

/// Which of stdin, stdout and stderr are terminals. One that has been closed is none.
fn terminals() -> [bool; 3] {
    [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()]
}
