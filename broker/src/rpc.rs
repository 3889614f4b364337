//! gRPC in, domain out; no rules of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlflow_secrets_auth_core::contract::broker_server::Broker as Contract;
use mlflow_secrets_auth_core::contract::{
    FlushRequest, FlushResponse, GetHeadersRequest, GetHeadersResponse, GetStatusRequest,
    GetStatusResponse, Header, PresentRequest, PresentResponse, ReloadRequest, ReloadResponse,
    ReportRejectionRequest, StopRequest, StopResponse,
};
use mlflow_secrets_auth_core::origins::Origin;
use mlflow_secrets_auth_core::variables::Settings;
use tokio::time::Instant;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::broker::{AUTO_START, Broker, Outcome, Question, Why};
use crate::callers::{Caller, Handle};
use crate::errors::{Class, Failure};
use crate::report;

/// Nobody waits longer than this, whatever a request says.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A declined origin is asked about again after this time: the allowlist may be a file's.
const DECLINED_MAX_AGE_MS: u32 = 5_000;

/// The contract's service.
pub(crate) struct Service(pub(crate) Arc<Broker>);

#[tonic::async_trait]
impl Contract for Service {
    async fn present(
        &self,
        request: Request<PresentRequest>,
    ) -> Result<Response<PresentResponse>, Status> {
        let peer = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred?.pid());
        let request = request.into_inner();
        let pairs = request
            .settings
            .into_iter()
            .map(|setting| (setting.name, setting.value.to_vec()));
        let settings = Settings::accept(pairs).map_err(|bad| Failure::from(bad).to_status())?;
        if settings.names_files() {
            same_files(peer).map_err(|failure| failure.to_status())?;
        }
        let handle = self
            .0
            .callers
            .present(settings)
            .map_err(|failure| failure.to_status())?;
        tracing::debug!(pid = peer, client = %printable(&request.client_version), "presented");
        Ok(Response::new(PresentResponse {
            handle: Bytes::copy_from_slice(&handle),
            broker_version: mlflow_secrets_auth_core::VERSION.to_owned(),
            replaceable: self.0.facts.started_by == AUTO_START,
        }))
    }

    async fn get_headers(
        &self,
        request: Request<GetHeadersRequest>,
    ) -> Result<Response<GetHeadersResponse>, Status> {
        let request = request.into_inner();
        let caller = self.caller(&request.handle)?;
        self.answer(
            &caller,
            &request.origin,
            &request.uri_origins,
            request.wait_ms,
            Why::Asked {
                fresh: request.fresh,
            },
        )
        .await
    }

    async fn report_rejection(
        &self,
        request: Request<ReportRejectionRequest>,
    ) -> Result<Response<GetHeadersResponse>, Status> {
        let request = request.into_inner();
        let caller = self.caller(&request.handle)?;
        let status = match request.status {
            401 => 401,
            403 => 403,
            _ => return Err(Status::invalid_argument("status is neither 401 nor 403")),
        };
        self.answer(
            &caller,
            &request.origin,
            &request.uri_origins,
            request.wait_ms,
            Why::Rejected {
                revision: request.revision,
                status,
            },
        )
        .await
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(report::status(&self.0)))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadResponse>, Status> {
        let routes = self
            .0
            .reload()
            .map_err(|error| Failure::from(error).to_status())?;
        Ok(Response::new(ReloadResponse {
            config_path: self.0.configured.path().display().to_string(),
            routes: u32::try_from(routes).unwrap_or(u32::MAX),
        }))
    }

    async fn flush(&self, _: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        let sources = self.0.keeper.flush();
        self.0.callers.flush();
        tracing::info!(sources, "flushed");
        Ok(Response::new(FlushResponse {
            sources: u32::try_from(sources).unwrap_or(u32::MAX),
        }))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        tracing::info!("asked to stop");
        self.0.stop.notify_one();
        Ok(Response::new(StopResponse {
            pid: std::process::id(),
        }))
    }
}

impl Service {
    fn caller(&self, handle: &[u8]) -> Result<Arc<Caller>, Status> {
        let unknown = || {
            Status::unauthenticated(
                "this handle is not known to this broker; present the caller again",
            )
        };
        let handle: Handle = handle.try_into().map_err(|_| unknown())?;
        self.0.callers.get(&handle).ok_or_else(unknown)
    }

    async fn answer(
        &self,
        caller: &Caller,
        origin: &str,
        uri_origins: &[String],
        wait_ms: u32,
        why: Why,
    ) -> Result<Response<GetHeadersResponse>, Status> {
        let origin =
            Origin::parse(origin).map_err(|e| Status::invalid_argument(format!("origin: {e}")))?;
        // What is no origin matches none.
        let uri_origins: Vec<Origin> = uri_origins
            .iter()
            .filter_map(|text| Origin::parse(text).ok())
            .collect();
        let wait = Duration::from_millis(wait_ms.into()).min(LONGEST_WAIT);
        let question = Question {
            origin: &origin,
            uri_origins: &uri_origins,
            deadline: Instant::now() + wait,
            why,
        };
        let outcome = self
            .0
            .answer(caller, &question)
            .await
            .map_err(|failure| failure.to_status())?;
        Ok(Response::new(match outcome {
            Outcome::Declined(reason) => GetHeadersResponse {
                declined: reason,
                max_age_ms: DECLINED_MAX_AGE_MS,
                ..GetHeadersResponse::default()
            },
            Outcome::Headers { served, source } => GetHeadersResponse {
                headers: served
                    .credential
                    .headers
                    .iter()
                    .map(|(name, value)| Header {
                        name: name.clone(),
                        value: value.clone().into(),
                    })
                    .collect(),
                revision: served.revision,
                max_age_ms: u32::try_from(served.max_age.as_millis()).unwrap_or(u32::MAX),
                source,
                declined: String::new(),
            },
        }))
    }
}

/// A caller that names files means the files that it sees itself.
fn same_files(pid: Option<i32>) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = namespace("self");
        let theirs = pid
            .filter(|pid| *pid > 0)
            .and_then(|pid| namespace(&pid.to_string()));
        // Without a mounted /proc nobody's can be told apart.
        if ours.is_some() && ours != theirs {
            return Err(Failure::new(
                Class::Refused,
                "this process names files, and it sees other files than the broker does (another container or mount namespace)",
                "Start a broker in the same container, or give the credential by settings that name no file",
            ));
        }
    }
    let _ = (pid, Class::Refused);
    Ok(())
}

/// A peer's text, safe for a log.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_graphic())
        .take(40)
        .collect()
}
