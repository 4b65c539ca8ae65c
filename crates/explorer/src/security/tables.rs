//! The tables of the security database, and how rows become what they mean.

use std::{path::Path, str::FromStr, sync::Arc};

use reachback_wire::{join::Pin, rights::NamePattern};
use rusqlite::{Connection, Row, Transaction, params, types::Type};

use super::{
    store::{Change, Enrolment, Key, Kind, Revoked, State, StoreError, TokenRow},
    tokens::hex,
};
use crate::limits;

/// The version of the tables. Changes with every change of them.
pub(super) const SCHEMA: i64 = 1;

/// What makes the file ours (`file` shows it): "RBKS".
const APPLICATION: i64 = 0x5242_4b53;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE enrolments (
    kind TEXT NOT NULL CHECK (kind IN ('node', 'user')),
    name TEXT NOT NULL,
    key BLOB NOT NULL,
    serial TEXT NOT NULL,
    authority TEXT NOT NULL,
    issued_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    rights TEXT NOT NULL,
    admin INTEGER NOT NULL,
    ephemeral INTEGER NOT NULL,
    token TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT;
CREATE UNIQUE INDEX one_key_per_node ON enrolments (name) WHERE kind = 'node';
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    node TEXT,
    rights TEXT NOT NULL,
    ephemeral INTEGER NOT NULL,
    uses_left INTEGER,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    bound BLOB
) STRICT;
CREATE TABLE revocations (
    kind TEXT NOT NULL CHECK (kind IN ('node', 'user', 'token', 'key')),
    value TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT;
";

pub(super) fn prepare(database: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let unreadable = |source| StoreError::Unreadable { path: path.to_owned(), source };
    let broken = |problem: String| StoreError::Broken { path: path.to_owned(), problem };
    database.busy_timeout(limits::DATABASE_WAIT).map_err(unreadable)?;
    let pragma =
        |name: &str| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(unreadable);
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 =
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(unreadable)?;
    if version > SCHEMA {
        return Err(StoreError::Newer { path: path.to_owned(), found: version });
    }
    if tables > 0 && (application != APPLICATION || version < 1) {
        return Err(broken("this is no security database of reachback".to_owned()));
    }
    let checked: String =
        database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unreadable)?;
    if checked != "ok" {
        return Err(broken(checked));
    }
    // A file that can only be read stays as it is.
    if database.is_readonly("main").map_err(unreadable)? {
        return if tables > 0 { Ok(()) } else { Err(broken("it is empty, and can't be written".to_owned())) };
    }
    database.pragma_update(None, "journal_mode", "DELETE").map_err(unreadable)?;
    database.pragma_update(None, "synchronous", "EXTRA").map_err(unreadable)?;
    if tables == 0 {
        let mut make = || -> Result<(), rusqlite::Error> {
            let transaction = database.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.commit()
        };
        make().map_err(unreadable)?;
    }
    Ok(())
}

pub(super) fn load(database: &Connection) -> Result<State, rusqlite::Error> {
    let mut state = State::default();
    let mut read = |sql: &str, change: fn(&Row<'_>) -> Result<Change, rusqlite::Error>| {
        let mut statement = database.prepare(sql)?;
        let rows = statement.query_map([], change)?;
        rows.into_iter().try_for_each(|row| row.map(|change| state.apply(change)))
    };
    read(
        "SELECT kind, name, key, serial, authority, issued_ms, not_after_ms, rights, admin, ephemeral, token FROM enrolments",
        |row| {
            Ok(Change::Enrol(Enrolment {
                kind: if row.get::<_, String>(0)? == "node" { Kind::Node } else { Kind::User },
                name: parsed(row, 1)?,
                key: row.get(2)?,
                serial: row.get(3)?,
                authority: row.get(4)?,
                issued_ms: milliseconds(row, 5)?,
                not_after_ms: milliseconds(row, 6)?,
                rights: Arc::new(json(row, 7)?),
                admin: row.get(8)?,
                ephemeral: row.get(9)?,
                token: row.get(10)?,
            }))
        },
    )?;
    read(
        "SELECT id, role, name, node, rights, ephemeral, uses_left, created_ms, expires_ms, bound FROM tokens",
        |row| {
            Ok(Change::Token(TokenRow {
                id: row.get(0)?,
                role: json_text(&format!("\"{}\"", row.get::<_, String>(1)?), 1)?,
                name: parsed(row, 2)?,
                node: row
                    .get::<_, Option<String>>(3)?
                    .map(|text| text.parse().map_err(|error| unfit(3, error)))
                    .transpose()?,
                rights: json(row, 4)?,
                ephemeral: row.get(5)?,
                uses_left: row.get(6)?,
                created_ms: milliseconds(row, 7)?,
                expires_ms: milliseconds(row, 8)?,
                bound: row.get(9)?,
            }))
        },
    )?;
    read("SELECT kind, value, at_ms FROM revocations", |row| {
        let what = match row.get::<_, String>(0)?.as_str() {
            "node" => Revoked::Node(parsed(row, 1)?),
            "user" => Revoked::User(parsed(row, 1)?),
            "token" => Revoked::Token(row.get(1)?),
            _ => Revoked::Key(key(&row.get::<_, String>(1)?).ok_or_else(|| unfit(1, NoKey))?),
        };
        Ok(Change::Revoke(what, milliseconds(row, 2)?))
    })?;
    Ok(state)
}

