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
use rusqlite::{Connection, OpenFlags};

use super::{
    files::{self, FileError},
    tables::{self, SCHEMA},
    tokens::TokenRole,
};
use crate::limits;

/// The key in a certificate: SHA-256 of its SubjectPublicKeyInfo.
pub(crate) type Key = [u8; 32];

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
        tables::prepare(&mut database, path)?;
        let state = tables::load(&database).map_err(unreadable)?;
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
            tables::write(&mut database, &changes).map_err(|error| self.unwritable(&error))?;
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
        let written = tables::write(&mut database, &changes).map_err(|error| self.unwritable(&error));
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

    pub(super) fn apply(&mut self, change: Change) {
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
