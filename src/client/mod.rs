//! The client: asks the broker, starts one where none runs, and survives what its host process
//! does meanwhile.
//!
//! It starts no thread and holds one descriptor per idle connection. Everything it keeps hangs
//! on one [`fork::PerProcess`] cell, so that a forked child starts afresh instead of waiting for
//! a lock that another thread of its parent held.

mod connection;
mod driver;
pub mod fork;
mod launch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::{Code, Status};

use crate::contract::{
    FlushRequest, FlushResponse, GetHeadersRequest, GetHeadersResponse, GetStatusRequest,
    GetStatusResponse, PresentRequest, ReloadRequest, ReloadResponse, ReportRejectionRequest,
    Setting, StopRequest, StopResponse,
};
use crate::headers::{is_valid_name, is_valid_value};
use crate::origins::Origin;
use crate::secret::Secret;
use crate::socket::{self, Places, SocketError};
use crate::variables::Settings;
use connection::{Connection, Failed};

pub use launch::{Launch, LaunchError};

/// Idle connections kept; more exist only while more threads ask at once.
const KEPT_CONNECTIONS: usize = 4;

/// Connections that may break under one call, time permitting.
const MOST_BREAKS: u64 = 40;

/// What the client needs of the process it lives in.
pub trait Host: Sync {
    /// Called while waiting, after a signal and at least every second; true ends the wait.
    fn interrupted(&self) -> bool {
        false
    }

    /// How to start a broker; `None`: this client never does.
    ///
    /// # Errors
    /// A text that names the cause and the next step.
    fn launch(&self) -> Result<Option<Launch>, String>;
}

/// Asks the broker at one place.
pub struct Client {
    places: Places,
    state: fork::PerProcess<State>,
}

/// What a process knows: gone in a forked child.
#[derive(Default)]
struct State {
    idle: Mutex<Vec<Connection>>,
    handles: Mutex<HashMap<Settings, Bytes>>,
}

/// Which headers a request to an origin needs, for a while.
pub struct Answer {
    /// Names and values, already checked for bytes that HTTP forbids.
    pub headers: Vec<(String, Secret)>,
    /// Grows each time the credential changes.
    pub revision: u64,
    /// How long the answer may be used again.
    pub max_age: Duration,
    /// Which secret it was made from.
    pub source: String,
    /// Why the origin gets no headers.
    pub declined: Option<String>,
}

/// A question about an origin.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The origin of the request.
    pub origin: &'a Origin,
    /// The origins of the tracking and registry URIs in effect.
    pub uri_origins: &'a [Origin],
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether a remembered failure is no answer: a person has mended something.
    pub fresh: bool,
}

/// Why there is no answer. Each text names the cause and the next step.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker said so: its text, and its gRPC code.
    #[error("{}", .0.message())]
    Broker(Box<Status>),
    /// Nothing listens, and nothing may be started.
    #[error("no broker runs at {path}. Start one with `mlflow-secrets-auth serve`, or unset MLFLOW_SECRETS_AUTH_AUTOSTART", path = .0.display())]
    NotRunning(PathBuf),
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A broker could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// No answer in time.
    #[error("the broker at {path} did not answer within {seconds:.1} s. See `mlflow-secrets-auth status`, or raise MLFLOW_SECRETS_AUTH_TIMEOUT", path = .path.display(), seconds = .waited.as_secs_f64())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke again and again.
    #[error("the broker at {path} closes its connections ({error}). Run `mlflow-secrets-auth stop` and try again", path = .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The last failure.
        error: String,
    },
    /// The host process wants its thread back.
    #[error("interrupted")]
    Interrupted,
    /// The broker's answer cannot be put into a request.
    #[error(
        "the broker answered with a header that HTTP forbids. Look for stray blanks or line breaks in the secret {source_name}"
    )]
    BadHeader {
        /// Which secret.
        source_name: String,
    },
}

impl Client {
    /// A client for the broker at these places; nothing is opened yet.
    pub fn new(places: Places) -> Self {
        Self {
            places,
            state: fork::PerProcess::new(),
        }
    }