pub(super) fn write(database: &mut Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
    let transaction = database.transaction()?;
    changes.iter().try_for_each(|change| write_one(&transaction, change))?;
    transaction.commit()
}

fn write_one(transaction: &Transaction<'_>, change: &Change) -> Result<(), rusqlite::Error> {
    match change {
        Change::Enrol(row) => transaction.execute(
            "INSERT OR REPLACE INTO enrolments (kind, name, key, serial, authority, issued_ms, not_after_ms, rights, admin, ephemeral, token)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                row.kind.name(),
                row.name.as_str(),
                row.key,
                row.serial,
                row.authority,
                stored(row.issued_ms),
                stored(row.not_after_ms),
                to_json(&*row.rights)?,
                row.admin,
                row.ephemeral,
                row.token,
            ],
        ),
        Change::Forget(kind, key) => {
            transaction.execute("DELETE FROM enrolments WHERE kind = ?1 AND key = ?2", params![kind.name(), key])
        }
        Change::Token(row) => transaction.execute(
            "INSERT OR REPLACE INTO tokens (id, role, name, node, rights, ephemeral, uses_left, created_ms, expires_ms, bound)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                row.id,
                row.role.name(),
                row.name.as_str(),
                row.node.as_ref().map(NamePattern::as_str),
                to_json(&row.rights)?,
                row.ephemeral,
                row.uses_left,
                stored(row.created_ms),
                stored(row.expires_ms),
                row.bound,
            ],
        ),
        Change::DropToken(id) => transaction.execute("DELETE FROM tokens WHERE id = ?1", [id]),
        Change::Revoke(what, at_ms) => {
            let (kind, value) = what.columns();
            transaction.execute(
                "INSERT OR REPLACE INTO revocations (kind, value, at_ms) VALUES (?1, ?2, ?3)",
                params![kind, value, stored(*at_ms)],
            )
        }
        Change::Restore(what) => {
            let (kind, value) = what.columns();
            transaction.execute("DELETE FROM revocations WHERE kind = ?1 AND value = ?2", params![kind, value])
        }
    }
    .map(drop)
}

fn parsed<T: FromStr>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(|error| unfit(column, error))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error> {
    json_text(&row.get::<_, String>(column)?, column)
}

fn json_text<T: serde::de::DeserializeOwned>(text: &str, column: usize) -> Result<T, rusqlite::Error> {
    serde_json::from_str(text).map_err(|error| unfit(column, error))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, rusqlite::Error> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn milliseconds(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|error| unfit(column, error))
}

fn stored(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

fn unfit(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// A revoked key that is no key.
#[derive(Debug, thiserror::Error)]
#[error("no key of 32 bytes in hex")]
struct NoKey;

fn key(text: &str) -> Option<Key> {
    text.parse::<Pin>().ok().map(|pin| pin.0)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::User => "user",
        }
    }
}

impl Revoked {
    fn columns(&self) -> (&'static str, String) {
        match self {
            Self::Node(name) => ("node", name.to_string()),
            Self::User(name) => ("user", name.to_string()),
            Self::Token(id) => ("token", id.clone()),
            Self::Key(key) => ("key", hex(key)),
        }
    }
}
