//! How the process ends: one code per kind of failure, so that scripts decide without reading sentences.

use std::{fmt, process::ExitCode};

use reachback_wire::{Code, Refusal};

/// The exit codes, as `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A step failed, or the service itself answered with an error: 1.
    Failed,
    /// The command line or a variable is wrong: 64.
    Usage,
    /// A passing condition, such as a port that another process still holds: 75.
    TryAgain,
    /// Not allowed: 77.
    Denied,
    /// A configuration file, or a combination of settings, is refused: 78.
    Config,
    /// What the program that was run for the user ended with: ssh's own code.
    Passed(u8),
    /// Ended at once by a second signal: 130 for SIGINT, 143 for SIGTERM.
    Signal(u8),
    /// What the table of error codes says for a refusal by an explorer or a node.
    Coded(Code),
}

impl Exit {
    /// The number the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 64,
            Self::TryAgain => 75,
            Self::Denied => 77,
            Self::Config => 78,
            Self::Passed(number) | Self::Signal(number) => number,
            Self::Coded(code) => code.row().exit,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why a command did not do what it was asked: a sentence with its remedy, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The code the process ends with.
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its own exit code.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The command line or a variable is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A configuration is refused.
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self::new(Exit::Config, message)
    }

    /// Nothing is left to say: it was printed as a result, or by the program that was run.
    pub(crate) fn said(exit: Exit) -> Self {
        Self { exit, message: String::new() }
    }

    /// Whether the user has been told already.
    pub(crate) fn is_said(&self) -> bool {
        self.message.is_empty()
    }

    /// What ended a stream or a session, by its code. `message` does not repeat the code's name.
    pub(crate) fn coded(code: Code, message: impl fmt::Display) -> Self {
        Self::new(Exit::Coded(code), format_args!("{}: {message}", code.name()))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::coded(refusal.code, &refusal.message)
    }
}

impl fmt::Display for Failure {
    /// Refusals begin with the name of their code; what this program refuses by itself begins with "error".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Exit::Coded(_) => f.write_str(&self.message),
            _ => write!(f, "error: {}", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers() {
        for (exit, number) in [
            (Exit::Failed, 1),
            (Exit::Usage, 64),
            (Exit::TryAgain, 75),
            (Exit::Denied, 77),
            (Exit::Config, 78),
            (Exit::Signal(130), 130),
            (Exit::Passed(3), 3),
            (Exit::Coded(Code::NodeOffline), 69),
            (Exit::Coded(Code::Denied), 77),
            (Exit::Coded(Code::Saturated), 75),
            (Exit::Coded(Code::Timeout), 124),
        ] {
            assert_eq!(exit.number(), number, "{exit:?}");
        }
    }

    #[test]
    fn refusals_begin_with_their_code() {
        let failure = Failure::from(Refusal::new(Code::NodeOffline, "edge-7 is offline"));
        assert_eq!(failure.to_string(), "node_offline: edge-7 is offline");
        assert_eq!(Failure::usage("no target").to_string(), "error: no target");
    }
}
