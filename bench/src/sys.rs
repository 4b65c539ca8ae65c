//! The one file of the laboratory that speaks C: TUN devices, namespaces, polling with nanoseconds, signals. Each
//! function is a safe wrapper of one or two system calls and says why its `unsafe` holds; nothing else decides anything
//! here.
#![allow(unsafe_code, reason = "the standard library has no wrapper for these system calls")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::Command,
    ptr,
    time::Duration,
};

/// Makes a TUN device in the network namespace of the calling thread: one packet per read and write, no header in
/// front, not blocking. The device lives as long as the file.
///
/// # Errors
/// When `name` is not a device name (1 to 15 bytes), is taken, or the process lacks `CAP_NET_ADMIN` or `/dev/net/tun`.
pub fn open_tun(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/net/tun: {error}")))?;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no device name (1-15 bytes)"),
        ));
    }
    // SAFETY: ifreq is plain data, all zeros is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes exactly one ifreq, which outlives the call.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, ptr::from_mut(&mut request)) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("TUN device {name}: {error}")));
    }
    Ok(tun)
}

/// Moves the calling thread into a network namespace, for the rest of its life.
///
/// # Errors
/// When `namespace` is not one, or the process lacks `CAP_SYS_ADMIN`.
pub fn enter_network_namespace(namespace: &File) -> io::Result<()> {
    // SAFETY: no memory is involved; the descriptor is open.
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until one of the two descriptors can be read or has failed, or until `timeout` (for ever without one) has
/// passed. Says which can be read.
///
/// # Errors
/// What `ppoll` says; an interruption by a signal counts as the end of the wait.
pub fn wait_readable(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<[bool; 2]> {
    let entry = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(first), entry(second)];
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the array has the length that is given, the timespec is null or valid, and both outlive the call.
    let ready =
        unsafe { libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, limit, ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; 2]) } else { Err(error) };
    }
    Ok(entries.map(|entry| entry.revents != 0))
}

/// A signal the laboratory sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGINT: what Ctrl-C sends.
    Interrupt,
    /// SIGKILL: end now, without a word.
    Kill,
    /// SIGHUP: read the configuration again.
    HangUp,
    /// SIGSTOP: freeze.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

/// Sends a signal to the process group that the process `leader` leads.
///
/// # Errors
/// What `kill` says, first of all that there is no such group any more.
pub fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Interrupt => libc::SIGINT,
        Signal::Kill => libc::SIGKILL,
        Signal::HangUp => libc::SIGHUP,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    // 0 and 1 would mean "my own group" and "everybody".
    let group = libc::pid_t::try_from(leader).ok().filter(|&group| group > 1);
    let Some(group) = group else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{leader} leads no process group")));
    };
    // SAFETY: no memory is involved.
    let done = unsafe { libc::kill(-group, number) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// SIGKILL to one process; one that is gone already is gone.
///
/// # Errors
/// When the process may not be killed.
pub fn kill_process(process: u32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).ok().filter(|&process| process > 1);
    let Some(process) = process else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "0 and 1 are no processes to kill"));
    };
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(process, libc::SIGKILL) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Makes the command lead its own process group and die (SIGKILL) with the *thread* that starts it, so that nothing
/// stays behind when a test run is killed.
pub fn tie_to_this_thread(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: prctl with these arguments is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// Raises the soft limit of open files to the hard one, for this process and what it starts, and says what it is then.
///
/// # Errors
/// What the kernel says.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, ptr::from_mut(&mut limit)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one rlimit, which outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, ptr::from_ref(&limit)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
