//! `reachback token`: lines that let somebody in, made by the explorer and shown once.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::{
    args::{TokenArguments, TokenCommand, TokenCreateArguments, TokenListArguments, TokenRole, Uses},
    commands::api,
    environment::Environment,
    exit::Failure,
    limits,
    output::Output,
    table::Table,
    time,
};

/// Runs the command's command.
pub(crate) async fn run(
    arguments: TokenArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    match arguments.command {
        TokenCommand::Create(arguments) => create(arguments, environment, output).await,
        TokenCommand::List(arguments) => list(arguments, environment, output).await,
    }
}

/// What the explorer answers to `explorer.token_create`.
#[derive(Deserialize)]
struct Created {
    id: String,
    join: String,
    addresses: Vec<String>,
    address_is_guess: bool,
    expires_unix_ms: u64,
}

async fn create(
    arguments: TokenCreateArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let TokenCreateArguments { client, role, node, name, allow, ttl, uses, ephemeral, json } = arguments;
    let ttl = ttl.map_or(usual_life(role), |span| span.0);
    let mut params = json!({"role": role.name(), "ttl_ms": ttl.as_millis()});
    if let Some(node) = &node {
        params["node"] = json!(node.to_string());
    }
    if let Some(name) = &name {
        params["name"] = json!(name);
    }
    if !allow.is_empty() {
        params["allow"] = json!(allow.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    match uses {
        Some(Uses::Times(times)) => params["uses"] = json!(times),
        Some(Uses::Unlimited) => params["uses"] = json!(null),
        None if role == TokenRole::Register => params["uses"] = json!(1),
        // People log in once.
        None => {}
    }
    if ephemeral {
        params["ephemeral"] = json!(true);
    }
    let answer = api::ask(client, environment, "explorer.token_create", params).await?;
    if json {
        return output.result(format_args!("{answer:#}"));
    }
    let made: Created = api::read(answer)?;
    output.result(page(role, node.as_ref().map(ToString::to_string).as_deref(), uses, &made))
}

/// A node is being set up right now; a person reads the line when there is time.
fn usual_life(role: TokenRole) -> Duration {
    match role {
        TokenRole::Register => limits::REGISTER_TOKEN,
        TokenRole::User | TokenRole::Admin => limits::LOGIN_TOKEN,
    }
}

fn page(role: TokenRole, node: Option<&str>, uses: Option<Uses>, made: &Created) -> String {
    let times = match (role, uses) {
        (TokenRole::Register, None | Some(Uses::Times(1))) => "one node".to_owned(),
        (TokenRole::Register, Some(Uses::Times(times))) => format!("{times} nodes"),
        (TokenRole::Register, Some(Uses::Unlimited)) => "any number of nodes".to_owned(),
        (TokenRole::User | TokenRole::Admin, _) => "one login".to_owned(),
    };
    let line = match (role, node) {
        // A pattern is no name: the node says its own.
        (TokenRole::Register, Some(id)) if !id.contains('*') => {
            format!("reachback node --join {} --id {id}", made.join)
        }
        (TokenRole::Register, _) => format!("reachback node --join {}", made.join),
        _ => format!("reachback login {}", made.join),
    };
    let mut lines = vec![
        line,
        String::new(),
        format!(
            "valid until {}, {times}; token {}; leads to {}",
            time::minute(made.expires_unix_ms),
            made.id,
            made.addresses.join(", ")
        ),
    ];
    if made.address_is_guess {
        lines.push(GUESS.to_owned());
    }
    lines.join("\n")
}

/// What is said of an address that nobody has configured.
pub(crate) const GUESS: &str =
    "that address is a guess; if it is wrong, start the explorer with --advertise HOST:PORT";

/// What the explorer says about one token.
#[derive(Deserialize)]
struct Token {
    id: String,
    role: String,
    name: Option<String>,
    node: Option<String>,
    #[serde(default)]
    allow: Vec<String>,
    uses_left: Option<u64>,
    #[serde(default)]
    ephemeral: bool,
    expires_unix_ms: u64,
    state: String,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<Token>,
}

async fn list(
    arguments: TokenListArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let answer = api::ask(arguments.client, environment, "explorer.token_list", json!({})).await?;
    if arguments.json {
        return output.result(format_args!("{answer:#}"));
    }
    let Tokens { tokens } = api::read(answer)?;
    if tokens.is_empty() {
        return output.result("no tokens; make one: reachback token create --role register --node edge-7");
    }
    output.result(table(&tokens))
}

fn table(tokens: &[Token]) -> String {
    let mut table = Table::new(["TOKEN", "ROLE", "FOR", "STATE", "USES", "UNTIL"], 2);
    for token in tokens {
        let mut notes = Vec::new();
        if !token.allow.is_empty() {
            notes.push(format!("may: {}", token.allow.join(", ")));
        }
        let whom = token.node.as_deref().or(token.name.as_deref()).unwrap_or("-");
        let ephemeral = if token.ephemeral { " (ephemeral)" } else { "" };
        table.row(
            [
                token.id.clone(),
                token.role.clone(),
                format!("{whom}{ephemeral}"),
                token.state.clone(),
                token.uses_left.map_or("any".to_owned(), |left| left.to_string()),
                time::minute(token.expires_unix_ms),
            ],
            notes,
        );
    }
    table.render()
}
