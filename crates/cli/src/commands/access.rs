//! `reachback revoke`, `release`, `audit`, `backup` and `ca rotate`: what an operator does to who may come in.

use std::path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    args::{
        AuditArguments, BackupArguments, CaArguments, CaCommand, ReleaseArguments, RevokeArguments,
        RotateStep,
    },
    commands::api,
    environment::Environment,
    exit::Failure,
    output::Output,
    table::Table,
};

/// Takes a node's, a token's or a user's rights away, now.
pub(crate) async fn revoke(
    arguments: RevokeArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let RevokeArguments { client, what } = arguments;
    let done = api::ask(client, environment, "explorer.revoke", json!({"what": what})).await?;
    output.unless_quiet(revoked(&done))
}

fn revoked(done: &Value) -> String {
    let kind = done["kind"].as_str().unwrap_or("?");
    let name = done["name"].as_str().unwrap_or("?");
    let back = match kind {
        "node" => format!("; to let it join again: reachback release {name}"),
        _ => String::new(),
    };
    format!("{kind} {name} is revoked: sessions and streams that it has end now{back}")
}

/// Lets another key have a node's name.
pub(crate) async fn release(
    arguments: ReleaseArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let ReleaseArguments { client, node } = arguments;
    api::ask(client, environment, "explorer.release", json!({"id": node})).await?;
    output.unless_quiet(format_args!(
        "{node} is released: the next key that joins under this name has it; make the line with: \
         reachback token create --role register --node {node}"
    ))
}

/// Copies what the explorer keeps into one file.
pub(crate) async fn backup(
    arguments: BackupArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let BackupArguments { client, file } = arguments;
    let path =
        path::absolute(&file).map_err(|error| Failure::usage(format_args!("{}: {error}", file.display())))?;
    let done = api::ask(client, environment, "explorer.backup", json!({"path": path})).await?;
    let size = done["bytes"].as_u64().map(|bytes| format!(" ({bytes} bytes)")).unwrap_or_default();
    output.unless_quiet(format_args!(
        "{}{size}: it holds the authority's key, so keep it as you keep that machine",
        path.display()
    ))
}

/// One step of replacing the certificate authority.
pub(crate) async fn ca(
    arguments: CaArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let CaCommand::Rotate(rotate) = arguments.command;
    let (step, said) = match rotate.step {
        RotateStep::Begin => (
            "begin",
            "a new authority is there, and both are trusted; when every node and user has renewed (at the latest \
             after 90 days), type: reachback ca rotate finish",
        ),
        RotateStep::Finish => (
            "finish",
            "only the new authority is trusted; who has not renewed since must join or log in again",
        ),
    };
    api::ask(rotate.client, environment, "explorer.ca_rotate", json!({"step": step, "force": rotate.force}))
        .await?;
    output.unless_quiet(said)
}

/// Shows the newest records of who did what.
pub(crate) async fn audit(
    arguments: AuditArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let AuditArguments { client, last, json } = arguments;
    let answer = api::ask(client, environment, "explorer.audit", json!({"last": last})).await?;
    if json {
        let records = answer["records"].as_array().cloned().unwrap_or_default();
        return records.iter().try_for_each(|record| output.result(record));
    }
    let Records { records } = api::read(answer)?;
    match records.is_empty() {
        true => output.result("no records yet"),
        false => output.result(page(records)),
    }
}

#[derive(Deserialize)]
struct Records {
    records: Vec<Record>,
}

/// One record, as the explorer has written it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    at: String,
    action: String,
    subject: String,
    by: String,
    from: String,
    outcome: String,
    detail: String,
    left_out: u64,
}

fn page(records: Vec<Record>) -> String {
    let mut table = Table::new(["TIME", "WHAT", "OUTCOME"], 1);
    for record in records {
        let Record { at, action, subject, by, from, outcome, detail, left_out } = record;
        let mut notes = Vec::new();
        let who = [("by", &by), ("from", &from)];
        let who: Vec<String> = who
            .into_iter()
            .filter(|(_, who)| !who.is_empty())
            .map(|(word, who)| format!("{word} {who}"))
            .collect();
        if !who.is_empty() {
            notes.push(who.join(" "));
        }
        notes.extend(Some(detail).filter(|detail| !detail.is_empty()));
        if left_out > 0 {
            notes.push(format!("{left_out} refusals before this one were too many to be written"));
        }
        table.row([seconds(&at), format!("{action}: {subject}"), outcome], notes);
    }
    table.render()
}

/// `2026-11-20T16:14:32.120Z` without what nobody reads.
fn seconds(at: &str) -> String {
    at.split('.').next().unwrap_or(at).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_people() {
        let refused = json!({"at": "2026-11-20T16:14:32.120Z", "action": "enrol", "subject": "edge-7",
            "from": "192.0.2.1:4000", "outcome": "id_taken", "detail": "edge-7 belongs to another key", "left_out": 3});
        let page = page(vec![serde_json::from_value(refused).unwrap()]);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[1], "2026-11-20 16:14:32  enrol: edge-7  id_taken");
        for part in ["from 192.0.2.1:4000", "edge-7 belongs to another key", "3 refusals"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn what_is_said_of_a_revocation_is_what_happened() {
        for (done, said) in [
            (
                json!({"kind": "node", "name": "edge-7"}),
                "node edge-7 is revoked: sessions and streams that it has end now; to let it join again: reachback \
                 release edge-7",
            ),
            (
                json!({"kind": "user", "name": "ann"}),
                "user ann is revoked: sessions and streams that it has end now",
            ),
        ] {
            assert_eq!(revoked(&done), said);
        }
    }
}
