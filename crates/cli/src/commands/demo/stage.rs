//! How the demo tells its story: numbered steps, a check mark for each thing that was seen to happen.

use std::{fmt::Display, future::Future};

use tokio::time::Instant;

use crate::{
    exit::{Exit, Failure},
    limits::{DEMO_LOOK, DEMO_STEP},
    output::Output,
    table::{WIDTH, wrap},
};

/// Columns left of what is told within a step.
const MARGIN: usize = 5;

/// Prints the story.
pub(super) struct Stage {
    output: Output,
    steps: usize,
}

impl Stage {
    /// Before the first step.
    pub(super) fn new(output: Output) -> Self {
        Self { output, steps: 0 }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) -> Result<(), Failure> {
        self.steps += 1;
        self.output.result(format_args!("\n{}  {title}", self.steps))
    }

    /// Something was seen to happen.
    pub(super) fn seen(&self, what: impl Display) -> Result<(), Failure> {
        let lines = wrap(&what.to_string(), WIDTH - MARGIN);
        self.output.result(format_args!("   \u{2713} {}", lines.join("\n     ")))
    }

    /// Lines as they are, set in.
    pub(super) fn show(&self, text: &str) -> Result<(), Failure> {
        let lines: Vec<String> =
            text.lines().map(|line| format!("     {line}").trim_end().to_owned()).collect();
        self.output.result(lines.join("\n"))
    }

    /// A failure of the step that is under way.
    pub(super) fn failed(&self, why: impl Display) -> Failure {
        Failure::new(Exit::Failed, format_args!("step {} of the demo failed: {why}", self.steps))
    }

    /// Waits for something to happen, within the time of a step.
    pub(super) async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::time::timeout(DEMO_STEP, work)
            .await
            .map_err(|_| self.failed(format_args!("{what}: not within {} s", DEMO_STEP.as_secs())))
    }

    /// Looks again and again until `look` finds what it looks for; else fails with what it saw last.
    pub(super) async fn until<T, F>(&self, what: &str, mut look: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, String>>,
    {
        let deadline = Instant::now() + DEMO_STEP;
        loop {
            match look().await {
                Ok(found) => return Ok(found),
                Err(seen) if Instant::now() >= deadline => {
                    return Err(self.failed(format_args!(
                        "{what}: not within {} s; last seen: {seen}",
                        DEMO_STEP.as_secs()
                    )));
                }
                Err(_) => tokio::time::sleep(DEMO_LOOK).await,
            }
        }
    }
}