    /// The headers for a request to an origin.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn headers(
        &self,
        host: &dyn Host,
        caller: &Settings,
        question: Question<'_>,
    ) -> Result<Answer, ClientError> {
        let answer = self.as_caller(host, caller, question.timeout, |handle, wait_ms| {
            Call::Headers(GetHeadersRequest {
                handle,
                origin: question.origin.to_string(),
                uri_origins: question.uri_origins.iter().map(Origin::to_string).collect(),
                wait_ms,
                fresh: question.fresh,
            })
        })?;
        Answer::check(answer)
    }

    /// Reports that a server rejected a revision's headers, and asks what to send instead.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn rejected(
        &self,
        host: &dyn Host,
        caller: &Settings,
        question: Question<'_>,
        revision: u64,
        status: u16,
    ) -> Result<Answer, ClientError> {
        let answer = self.as_caller(host, caller, question.timeout, |handle, wait_ms| {
            Call::Rejected(ReportRejectionRequest {
                handle,
                origin: question.origin.to_string(),
                uri_origins: question.uri_origins.iter().map(Origin::to_string).collect(),
                wait_ms,
                revision,
                status: status.into(),
            })
        })?;
        Answer::check(answer)
    }

    /// What the broker is doing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(
        &self,
        host: &dyn Host,
        timeout: Duration,
    ) -> Result<GetStatusResponse, ClientError> {
        self.call(host, timeout, |c, host, deadline| {
            c.status(host, GetStatusRequest {}, deadline)
        })
    }

    /// Makes the broker read its configuration again.
    ///
    /// # Errors
    /// [`ClientError`]; the old configuration is then still in force.
    pub fn reload(
        &self,
        host: &dyn Host,
        timeout: Duration,
    ) -> Result<ReloadResponse, ClientError> {
        self.call(host, timeout, |c, host, deadline| {
            c.reload(host, ReloadRequest {}, deadline)
        })
    }

    /// Makes the broker forget every credential and login.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&self, host: &dyn Host, timeout: Duration) -> Result<FlushResponse, ClientError> {
        self.call(host, timeout, |c, host, deadline| {
            c.flush(host, FlushRequest {}, deadline)
        })
    }

    /// Ends the broker.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stop(&self, host: &dyn Host, timeout: Duration) -> Result<StopResponse, ClientError> {
        self.call(host, timeout, |c, host, deadline| {
            c.stop(host, StopRequest {}, deadline)
        })
    }

    /// The socket's path.
    ///
    /// # Errors
    /// [`SocketError`] when no place can serve.
    pub fn socket(&self) -> Result<PathBuf, SocketError> {
        socket::locate(&self.places)
    }

    /// One call as a caller: presents it where the broker does not know it (any more).
    fn as_caller(
        &self,
        host: &dyn Host,
        caller: &Settings,
        timeout: Duration,
        request: impl Fn(Bytes, u32) -> Call,
    ) -> Result<GetHeadersResponse, ClientError> {
        let state = self.state.get();
        self.call(host, timeout, |connection, host, deadline| {
            for attempt in 0.. {
                let known = lock(&state.handles).get(caller).cloned();
                let handle = match known {
                    Some(handle) => handle,
                    None => {
                        let presented = connection.present(host, present(caller), deadline)?;
                        if presented.replaceable
                            && is_newer(crate::VERSION, &presented.broker_version)
                        {
                            return Err(replace(connection, host, deadline)?);
                        }
                        lock(&state.handles).insert(caller.clone(), presented.handle.clone());
                        presented.handle
                    }
                };
                let left = deadline.saturating_duration_since(Instant::now());
                let wait_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
                // The broker's own error, which says what it waited for, should come before our time is up.
                let request = request(handle, wait_ms.saturating_sub(wait_ms / 20));
                match connection.ask(host, request, deadline) {
                    Err(Failed::Status(status))
                        if status.code() == Code::Unauthenticated && attempt < 2 =>
                    {
                        lock(&state.handles).remove(caller);
                    }
                    other => return other,
                }
            }
            unreachable!("the loop ends by returning")
        })
    }

    /// One call on a connection: an idle one, else a new one; again on another when it breaks.
    /// The calls are idempotent, and a broker that dies is found again within the call.
    fn call<T>(
        &self,
        host: &dyn Host,
        timeout: Duration,
        run: impl Fn(&mut Connection, &dyn Host, Instant) -> Result<T, Failed>,
    ) -> Result<T, ClientError> {
        let started = Instant::now();
        let deadline = started + timeout;
        let path = self.socket()?;
        let mut breaks = 0;
        loop {
            let timed_out = || ClientError::TimedOut {
                path: path.clone(),
                waited: started.elapsed(),
            };
            let mut connection = match self.idle(&path) {
                Some(connection) => connection,
                None => launch::connect(host, &path, deadline)?,
            };
            match run(&mut connection, host, deadline) {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(Failed::Status(status)) => {
                    self.keep(connection);
                    return Err(ClientError::Broker(status));
                }
                Err(Failed::TimedOut) => return Err(timed_out()),
                Err(Failed::Interrupted) => return Err(ClientError::Interrupted),
                Err(Failed::Broken(error)) => {
                    breaks += 1;
                    if Instant::now() >= deadline {
                        return Err(timed_out());
                    }
                    if breaks >= MOST_BREAKS {
                        return Err(ClientError::Broken { path, error });
                    }
                    // Brokers that die are replaced at once; one that closes every connection is not hurried.
                    if breaks > 2 {
                        std::thread::sleep(Duration::from_millis(2 * breaks));
                    }
                }
            }
        }
    }

    /// A live idle connection to that path.
    fn idle(&self, path: &std::path::Path) -> Option<Connection> {
        let state = self.state.get();
        loop {
            let mut connection = lock(&state.idle).pop()?;
            if connection.path() == path && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.state.get().idle);
        if idle.len() < KEPT_CONNECTIONS {
            idle.push(connection);
        }
    }
}

