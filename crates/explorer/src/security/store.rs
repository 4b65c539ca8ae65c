//! What must not be forgotten: which key has which name, what tokens have been used for, and what was revoked.
//!
//! Everything is in memory, so that deciding about a peer never waits for a disk, and everything is in a SQLite file
//! before it counts. Decisions that change something are made one after the other, on what the one before has left: a
//! token with one use lets in one node, whoever asks at the same moment. When the file can't be written, nothing new is
//! granted and what was granted goes on.
//!
//! The file has a rollback journal, not a write-ahead log: writes are rare, one file is easier to look after than three,
//! and a file system that turns read-only leaves it readable. `synchronous=EXTRA` makes a commit survive a power failure
//! with this journal, too; `FULL` would leave the last one, perhaps a revocation, to luck.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use reachback_wire::{
    Code, NodeId, Refusal,
    rights::{NamePattern, Rights},
};
use rusqlite::{Connection, OpenFlags, Row, Transaction, params, types::Type};

use super::{
    files::{self, FileError},
    tokens::{TokenRole, hex},
};
use crate::limits;

/// The key in a certificate: SHA-256 of its SubjectPublicKeyInfo.
pub(crate) type Key = [u8; 32];

/// The version of the tables. Changes with every change of them.
const SCHEMA: i64 = 1;
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

/// A key that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolment {
    pub(crate) kind: Kind,
    pub(crate) name: NodeId,
    pub(crate) key: Key,
    /// Of its newest certificate.
    pub(crate) serial: String,
    /// The pin of the authority that signed that.
    pub(crate) authority: String,
    pub(crate) issued_ms: u64,
    pub(crate) not_after_ms: u64,
    /// What it may call.
    pub(crate) rights: Arc<Rights>,
    pub(crate) admin: bool,
    pub(crate) ephemeral: bool,
    /// The token it came in by.
    pub(crate) token: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Node,
    User,
}

/// What is known of a token besides what it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) role: TokenRole,
    pub(crate) name: NodeId,
    pub(crate) node: Option<NamePattern>,
    pub(crate) rights: Rights,
    pub(crate) ephemeral: bool,
    /// `None`: not counted.
    pub(crate) uses_left: Option<u32>,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: u64,
    /// The key of whoever logged in with it.
    pub(crate) bound: Option<Key>,
}

/// What is believed no more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Revoked {
    /// Whoever comes as this node, until it is released.
    Node(NodeId),
    /// Every token this user was given so far, and certificates with the name that others made.
    User(NodeId),
    /// One token.
    Token(String),
    /// Certificates with this key.
    Key(Key),
}

/// Everything in the file, as it is in memory.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) nodes: BTreeMap<NodeId, Enrolment>,
    pub(crate) users: BTreeMap<Key, Enrolment>,
    pub(crate) tokens: BTreeMap<String, TokenRow>,
    /// With the time, in milliseconds since 1970.
    pub(crate) revoked: BTreeMap<Revoked, u64>,
}

/// One row that becomes another.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Enrol(Enrolment),
    Forget(Kind, Key),
    Token(TokenRow),
    DropToken(String),
    Revoke(Revoked, u64),
    Restore(Revoked),
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be made, or closed to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system or SQLite says so.
    #[error(
        "{}: {source}; without it nobody could be told from anybody else. Restore it from a backup (docs/operations.md, Backup and restore)",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// It is a SQLite file and not ours, or broken inside.
    #[error("{}: {problem}. Restore it from a backup (docs/operations.md, Backup and restore)", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A later version has written it.
    #[error(
        "{}: its tables are of version {found}, and this program knows {SCHEMA}: it was used by a newer reachback. Start that one, or restore a backup from before the update",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Their version.
        found: i64,
    },
}

/// The file and what is in it.
pub(crate) struct Store {
    path: PathBuf,
    /// Also what makes one decision wait for the one before.
    database: Mutex<Connection>,
    state: RwLock<State>,
}

