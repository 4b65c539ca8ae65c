//! Who did what to what, from where, and whether it was allowed: one JSON object a line, appended and never changed.
//!
//! After an incident this is what is read, so it must not be possible to push the interesting lines out of it by knocking at the
//! door: refusals are written up to a rate, and what is beyond is counted in the next line. It never holds a secret. When it
//! can't be written the explorer goes on, says so once, and counts what is missing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use reachback_wire::{Refusal, text::sanitize};
use serde::{Deserialize, Serialize};

use super::{
    Actor,
    wall::{WallClock, stamp},
};
use crate::limits;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, as `2026-11-20T16:14:32.120Z`.
    pub at: String,
    /// What was done, as in `revoke`.
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// Who did it; empty when nobody was known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// From where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
    /// The sentence of the refusal, or what is to be known besides.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Refusals before this line that were not written because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    action: &'static str,
    subject: String,
    by: String,
    from: String,
    refusal: Option<Refusal>,
    detail: String,
}

impl Entry {
    /// Something was done.
    #[must_use]
    pub fn new(action: &'static str, subject: &str) -> Self {
        Self {
            action,
            subject: subject.to_owned(),
            by: String::new(),
            from: String::new(),
            refusal: None,
            detail: String::new(),
        }
    }

    /// By whom.
    #[must_use]
    pub fn by(mut self, who: &str) -> Self {
        who.clone_into(&mut self.by);
        self
    }

    /// From where.
    #[must_use]
    pub fn from(mut self, place: &str) -> Self {
        place.clone_into(&mut self.from);
        self
    }

    /// By whom and from where.
    #[must_use]
    pub fn actor(self, actor: &Actor) -> Self {
        self.by(&actor.who).from(&actor.from)
    }

    /// It was refused.
    #[must_use]
    pub fn refused(mut self, refusal: &Refusal) -> Self {
        self.refusal = Some(refusal.clone());
        self
    }

    /// What is to be known besides.
    #[must_use]
    pub fn detail(mut self, text: &str) -> Self {
        text.clone_into(&mut self.detail);
        self
    }
}

impl Entry {
    fn record(&self, now_ms: u64, left_out: u64) -> Record {
        let outcome = self.refusal.as_ref().map_or("ok", |refusal| refusal.code.name());
        let detail = self.refusal.as_ref().map_or(&self.detail, |refusal| &refusal.message);
        Record {
            at: stamp(now_ms),
            action: self.action.to_owned(),
            subject: sanitize(&self.subject, limits::TEXT),
            by: sanitize(&self.by, limits::TEXT),
            from: sanitize(&self.from, limits::TEXT),
            outcome: outcome.to_owned(),
            detail: sanitize(detail, limits::AUDIT_TEXT),
            left_out,
        }
    }
}

/// The file and those before it.
pub struct Audit {
    path: PathBuf,
    clock: WallClock,
    writer: Mutex<Writer>,
    deferred: Mutex<Deferred>,
    lost: AtomicU64,
}

/// Refusals that wait to be written: as many as the budget grants between two times that everything is.
#[derive(Default)]
struct Deferred {
    records: Vec<Record>,
    budget: Budget,
}

/// How many refusals of one minute are written, and how many were not.
#[derive(Default)]
struct Budget {
    minute: u64,
    taken: u32,
    left_out: u64,
}

struct Writer {
    file: Option<File>,
    size: u64,
    failing: bool,
}

impl Audit {
    /// One that appends to this file. It is made when there is something to write.
    pub(super) fn new(path: PathBuf, clock: WallClock) -> Self {
        let writer = Writer { file: None, size: 0, failing: false };
        Self { path, clock, writer: Mutex::new(writer), deferred: Mutex::default(), lost: AtomicU64::new(0) }
    }

    /// Writes a line. Blocks for as long as that takes; never fails.
    pub fn record(&self, entry: &Entry) {
        if entry.refusal.is_some() {
            self.defer(entry);
            return self.flush();
        }
        let record = entry.record(self.clock.now_ms(), 0);
        let mut writer = self.writer.lock();
        self.write_deferred(&mut writer);
        self.write(&mut writer, &record);
    }