/// A question as a caller.
enum Call {
    Headers(GetHeadersRequest),
    Rejected(ReportRejectionRequest),
}

impl Answer {
    /// Parses a response; nothing that HTTP forbids gets past here.
    fn check(response: GetHeadersResponse) -> Result<Self, ClientError> {
        let bad = || ClientError::BadHeader {
            source_name: response.source.clone(),
        };
        let mut headers = Vec::with_capacity(response.headers.len());
        for header in &response.headers {
            if !is_valid_name(&header.name) || !is_valid_value(&header.value) {
                return Err(bad());
            }
            let value = std::str::from_utf8(&header.value).map_err(|_| bad())?;
            headers.push((header.name.clone(), Secret::new(value)));
        }
        Ok(Self {
            headers,
            revision: response.revision,
            max_age: Duration::from_millis(response.max_age_ms.into()),
            declined: Some(response.declined).filter(|d| !d.is_empty()),
            source: response.source,
        })
    }
}

/// Ends an older broker that a client has started, so that one of this version takes its place.
/// It finishes what is under way; a newer broker is never replaced by an older client.
fn replace(
    connection: &mut Connection,
    host: &dyn Host,
    deadline: Instant,
) -> Result<Failed, Failed> {
    connection.stop(host, StopRequest {}, deadline)?;
    Ok(Failed::Broken(
        "an older broker is being replaced".to_owned(),
    ))
}

/// Whether a version is higher than another, number by number; what is no version is not.
fn is_newer(ours: &str, theirs: &str) -> bool {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        let release = version.split(['-', '+']).next()?;
        release.split('.').map(|part| part.parse().ok()).collect()
    };
    matches!((numbers(ours), numbers(theirs)), (Some(ours), Some(theirs)) if ours > theirs)
}

fn present(caller: &Settings) -> PresentRequest {
    let setting = |(name, value): (&'static str, &Secret)| Setting {
        name: name.to_owned(),
        value: value.clone().into(),
    };
    PresentRequest {
        settings: caller.iter().map(setting).collect(),
        client_version: crate::VERSION.to_owned(),
    }
}

/// Every critical section here leaves its data whole, so a panic in one poisons nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn versions() {
        assert!(
            is_newer("0.3.1", "0.3.0") && is_newer("0.10.0", "0.9.9") && is_newer("1.0.0", "0.3.0")
        );
        assert!(!is_newer("0.3.0", "0.3.0") && !is_newer("0.3.0", "0.4.0"));
        assert!(
            !is_newer("0.3.0", "")
                && !is_newer("0.3.0", "unknown")
                && !is_newer("0.3.0", "0.3.0-rc1")
        );
    }
}
