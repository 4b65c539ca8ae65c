//! Programs under test: started in a process group of their own, their lines kept, and gone when the test is over,
//! however it ends. A test asks for a line, an exit, memory or open files; it never sleeps and hopes.
//!
//! A process dies with the *thread* that spawned it (the kernel's parent-death signal), so that even a killed test run
//! leaves nothing behind; spawn from the test's own thread.

use std::{
    collections::VecDeque,
    fmt, fs,
    io::{self, BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use reachback_bench::sys;
pub use reachback_bench::sys::Signal;

use crate::eventually::{now, pause};

/// Lines kept of a process; the oldest go first. More than any test reads, little beside the memory it measures.
const LINES_MAX: usize = 20_000;

/// Longest line that is kept in one piece, in bytes: a program that prints binary data must not fill the memory.
const LINE_MAX: u64 = 64 << 10;

/// Lines of output that an error shows.
const LINES_SHOWN: usize = 60;

/// How long a killed process may take to close its output before its readers are left alone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running program. Dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// Which of its two outputs a process wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Why a process did not do what the test waited for. Its text holds the last lines of output.
#[derive(thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name} could not be started: {source}")]
    Spawn {
        /// The name given to the process.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended (or closed its output) first.
    #[error("{name} ended without {awaited}\n{output}")]
    Ended {
        /// The name given to the process.
        name: String,
        /// What was waited for.
        awaited: String,
        /// Its last lines.
        output: String,
    },
    /// It took too long.
    #[error("{name}: no {awaited} within {deadline:?}\n{output}")]
    TimedOut {
        /// The name given to the process.
        name: String,
        /// What was waited for.
        awaited: String,
        /// How long.
        deadline: Duration,
        /// Its last lines.
        output: String,
    },
    /// The kernel would not say.
    #[error("{name}: {source}")]
    Kernel {
        /// The name given to the process.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// `unwrap` in a test prints this, and nobody reads escaped newlines.
impl fmt::Debug for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, a line each.
    pub stdout: String,
    /// Its standard error, a line each.
    pub stderr: String,
}

impl Process {
    /// Starts `command` with empty standard input; `name` is how errors call it.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self, ProcessError> {
        Self::spawn_reading(name, command, Stdio::null())
    }

    /// Starts `command` with a standard input that the test writes to (and closes by dropping it).
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub fn spawn_with_stdin(name: &str, command: &mut Command) -> Result<(Self, ChildStdin), ProcessError> {
        let mut process = Self::spawn_reading(name, command, Stdio::piped())?;
        let stdin = process.child.stdin.take().expect("standard input was asked to be a pipe");
        Ok((process, stdin))
    }

    fn spawn_reading(name: &str, command: &mut Command, stdin: Stdio) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Spawn { name: name.into(), source };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = sys::tie_to_this_thread(command).spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // From here on the drop of the process cleans up.
        let process = Self { name: name.into(), child, output: Arc::default() };
        process.keep_lines(Stream::Out, stdout).map_err(failed)?;
        process.keep_lines(Stream::Err, stderr).map_err(failed)?;
        Ok(process)
    }

    fn keep_lines(&self, stream: Stream, from: Option<impl Read + Send + 'static>) -> io::Result<()> {
        let Some(from) = from else { return Ok(()) };
        let output = Arc::clone(&self.output);
        output.kept.lock().open += 1;
        let reader = move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while let Ok(1..) = from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line);
                output.keep(stream, text.trim_end_matches(['\n', '\r']).to_owned());
                line.clear();
            }
            output.kept.lock().open -= 1;
            output.changed.notify_all();
        };
        thread::Builder::new().name(format!("{} {stream:?}", self.name)).spawn(reader)?;
        Ok(())
    }

    /// The process id (of the program itself, also when `ip netns exec` started it).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many lines it has written so far: a place for [`Process::wait_for_line_after`].
    pub fn mark(&self) -> usize {
        let kept = self.output.kept.lock();
        kept.forgotten + kept.lines.len()
    }

    /// Waits for a line, written before or after now, that contains `pattern`, and returns it.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] when its output ended first, [`ProcessError::TimedOut`].
    pub fn wait_for_line(&self, pattern: &str, deadline: Duration) -> Result<String, ProcessError> {
        self.wait_for_line_after(0, pattern, deadline)
    }

    /// The same for lines written after [`Process::mark`] was taken.
    ///
    /// # Errors
    /// As [`Process::wait_for_line`].
    pub fn wait_for_line_after(
        &self,
        mark: usize,
        pattern: &str,
        deadline: Duration,
    ) -> Result<String, ProcessError> {
        let until = now() + deadline;
        let awaited = || format!("line with {pattern:?}");
        let mut kept = self.output.kept.lock();
        loop {
            let new = mark.saturating_sub(kept.forgotten);
            if let Some((_, line)) = kept.lines.iter().skip(new).find(|(_, line)| line.contains(pattern)) {
                return Ok(line.clone());
            }
            let name = self.name.clone();
            if kept.open == 0 {
                return Err(ProcessError::Ended { name, awaited: awaited(), output: kept.tail() });
            }
            if self.output.changed.wait_until(&mut kept, until).timed_out() {
                return Err(ProcessError::TimedOut {
                    name,
                    awaited: awaited(),
                    deadline,
                    output: kept.tail(),
                });
            }
        }
    }

    /// All lines so far of one output.
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        let kept = self.output.kept.lock();
        kept.lines.iter().filter(|(from, _)| *from == stream).map(|(_, line)| line.clone()).collect()
    }

    /// The last lines of both outputs, for a test's own message.
    pub fn tail(&self) -> String {
        self.output.kept.lock().tail()
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`].
    pub fn is_running(&mut self) -> Result<bool, ProcessError> {
        match self.child.try_wait() {
            Ok(status) => Ok(status.is_none()),
            Err(source) => Err(self.kernel(source)),
        }
    }

    /// Waits until it has ended and all it wrote is kept.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`].
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, ProcessError> {
        let until = now() + deadline;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.drain_output();
                    return Ok(status);
                }
                Ok(None) if now() < until => pause(),
                Ok(None) => {
                    let (name, awaited, output) = (self.name.clone(), "exit".into(), self.tail());
                    return Err(ProcessError::TimedOut { name, awaited, deadline, output });
                }
                Err(source) => return Err(self.kernel(source)),
            }
        }
    }

    /// Sends a signal to its process group; nothing when it has ended.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`].
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        if !self.is_running()? {
            return Ok(());
        }
        sys::signal_group(self.child.id(), signal).map_err(|source| self.kernel(source))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`].
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::Kill)?;
        let status = self.child.wait().map_err(|source| self.kernel(source))?;
        self.drain_output();
        Ok(status)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`] when it has ended.
    pub fn resident(&self) -> Result<u64, ProcessError> {
        self.status_kib("VmRSS:").map(|kib| kib << 10)
    }

    /// The most resident memory it ever had, in bytes.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`] when it has ended.
    pub fn resident_peak(&self) -> Result<u64, ProcessError> {
        self.status_kib("VmHWM:").map(|kib| kib << 10)
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// [`ProcessError::Kernel`] when it has ended.
    pub fn open_files(&self) -> Result<usize, ProcessError> {
        let entries =
            fs::read_dir(format!("/proc/{}/fd", self.pid())).map_err(|source| self.kernel(source))?;
        Ok(entries.count())
    }

    fn status_kib(&self, field: &str) -> Result<u64, ProcessError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .map_err(|source| self.kernel(source))?;
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok());
        value.ok_or_else(|| {
            self.kernel(io::Error::new(io::ErrorKind::NotFound, format!("no {field} any more")))
        })
    }

    /// The process is gone; what it had written may still be on its way through the pipes.
    fn drain_output(&self) {
        let until = now() + LAST_WORDS;
        let mut kept = self.output.kept.lock();
        while kept.open > 0 && !self.output.changed.wait_until(&mut kept, until).timed_out() {}
    }

    fn kernel(&self, source: io::Error) -> ProcessError {
        ProcessError::Kernel { name: self.name.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            // In a test's cleanup there is nobody to return it to, and the test's own failure must not be hidden.
            let _unheard =
                io::Write::write_all(&mut io::stderr(), format!("cleaning up: {error}\n").as_bytes());
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// As [`Process::spawn`] and [`Process::wait`]; a program that ends with an error is no error here.
pub fn run(name: &str, command: &mut Command, deadline: Duration) -> Result<Finished, ProcessError> {
    let mut process = Process::spawn(name, command)?;
    let status = process.wait(deadline)?;
    let text = |stream| process.lines(stream).iter().map(|line| format!("{line}\n")).collect();
    Ok(Finished { status, stdout: text(Stream::Out), stderr: text(Stream::Err) })
}

#[derive(Debug, Default)]
struct Output {
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<(Stream, String)>,
    /// Lines dropped from the front.
    forgotten: usize,
    /// Outputs that have not ended.
    open: u8,
}

impl Output {
    fn keep(&self, stream: Stream, line: String) {
        let mut kept = self.kept.lock();
        if kept.lines.len() == LINES_MAX {
            kept.lines.pop_front();
            kept.forgotten += 1;
        }
        kept.lines.push_back((stream, line));
        self.changed.notify_all();
    }
}

impl Kept {
    fn tail(&self) -> String {
        let skipped = self.lines.len().saturating_sub(LINES_SHOWN);
        let shown = self.lines.iter().skip(skipped).map(|(stream, line)| match stream {
            Stream::Out => format!("  | {line}\n"),
            Stream::Err => format!("  ! {line}\n"),
        });
        let shown: String = shown.collect();
        if shown.is_empty() { "  (it wrote nothing)".into() } else { shown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_outputs_are_found_also_after_the_end() {
        let mut process = Process::spawn("sh", &mut shell("echo one; echo two >&2; exit 3")).unwrap();
        assert_eq!(process.wait_for_line("tw", SOON).unwrap(), "two");
        assert_eq!(process.wait(SOON).unwrap().code(), Some(3));
        assert_eq!(process.lines(Stream::Out), ["one"]);
        assert_eq!(process.lines(Stream::Err), ["two"]);
    }

    #[test]
    fn a_line_that_never_comes_is_an_error_with_the_output() {
        let process = Process::spawn("sh", &mut shell("echo something else")).unwrap();
        let error = process.wait_for_line("listening", SOON).unwrap_err();
        assert!(matches!(error, ProcessError::Ended { .. }), "{error}");
        assert!(error.to_string().contains("something else"), "{error}");
    }

    #[test]
    fn a_mark_hides_what_came_before_it() {
        let (process, mut stdin) = Process::spawn_with_stdin("cat", &mut Command::new("cat")).unwrap();
        io::Write::write_all(&mut stdin, b"ready 1\n").unwrap();
        process.wait_for_line("ready", SOON).unwrap();
        let mark = process.mark();
        let error = process.wait_for_line_after(mark, "ready", Duration::ZERO).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
        io::Write::write_all(&mut stdin, b"ready 2\n").unwrap();
        assert_eq!(process.wait_for_line_after(mark, "ready", SOON).unwrap(), "ready 2");
    }

    #[test]
    fn dropping_it_ends_the_whole_group() {
        let process = Process::spawn("sh", &mut shell("sleep 1000 & echo child $!; wait")).unwrap();
        let line = process.wait_for_line("child", SOON).unwrap();
        let stat = format!("/proc/{}/stat", line.strip_prefix("child ").unwrap());
        assert!(fs::exists(&stat).unwrap());
        drop(process);
        // Nobody reaps an orphan in a container without an init: a zombie is dead too.
        crate::eventually(SOON, "the end of the grandchild", || match fs::read_to_string(&stat) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            Ok(_) | Err(_) => Ok(()),
        });
    }

    #[test]
    fn a_stopped_process_goes_on_where_it_was() {
        let (mut process, mut stdin) = Process::spawn_with_stdin("cat", &mut Command::new("cat")).unwrap();
        process.signal(Signal::Stop).unwrap();
        io::Write::write_all(&mut stdin, b"hello\n").unwrap();
        let error = process.wait_for_line("hello", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
        process.signal(Signal::Continue).unwrap();
        process.wait_for_line("hello", SOON).unwrap();
    }

    #[test]
    fn the_kernel_tells_memory_and_files() {
        let (process, stdin) = Process::spawn_with_stdin("cat", &mut Command::new("cat")).unwrap();
        crate::eventually(SOON, "cat has replaced the copy of the test", || {
            (process.resident().unwrap() < 32 << 20).then_some(())
        });
        let resident = process.resident().unwrap();
        assert!(resident > 0);
        // The kernel keeps both counts per thread and adds them up later: they are not exact.
        assert!(process.resident_peak().unwrap() + (1 << 20) >= resident);
        assert!(process.open_files().unwrap() >= 3);
        drop(stdin);
    }

    #[test]
    fn a_program_can_be_run_to_its_end() {
        let finished = run("sh", &mut shell("echo out; echo err >&2"), SOON).unwrap();
        assert!(finished.status.success());
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
    }
}
