//! One file per command: checked arguments in, libraries called, what happened told.

mod client;
mod connect;
mod demo;
mod explorer;
mod forward;
mod line;
mod node;
mod nodes;

use crate::{args::Command, environment::Environment, exit::Failure, output::Output};

/// Runs one command to its end.
pub(crate) async fn run(command: Command, environment: &Environment, output: Output) -> Result<(), Failure> {
    match command {
        Command::Explorer(arguments) => explorer::run(arguments, environment, output).await,
        Command::Node(arguments) => node::run(arguments, environment, output).await,
        Command::Nodes(arguments) => nodes::run(arguments, environment, output).await,
        Command::Connect(arguments) => connect::run(arguments, environment).await,
        Command::Forward(arguments) => forward::run(arguments, environment, output).await,
        Command::Demo(arguments) => demo::run(arguments, output).await,
    }
}
