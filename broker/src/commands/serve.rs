//! `serve`: the daemon.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::contract::broker_server::BrokerServer;
use mlflow_secrets_auth_core::contract::{DESCRIPTORS, MAX_MESSAGE};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

use super::{connect, exit};
use crate::broker::{AUTO_START, Broker, Facts};
use crate::config::Configured;
use crate::confine::{self, Starter};
use crate::listener::{ListenError, Listener, Place, Track, incoming};
use crate::logging;
use crate::rpc::Service;
use crate::wipe;

/// A broker that a client started ends when nobody has used it for so long.
const IDLE_TIMEOUT_S: u64 = 900;

/// How long requests under way may go on after a stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How long a broker that leaves may take: its last requests, and giving back its tokens.
const LEAVING: Duration = Duration::from_secs(10);

/// How often the broker looks whether it is still wanted.
const LOOK_ROUND: Duration = Duration::from_secs(30);

/// Requests that one connection may have under way; more wait.
const REQUESTS_PER_CONNECTION: usize = 256;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  mlflow-secrets-auth serve\n  mlflow-secrets-auth serve --socket /run/user/1000/b.sock --log-level debug"
)]
pub(super) struct Serve {
    /// The socket [default: where the clients look, see `mlflow-secrets-auth info`]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The configuration file [default: ~/.config/mlflow-secrets-auth/config.toml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// End after so many seconds without a request; 0: never [default: 0, or 900 with --detach]
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// Go to the background once the socket listens.
    #[arg(long)]
    detach: bool,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: logging::Level,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
}

impl Serve {
    pub(super) fn run(self) -> u8 {
        // What the environment has to say about places is read first; then it is gone.
        let socket = self.socket.clone().map_or_else(connect::socket, Ok);
        let config = self.config.clone().or_else(connect::config_path);
        let activated = confine::activated_socket();
        confine::clear_environment();
        confine::harden();
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => return complain(&error),
        };
        let starter = if self.detach {
            match confine::detach() {
                Ok(starter) => Some(starter),
                Err(error) => {
                    return complain(&format!(
                        "cannot go to the background: {error}. Run `mlflow-secrets-auth serve`"
                    ));
                }
            }
        } else {
            logging::start(self.log_level, self.log_json);
            None
        };
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                return fail(
                    starter,
                    &format!(
                        "this system has no event queue to give: {error}. Raise its limits (ulimit -n)"
                    ),
                );
            }
        };
        runtime.block_on(async {
            let listener = match activated {
                Some(listener) => Listener::adopt(listener),
                None if starter.is_some() => bind_after_another(&socket).await,
                None => Listener::bind(&socket),
            };
            let listener = match listener {
                Ok(listener) => listener,
                // Somebody else was quicker, which is all that a client wants.
                Err(ListenError::Taken(_)) if starter.is_some() => {
                    if let Some(starter) = starter {
                        starter.ready();
                    }
                    return exit::HEALTHY;
                }
                Err(error) => return fail(starter, &error.to_string()),
            };
            self.serve(listener, config.unwrap_or_default(), starter)
                .await
        })
    }

    async fn serve(self, listener: Listener, config: PathBuf, starter: Option<Starter>) -> u8 {
        let configured = match Configured::load(config) {
            Ok(configured) => configured,
            Err(error) => {
                return fail(
                    starter,
                    &format!(
                        "{error}. Its [policy] binds this user, so nothing is served until it is corrected"
                    ),
                );
            }
        };
        let facts = Facts {
            socket: listener.path.clone(),
            started_by: match (self.detach, listener.is_adopted()) {
                (true, _) => AUTO_START,
                (false, true) => "socket activation",
                (false, false) => "foreground",
            },
            started_at: Moment::now(),
        };
        let (socket, place) = match listener.split() {
            Ok(split) => split,
            Err(error) => return fail(starter, &format!("cannot listen: {error}")),
        };
        let broker = Broker::new(configured, facts);
        if let Some(error) = &broker.configured.current().error {
            tracing::warn!(%error, "the configuration file is not in force");
        }
        let idle = self
            .idle_timeout
            .unwrap_or(if self.detach { IDLE_TIMEOUT_S } else { 0 });
        let idle = (idle > 0).then(|| Duration::from_secs(idle));

        tokio::spawn(Arc::clone(&broker.keeper).run());
        let (_health_reporter, health) = health().await;
        let service = BrokerServer::new(Service(Arc::clone(&broker)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let server = Server::builder()
            .layer(Track(Arc::clone(&broker)))
            .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
            .max_frame_size(None)
            .add_service(service)
            .add_service(health);
        // Both versions: older tools ask for the second.
        let server = match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => server.add_service(v1).add_service(v1alpha),
            _ => server,
        };
        tracing::info!(socket = %place_of(&broker), version = mlflow_secrets_auth_core::VERSION, "serving");
        if let Some(starter) = starter {
            starter.ready();
        }
        let serving = server.serve_with_incoming(incoming(socket, Arc::clone(&broker)));
        tokio::select! {
            result = serving => {
                if let Err(error) = result {
                    tracing::error!(%error, "the listener ended");
                }
            }
            reason = until_unwanted(&broker, &place, idle) => {
                tracing::info!(reason, "ending");
                // The name goes first: who comes now starts a new broker, after this lock is gone.
                place.leave();
                last_requests(&broker).await;
                broker.keeper.close().await;
            }
        }
        exit::HEALTHY
    }
}

/// Takes the place over from a broker that is leaving it: its socket is gone, its lock not yet.
async fn bind_after_another(socket: &Path) -> Result<Listener, ListenError> {
    let deadline = tokio::time::Instant::now() + LEAVING;
    loop {
        match Listener::bind(socket) {
            Err(ListenError::Taken(_))
                if !socket.exists() && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            result => return result,
        }
    }
}

fn place_of(broker: &Broker) -> String {
    broker.facts.socket.display().to_string()
}

/// Waits for a reason to end.
async fn until_unwanted(broker: &Broker, place: &Place, idle: Option<Duration>) -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        return "signals cannot be received";
    };
    let pause = idle.map_or(LOOK_ROUND, |idle| idle.min(LOOK_ROUND));
    loop {
        tokio::select! {
            _ = terminate.recv() => return "terminated",
            _ = interrupt.recv() => return "interrupted",
            _ = hangup.recv() => { let _ = broker.reload(); }
            () = broker.stop.notified() => return "asked to",
            () = tokio::time::sleep(pause) => {
                broker.callers.sweep();
                broker.keeper.sweep();
                wipe::give_back();
                if !place.is_ours() {
                    return "the socket was removed or replaced";
                }
                if idle.is_some_and(|idle| broker.unused_for() >= idle) {
                    return "unused";
                }
            }
        }
    }
}

/// Lets requests under way finish, the one that asked for the end among them.
async fn last_requests(broker: &Broker) {
    let deadline = tokio::time::Instant::now() + LAST_REQUESTS;
    while broker.in_flight.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Answers that are written leave the process with the connections' next turns.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn health() -> (
    tonic_health::server::HealthReporter,
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_serving::<BrokerServer<Service>>().await;
    (reporter, service)
}

fn complain(error: &dyn std::fmt::Display) -> u8 {
    eprintln!("error: {error}");
    exit::PROBLEM
}

fn fail(starter: Option<Starter>, why: &str) -> u8 {
    match starter {
        Some(starter) => starter.failed(why),
        None => return complain(&why),
    }
    process::exit(exit::PROBLEM.into())
}
