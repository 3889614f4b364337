//! Connects, and starts a broker where none runs.
//!
//! However many processes find none at once, one of them starts it: they compete for a lock file
//! beside the socket, and those who lose it wait for the socket. The broker goes to the
//! background by itself and its starter returns when the socket is there, so a failure to start
//! has an exit code and a text.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::connection::{Connection, Failed, Unconnected, open};
use super::{ClientError, Host};
use crate::socket::{check_socket, lock_beside, prepare_directory};

/// How to start a broker.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The `mlflow-secrets-auth` command of this very installation.
    pub command: PathBuf,
    /// Its configuration file.
    pub config: Option<PathBuf>,
}

/// Why a broker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The command is not there.
    #[error("{0}")]
    NoCommand(String),
    /// The command could not be run.
    #[error("cannot run {command} ({error}). Install mlflow-secrets-auth again", command = .command.display())]
    NotRun {
        /// The command.
        command: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The broker ended with a text.
    #[error("the broker did not start: {0}")]
    Failed(String),
}

/// Between two looks at a socket that somebody else is about to open.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Brokers that one call starts at most, time permitting.
const MOST_STARTS: u32 = 10;

/// A connection to the broker at `path`, which is started if need be and allowed.
pub(super) fn connect(
    host: &dyn Host,
    path: &Path,
    deadline: Instant,
) -> Result<Connection, ClientError> {
    let started = Instant::now();
    let mut starting: Option<Flock<File>> = None;
    let mut attempts = 0;
    loop {
        match try_connect(host, path, deadline) {
            Ok(connection) => return Ok(connection),
            Err(Attempt::Error(error)) => return Err(error),
            Err(Attempt::Busy) => {}
            Err(Attempt::NobodyListens) => {
                let Some(launch) = host.launch().map_err(LaunchError::NoCommand)? else {
                    return Err(ClientError::NotRunning(path.to_owned()));
                };
                if starting.is_some() {
                    // Ours was started and is gone again: it says why, or somebody ended it.
                    attempts += 1;
                    if attempts > MOST_STARTS {
                        return Err(LaunchError::Failed(
                            "it ended at once. Run `mlflow-secrets-auth serve` to see why".into(),
                        )
                        .into());
                    }
                    start(&launch, path, host, deadline)?;
                } else {
                    prepare_directory(path)?;
                    // Look again under the lock before starting one: the last holder may have.
                    starting = lock_beside(path, "start")?;
                    if starting.is_some() {
                        continue;
                    }
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(ClientError::TimedOut {
                path: path.to_owned(),
                waited: started.elapsed(),
            });
        }
        if host.interrupted() {
            return Err(ClientError::Interrupted);
        }
        if starting.is_none() {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

enum Attempt {
    NobodyListens,
    Busy,
    Error(ClientError),
}

fn try_connect(host: &dyn Host, path: &Path, deadline: Instant) -> Result<Connection, Attempt> {
    match check_socket(path) {
        Ok(()) => {}
        Err(error) if error.is_absent() => return Err(Attempt::NobodyListens),
        Err(error) => return Err(Attempt::Error(error.into())),
    }
    let fd = match open(path) {
        Ok(fd) => fd,
        Err(Unconnected::NobodyListens) => return Err(Attempt::NobodyListens),
        Err(Unconnected::Busy) => return Err(Attempt::Busy),
        Err(Unconnected::Unusable(error)) => return Err(Attempt::Error(error.into())),
    };
    Connection::start(path, fd, host, deadline).map_err(|failed| match failed {
        Failed::Interrupted => Attempt::Error(ClientError::Interrupted),
        // A broker that ends just now; the next look finds another or none.
        _ => Attempt::Busy,
    })
}

/// Runs the command; returns when the broker listens, or with its own words when it does not.
fn start(
    launch: &Launch,
    socket: &Path,
    host: &dyn Host,
    deadline: Instant,
) -> Result<(), ClientError> {
    let mut command = Command::new(&launch.command);
    command
        .arg0("mlflow-secrets-auth")
        .args(["serve", "--detach", "--socket"])
        .arg(socket);
    if let Some(config) = &launch.config {
        command.arg("--config").arg(config);
    }
    let mut child = command
        // Cleared before it starts: clearing it later would leave /proc/PID/environ full.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| LaunchError::NotRun {
            command: launch.command.clone(),
            error,
        })?;
    let said = read_until_end(&mut child, host, deadline)?;
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let said = said.trim().trim_start_matches("error: ");
            Err(LaunchError::Failed(if said.is_empty() {
                format!("{status}")
            } else {
                said.to_owned()
            })
            .into())
        }
        // The host process collects all its children itself; the socket will tell.
        Err(_) => Ok(()),
    }
}

/// What the starter writes to its standard error until it closes it.
fn read_until_end(
    child: &mut Child,
    host: &dyn Host,
    deadline: Instant,
) -> Result<String, ClientError> {
    let Some(mut stderr) = child.stderr.take() else {
        return Ok(String::new());
    };
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(LaunchError::Failed(
                "it was not ready in time. Run `mlflow-secrets-auth serve` to see why".into(),
            )
            .into());
        }
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
        let slice = left.min(Duration::from_secs(1)).as_millis().max(1);
        let ready = poll(
            &mut fds,
            PollTimeout::try_from(slice).unwrap_or(PollTimeout::MAX),
        );
        if !matches!(ready, Ok(n) if n > 0) {
            if host.interrupted() {
                return Err(ClientError::Interrupted);
            }
            continue;
        }
        let mut chunk = [0; 1024];
        match stderr.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) if said.len() < 16 * 1024 => said.extend_from_slice(&chunk[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