    /// Notes a refusal without waiting for a disk: it is written with the next line, when somebody asks for the last ones, or
    /// by [`Security::keep_up`](super::Security::keep_up).
    pub fn defer(&self, entry: &Entry) {
        let now_ms = self.clock.now_ms();
        let mut deferred = self.deferred.lock();
        if deferred.records.len() >= limits::AUDIT_DEFERRED {
            deferred.budget.left_out += 1;
        } else if deferred.budget.takes(now_ms) {
            let left_out = std::mem::take(&mut deferred.budget.left_out);
            let record = entry.record(now_ms, left_out);
            deferred.records.push(record);
        }
    }

    /// Writes what was deferred. Blocks.
    pub(super) fn flush(&self) {
        let mut writer = self.writer.lock();
        self.write_deferred(&mut writer);
    }

    /// Lines that could not be written since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The last so many lines, the oldest first; at most `limits::AUDIT_LISTED`. Blocks.
    ///
    /// # Errors
    /// The files can't be read.
    pub fn last(&self, count: usize) -> io::Result<Vec<Record>> {
        let count = count.min(limits::AUDIT_LISTED);
        // Nobody appends or moves the files meanwhile.
        let mut writer = self.writer.lock();
        self.write_deferred(&mut writer);
        let mut lines: Vec<Record> = Vec::new();
        for age in 0..=limits::AUDIT_FILES {
            let text = match tail(&aged(&self.path, age)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                text => text?,
            };
            let older = text.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
            lines.extend(older.take(count - lines.len()));
            if lines.len() == count {
                break;
            }
        }
        lines.reverse();
        Ok(lines)
    }

    fn write_deferred(&self, writer: &mut Writer) {
        let records = std::mem::take(&mut self.deferred.lock().records);
        records.iter().for_each(|record| self.write(writer, record));
    }

    fn write(&self, writer: &mut Writer, record: &Record) {
        match writer.append(&self.path, record) {
            Ok(()) => {
                if std::mem::take(&mut writer.failing) {
                    tracing::info!(path = %self.path.display(), "the audit is written again");
                }
            }
            Err(error) => {
                // A line that ends in the middle would spoil the next one.
                writer.file = None;
                self.lost.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut writer.failing, true) {
                    tracing::error!(path = %self.path.display(), %error, "the audit can't be written; what is done goes on, unrecorded, until this is mended");
                }
            }
        }
    }
}

impl Budget {
    /// Whether one more is written in this minute.
    fn takes(&mut self, now_ms: u64) -> bool {
        let minute = now_ms / 60_000;
        if minute != self.minute {
            (self.minute, self.taken) = (minute, 0);
        }
        let takes = self.taken < limits::AUDIT_REFUSALS_PER_MINUTE;
        if takes {
            self.taken += 1
        } else {
            self.left_out += 1
        }
        takes
    }
}

impl Writer {
    fn append(&mut self, path: &Path, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_string(record).map_err(io::Error::other)?;
        line.push('\n');
        if self.file.is_some() && self.size + line.len() as u64 > limits::AUDIT_FILE_MAX {
            self.file = None;
            for age in (0..limits::AUDIT_FILES).rev() {
                match fs::rename(aged(path, age), aged(path, age + 1)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    moved => moved?,
                }
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let mut file =
                    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
                self.size = file.metadata()?.len();
                if self.size > 0 && !ends_with_newline(&mut file)? {
                    line.insert(0, '\n');
                }
                closed.insert(file)
            }
        };
        file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        // What operators do is rare, and is what has to be there afterwards.
        if record.outcome == "ok" { file.sync_data() } else { Ok(()) }
    }
}

fn aged(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The file, which has its bound; what is no UTF-8 in it is no line of ours.
fn tail(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(2 * limits::AUDIT_FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