impl Store {
    /// Opens the file and reads all of it; makes it when there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let unreadable = |source| StoreError::Unreadable { path: path.to_owned(), source };
        files::for_owner_alone(path)?;
        let mut database = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(unreadable)?;
        prepare(&mut database, path)?;
        let state = load(&database).map_err(unreadable)?;
        Ok(Self { path: path.to_owned(), database: Mutex::new(database), state: RwLock::new(state) })
    }

    /// Looks at what is known. Never waits for the disk. `look` must not come back here.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// Decides and writes what was decided: all of it, or nothing. Blocks.
    ///
    /// # Errors
    /// The decision's own refusal; [`Code::Internal`] with a time to try again when the file can't be written.
    pub(crate) fn commit<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Refusal>,
    ) -> Result<T, Refusal> {
        let mut database = self.database.lock();
        let (changes, decided) = decide(&self.state.read())?;
        if !changes.is_empty() {
            write(&mut database, &changes).map_err(|error| self.unwritable(&error))?;
            let mut state = self.state.write();
            changes.into_iter().for_each(|change| state.apply(change));
        }
        Ok(decided)
    }

    /// As [`Store::commit`], but what was decided holds until the next start even when it can't be written: taking a right
    /// away must not fail because a disk is full.
    pub(crate) fn enforce<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Refusal>,
    ) -> Result<(T, Result<(), Refusal>), Refusal> {
        let mut database = self.database.lock();
        let (changes, decided) = decide(&self.state.read())?;
        let written = write(&mut database, &changes).map_err(|error| self.unwritable(&error));
        let mut state = self.state.write();
        changes.into_iter().for_each(|change| state.apply(change));
        Ok((decided, written))
    }

    /// A value of the table `meta`, made by `make` when there is none.
    pub(crate) fn meta(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, StoreError> {
        let unreadable = |source| StoreError::Unreadable { path: self.path.clone(), source };
        let database = self.database.lock();
        let found = database.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0));
        match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            found => return found.map_err(unreadable),
        }
        let made = make();
        database
            .execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", [name, &made])
            .map_err(unreadable)?;
        Ok(made)
    }

    /// Copies the file as it is at one moment, to a path where nothing is. Blocks, and so do decisions meanwhile.
    pub(crate) fn snapshot(&self, to: &Path) -> Result<(), rusqlite::Error> {
        self.database.lock().execute("VACUUM INTO ?1", [to.to_string_lossy()]).map(drop)
    }

    fn unwritable(&self, error: &rusqlite::Error) -> Refusal {
        Refusal::new(
            Code::Internal,
            format!(
                "the explorer can't write {}: {error}. Who is in stays in; nothing new is granted until its operator has mended that",
                self.path.display()
            ),
        )
        .retry_after(limits::UNWRITABLE_RETRY)
    }

    /// Makes every write fail, as a full disk does.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.database.lock().pragma_update(None, "query_only", refuse).unwrap();
    }
}

impl State {
    /// Whether it is revoked, and since when.
    pub(crate) fn revoked(&self, what: &Revoked) -> Option<u64> {
        self.revoked.get(what).copied()
    }

    /// The enrolment of this key under this name.
    pub(crate) fn enrolment(&self, kind: Kind, name: &NodeId, key: &Key) -> Option<&Enrolment> {
        let found = match kind {
            Kind::Node => self.nodes.get(name),
            Kind::User => self.users.get(key),
        };
        found.filter(|found| found.key == *key && found.name == *name)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Enrol(row) => match row.kind {
                Kind::Node => drop(self.nodes.insert(row.name.clone(), row)),
                Kind::User => drop(self.users.insert(row.key, row)),
            },
            Change::Forget(Kind::Node, key) => self.nodes.retain(|_, row| row.key != key),
            Change::Forget(Kind::User, key) => drop(self.users.remove(&key)),
            Change::Token(row) => drop(self.tokens.insert(row.id.clone(), row)),
            Change::DropToken(id) => drop(self.tokens.remove(&id)),
            Change::Revoke(what, at_ms) => drop(self.revoked.insert(what, at_ms)),
            Change::Restore(what) => drop(self.revoked.remove(&what)),
        }
    }
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

fn prepare(database: &mut Connection, path: &Path) -> Result<(), StoreError> {
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

fn load(database: &Connection) -> Result<State, rusqlite::Error> {
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

fn write(database: &mut Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
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

fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error>
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
    text.parse::<reachback_wire::join::Pin>().ok().map(|pin| pin.0)
}
