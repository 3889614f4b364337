//! Makes the process keep what it holds to itself.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::exit;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};

/// Nothing of the environment is read: a caller brings its own, and what was left would be a
/// way to steer the libraries underneath. First thing in `main`, before any thread.
pub(crate) fn clear_environment() {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in names {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::remove_var(name) };
    }
}

/// The socket that a service manager has opened for this process (systemd's `LISTEN_FDS`); read
/// before the environment is cleared.
pub(crate) fn activated_socket() -> Option<std::os::unix::net::UnixListener> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) || number("LISTEN_FDS") < Some(1) {
        return None;
    }
    // SAFETY: the manager's promise is that the first descriptor after the standard ones is it,
    // and nothing else here has touched it.
    let fd = unsafe { OwnedFd::from_raw_fd(3) };
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .ok()?;
    Some(fd.into())
}

/// No core dump, no debugger, no files for others, as many descriptors as are permitted.
pub(crate) fn harden() {
    umask(Mode::from_bits_truncate(0o077));
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // A core dump handler in /proc/sys/kernel/core_pattern ignores the limit; this it does not.
    #[cfg(target_os = "linux")]
    {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most.min(65_536), most);
    }
}

/// Signals as a fresh process has them, whatever the starter ignored or blocked.
fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: no handler is installed, only removed.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Closes every descriptor but the standard three: what a starter left open is not ours to hold.
fn close_inherited() {
    #[cfg(target_os = "linux")]
    // SAFETY: nothing has been opened yet.
    unsafe {
        nix::libc::syscall(nix::libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
    #[cfg(not(target_os = "linux"))]
    for fd in 3..1024 {
        // SAFETY: nothing has been opened yet.
        unsafe { nix::libc::close(fd) };
    }
}

/// How a broker in the background tells its starter how it went.
pub(crate) struct Starter(io::PipeWriter);

/// Goes to the background: own session, `/` as its directory, null as its standard streams.
/// Only the child returns; the starter waits for its word and exits with it.
///
/// # Errors
/// The system has no pipe or process to give.
pub(crate) fn detach() -> io::Result<Starter> {
    close_inherited();
    reset_signals();
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: there is one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { .. } => {
            drop(writer);
            let mut said = String::new();
            let _ = reader.read_to_string(&mut said);
            match said.as_str() {
                "ready" => exit(0),
                "" => said.push_str("the broker ended before it was ready"),
                _ => {}
            }
            let _ = writeln!(io::stderr(), "{said}");
            exit(1)
        }
        nix::unistd::ForkResult::Child => {
            drop(reader);
            nix::unistd::setsid()?;
            std::env::set_current_dir("/")?;
            let null = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")?
                .into_raw_fd();
            for stream in [
                io::stdin().as_raw_fd(),
                io::stdout().as_raw_fd(),
                io::stderr().as_raw_fd(),
            ] {
                // SAFETY: both descriptors are open, and the standard streams belong to nobody else.
                unsafe { nix::libc::dup2(null, stream) };
            }
            if null > 2 {
                // SAFETY: opened above, used nowhere else.
                unsafe { nix::libc::close(null) };
            }
            Ok(Starter(writer))
        }
    }
}

impl Starter {
    /// The socket listens.
    pub(crate) fn ready(mut self) {
        let _ = self.0.write_all(b"ready");
    }

    /// It did not come to that.
    pub(crate) fn failed(mut self, why: &str) {
        let _ = self.0.write_all(why.as_bytes());
    }
}
