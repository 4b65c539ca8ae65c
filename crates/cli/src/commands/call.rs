//! `reachback call`: one method of a service, on one node or on all that are meant, from a shell.

use std::io::{self, IsTerminal, Read};

use futures::StreamExt;
use reachback_client::{Answer, Call, CallError, Client, Selector, fan_out, resolve};
use reachback_wire::{Target, limits::CALL_BODY_MAX};
use serde_json::Value;

use crate::{
    args::CallArguments,
    commands::{api, client},
    config::duration::Span,
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
};

/// Calls, prints, and ends with what came of it.
pub(crate) async fn run(
    arguments: CallArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let params = params(arguments.params.as_deref())?;
    let target = match arguments.target.one() {
        Some(target) => target.clone(),
        // Stands there until the fan-out puts in each of them.
        None if arguments.all => api::target()?,
        None => {
            return Err(Failure::usage(format_args!(
                "{} means several nodes; add --all to call each of them, or name one: NODE/SERVICE",
                arguments.target
            )));
        }
    };
    let mut call = Call::new(target, arguments.method, params, arguments.timeout.0);
    for (name, value) in arguments.header {
        call = call.header(name, value);
    }
    if let Some(Span(wait)) = arguments.wait {
        call = call.waiting(wait);
    }
    let way = client::explorer(arguments.client, environment)?.compressed(&arguments.compress);
    let session = client::connect(&way).await?;
    let outcome = match (arguments.all, arguments.notify) {
        (true, _) => all(&session, &arguments.target, &call, output).await,
        (false, true) => {
            let target = call.target().clone();
            let sent = session.result(&call.notification()).await;
            sent.map(drop).map_err(|error| refused(&target, error, output))
        }
        (false, false) => one(&session, &call, output).await,
    };
    session.close().await;
    outcome
}

async fn one(session: &Client, call: &Call, output: Output) -> Result<(), Failure> {
    let refused = |error| refused(call.target(), error, output);
    let mut answers = session.send(call).await.map_err(refused)?;
    while let Some(answer) = answers.next().await {
        match answer.map_err(refused)? {
            Answer::Item(item) => output.result(item)?,
            Answer::Result(result) => output.result(shown(&result))?,
        }
    }
    Ok(())
}

/// Each answer with its node, as it comes; fails if one of them did.
async fn all(session: &Client, selector: &Selector, call: &Call, output: Output) -> Result<(), Failure> {
    let targets = resolve(session.session(), selector, call.limit()).await.map_err(client::not_called)?;
    let mut answers = std::pin::pin!(fan_out(session.session(), targets, call));
    let mut failed = false;
    while let Some((target, outcome)) = answers.next().await {
        let who = target.node().map_or_else(|| target.to_string(), ToString::to_string);
        match outcome {
            Ok(result) => output.result(format_args!("{who}  {result}"))?,
            Err(error) => {
                failed = true;
                output.result(format_args!("{who}  {}", client::not_called(error)))?;
            }
        }
    }
    if failed { Err(Failure::said(Exit::Failed)) } else { Ok(()) }
}

/// What a service sent along with its error goes to stdout, where programs read. The explorer's own refusals are those
/// of every other command, with their codes.
fn refused(target: &Target, error: CallError, output: Output) -> Failure {
    if let (None, CallError::Service { code, message, .. }) = (target.node(), &error)
        && let Some(refusal) = api::own_refusal(*code, message)
    {
        return refusal;
    }
    if let CallError::Service { data: Some(data), .. } = &error
        && let Err(failure) = output.result(shown(data))
    {
        return failure;
    }
    client::not_called(error)
}

/// Indented for people, on one line for programs.
fn shown(value: &Value) -> String {
    if io::stdout().is_terminal() { format!("{value:#}") } else { value.to_string() }
}

fn params(given: Option<&str>) -> Result<Value, Failure> {
    let Some(given) = given else { return Ok(Value::Null) };
    let text = match given {
        "-" => {
            let mut text = String::new();
            let limit = CALL_BODY_MAX as u64 + 1;
            let read = io::stdin().lock().take(limit).read_to_string(&mut text);
            read.map_err(|error| {
                Failure::usage(format_args!("the parameters on stdin can't be read: {error}"))
            })?;
            text
        }
        typed => typed.to_owned(),
    };
    let hint = "write an object or an array, in single quotes: '{\"name\": \"a\"}'";
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format_args!("the parameters are no JSON ({error}); {hint}")))?;
    match value {
        Value::Object(_) | Value::Array(_) | Value::Null => Ok(value),
        _ => Err(Failure::usage(format_args!("the parameters are neither object nor array; {hint}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_objects_or_arrays() {
        assert_eq!(params(None).unwrap(), Value::Null);
        assert_eq!(params(Some("[1]")).unwrap(), serde_json::json!([1]));
        for (wrong, part) in [("{a: 1}", "no JSON"), ("", "no JSON"), ("7", "neither"), ("\"x\"", "neither")]
        {
            let failure = params(Some(wrong)).unwrap_err();
            assert!(failure.to_string().contains(part) && failure.exit.number() == 64, "{failure}");
        }
    }
}
