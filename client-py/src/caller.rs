//! This process's settings at one moment, and the broker that they lead to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mlflow_secrets_auth_core::client::{self, Client, Question};
use mlflow_secrets_auth_core::origins::{Origin, Patterns};
use mlflow_secrets_auth_core::socket::Places;
use mlflow_secrets_auth_core::variables::Settings;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::answer::Answer;
use crate::environment::{Environment, Uri};
use crate::errors::{failure, guard};
use crate::process::{Process, Starting};

const ALLOWED_HOSTS: &str = "MLFLOW_SECRETS_ALLOWED_HOSTS";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// A declined origin stays declined as long as the settings do; the limit is for the map's sake.
const DECLINED_FOR: Duration = Duration::from_secs(300);

/// The settings that decide where this process's credentials come from, as of one moment.
#[pyclass(frozen, module = "mlflow_secrets_auth._client")]
pub(crate) struct Caller {
    settings: Settings,
    places: Places,
    client: Arc<Client>,
    timeout: Duration,
    starting: Starting,
    environment: Environment,
    tracking: Uri,
    registry: Uri,
    /// The tracking URI in effect; None: MLflow's default.
    #[pyo3(get)]
    tracking_uri: Option<String>,
    /// The registry URI in effect; None: the tracking URI.
    #[pyo3(get)]
    registry_uri: Option<String>,
}

impl Caller {
    /// Gathers the settings. Keeps the connections of the caller before it where it can.
    pub(crate) fn gather(py: Python<'_>, before: Option<&Self>) -> PyResult<Self> {
        let environment = Environment::take(py)?;
        let (tracking, registry) = (Uri::tracking(py)?, Uri::registry(py)?);
        // Only relative paths need it, and not every process has one.
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let settings = Settings::gather(|name| environment.get(py, name), &cwd).map_err(failure)?;
        let path = |name: &str| environment.text(py, name).map(PathBuf::from);
        let places = Places {
            explicit: path("MLFLOW_SECRETS_AUTH_SOCKET"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            temporary_dir: path("TMPDIR"),
        };
        let client = match before {
            Some(before) if before.places == places => Arc::clone(&before.client),
            _ => Arc::new(Client::new(places.clone())),
        };
        let off = |text: String| {
            ["0", "false", "no", "off"]
                .iter()
                .any(|o| text.eq_ignore_ascii_case(o))
        };
        let starting = Starting {
            allowed: !environment
                .text(py, "MLFLOW_SECRETS_AUTH_AUTOSTART")
                .is_some_and(off),
            config: path("XDG_CONFIG_HOME")
                .filter(|p| p.is_absolute())
                .or_else(|| {
                    path("HOME")
                        .filter(|p| p.is_absolute())
                        .map(|home| home.join(".config"))
                })
                .map(|base| base.join("mlflow-secrets-auth/config.toml")),
        };
        Ok(Self {
            tracking_uri: tracking
                .get(py)
                .or_else(|| environment.text(py, "MLFLOW_TRACKING_URI")),
            registry_uri: registry
                .get(py)
                .or_else(|| environment.text(py, "MLFLOW_REGISTRY_URI")),
            timeout: timeout(environment.text(py, "MLFLOW_SECRETS_AUTH_TIMEOUT"))?,
            settings,
            places,
            client,
            starting,
            environment,
            tracking,
            registry,
        })
    }

    /// Whether this process would still gather the same.
    pub(crate) fn holds(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.environment.holds(py)? && self.tracking.holds(py)? && self.registry.holds(py)?)
    }

    /// Why the settings alone rule the origin out. The broker decides again, by the same rule.
    fn declined(&self, origin: &Origin, uri_origins: &[Origin]) -> Result<Option<String>, String> {
        let host = origin.host();
        if let Some(list) = self.settings.get(ALLOWED_HOSTS) {
            let patterns = Patterns::parse_list(list).map_err(|bad| {
                format!("{ALLOWED_HOSTS}: {bad}. Write a comma list such as mlflow.example.com,*.corp.example.com")
            })?;
            let reason = || {
                format!(
                    "{origin} matches none of {ALLOWED_HOSTS} ({patterns}). Add {host} to it if this server may have your credential"
                )
            };
            return Ok((!patterns.allow(origin)).then(reason));
        }
        // Without a provider the routes of the configuration file decide, in the broker.
        if self.settings.is_empty() || uri_origins.contains(origin) {
            return Ok(None);
        }
        Ok(Some(format!(
            "{origin} is neither the tracking nor the registry URI. Set {ALLOWED_HOSTS} to a list with {host} if this server may have your credential"
        )))
    }

    fn question(
        &self,
        py: Python<'_>,
        origin: &str,
        uri_origins: Vec<String>,
        run: impl FnOnce(&Process<'_>, Question<'_>) -> Result<client::Answer, client::ClientError>
        + Send,
    ) -> PyResult<Answer> {
        let parse =
            |text: &str| Origin::parse(text).map_err(|e| PyValueError::new_err(e.to_string()));
        let origin = parse(origin)?;
        let uri_origins = uri_origins
            .iter()
            .map(|o| parse(o))
            .collect::<PyResult<Vec<_>>>()?;
        if let Some(reason) = self.declined(&origin, &uri_origins).map_err(failure)? {
            let answer = client::Answer {
                headers: Vec::new(),
                revision: 0,
                max_age: DECLINED_FOR,
                source: String::new(),
                declined: Some(reason),
            };
            return Answer::from_core(py, &answer);
        }
        let process = Process::new(&self.starting);
        let question = Question {
            origin: &origin,
            uri_origins: &uri_origins,
            timeout: self.timeout,
            fresh: false,
        };
        match py.detach(|| run(&process, question)) {
            Ok(answer) => Answer::from_core(py, &answer),
            Err(error) => Err(process.exception(error)),
        }
    }
}

#[pymethods]
impl Caller {
    /// The headers for a request to an origin (`scheme://host[:port]`).
    fn ask(&self, py: Python<'_>, origin: &str, uri_origins: Vec<String>) -> PyResult<Answer> {
        guard(|| {
            self.question(py, origin, uri_origins, |process, question| {
                self.client.headers(process, &self.settings, question)
            })
        })
    }

    /// Reports that a server rejected a revision's headers; the answer is what to send instead.
    fn rejected(
        &self,
        py: Python<'_>,
        origin: &str,
        uri_origins: Vec<String>,
        revision: u64,
        status: u16,
    ) -> PyResult<Answer> {
        guard(|| {
            self.question(py, origin, uri_origins, |process, question| {
                self.client
                    .rejected(process, &self.settings, question, revision, status)
            })
        })
    }
}

/// `MLFLOW_SECRETS_AUTH_TIMEOUT`: seconds, whole or not.
fn timeout(text: Option<String>) -> PyResult<Duration> {
    const LONGEST: f64 = 3600.0;
    let Some(text) = text else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => {
            Ok(Duration::from_secs_f64(seconds.min(LONGEST)))
        }
        _ => Err(failure(
            "MLFLOW_SECRETS_AUTH_TIMEOUT is not a number of seconds above 0. Set it to one such as 15, or unset it",
        )),
    }
}
