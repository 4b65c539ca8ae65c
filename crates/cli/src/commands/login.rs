//! `reachback login`: exchanges a line from an admin for a certificate, and remembers the explorer as a profile.

use std::io::{self, Read};

use reachback_client::{LoginError, Random, login};
use reachback_wire::join::JoinString;

use crate::{
    args::LoginArguments,
    commands::client,
    config::{origin::Origins, proxy},
    environment::Environment,
    exit::{Exit, Failure},
    limits,
    output::Output,
    time,
};

/// Logs in.
pub(crate) async fn run(
    arguments: LoginArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let LoginArguments { line, profile, proxy } = arguments;
    let typed = match line.0.as_str() {
        "-" => from_stdin()?,
        _ => line.0,
    };
    let line: JoinString = typed.trim().parse().map_err(Failure::usage)?;
    let profiles = client::profiles(environment)?;
    let proxy = proxy::resolve(proxy.proxy, environment, None, &mut Origins::default())?;
    let net = proxy::net(proxy);
    let profile = login(net, line, client::own_id()?, Random::system(), &profiles, profile.as_deref())
        .await
        .map_err(not_logged_in)?;
    let at: Vec<String> = profile.explorers().iter().map(ToString::to_string).collect();
    output.unless_quiet(format_args!(
        "logged in as {} at {} (profile {}), certificate until {}; now: reachback nodes",
        profile.user(),
        at.join(", "),
        profile.name(),
        time::day(profile.not_after_unix_ms())
    ))
}

fn not_logged_in(error: LoginError) -> Failure {
    match &error {
        LoginError::Connect(refused) => Failure::coded(refused.code(), &error),
        LoginError::Profile(_) => Failure::config(error),
        LoginError::Random(_) => Failure::new(Exit::Failed, error),
    }
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let most = limits::SECRET_FILE as u64;
    io::stdin()
        .lock()
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format_args!("stdin: {error}")))?;
    Ok(text)
}
