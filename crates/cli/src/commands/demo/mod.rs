//! `reachback demo`: the whole product in one process, on loopback, with nothing to set up.
//!
//! It is a demonstration and a self-test at once: every check mark is something that was seen to happen, and `--once`
//! turns the first thing that was not into exit code 1. Free ports, a temporary directory, nothing left at the end.

mod cutter;
mod services;
mod stage;
mod story;
mod world;

use crate::{
    args::DemoArguments,
    exit::{Exit, Failure},
    output::Output,
    signals::Signals,
};

use self::{stage::Stage, world::World};

/// Tells the story; then stays up until a signal, or ends with `--once`.
pub(crate) async fn run(arguments: DemoArguments, output: Output) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    output.result(concat!(
        "reachback ",
        env!("CARGO_PKG_VERSION"),
        " demo: an explorer and three nodes, in this process, on loopback"
    ))?;
    let (mut world, scene) = tokio::select! {
        _ = signals.next() => return Ok(()),
        built = World::build() => built?,
    };
    let mut stage = Stage::new(output);
    let result = tokio::select! {
        _ = signals.next() => Ok(()),
        reason = world.failed() => Err(Failure::new(Exit::Failed, format_args!("the demo broke: {reason}"))),
        told = async {
            story::tell(&mut stage, &scene).await?;
            if !arguments.once {
                output.result(story::to_try(&scene)?)?;
                std::future::pending::<()>().await;
            }
            output.result("\nAll steps worked.")
        } => told,
    };
    // What the story still holds of the world goes first.
    drop(scene);
    signals.orderly(world.end()).await?;
    result
}
