//! The command's own way to the broker, and what this shell's environment says.

use std::path::PathBuf;
use std::time::Duration;

use mlflow_secrets_auth_core::client::{Client, ClientError, Host, Launch};
use mlflow_secrets_auth_core::origins::Origin;
use mlflow_secrets_auth_core::socket::{Places, SocketError, locate};
use mlflow_secrets_auth_core::variables::{BadSetting, NotUnicode, Settings, is_true};

use super::exit;

/// How long an answer may take where the environment does not say.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A command that only looks; it starts no broker.
pub(super) struct Looks;

/// A command that stands in for a process: it starts a broker as a process would.
pub(super) struct Acts;

impl Host for Looks {
    fn launch(&self) -> Result<Option<Launch>, String> {
        Ok(None)
    }
}

impl Host for Acts {
    fn launch(&self) -> Result<Option<Launch>, String> {
        if env("MLFLOW_SECRETS_AUTH_AUTOSTART").is_some_and(|word| !is_true(&word)) {
            return Ok(None);
        }
        let command = std::env::current_exe().map_err(|e| {
            format!("this program cannot find itself ({e}). Install mlflow-secrets-auth again")
        })?;
        Ok(Some(Launch {
            command,
            config: config_path(),
        }))
    }
}

/// A variable of this shell; blank counts as unset.
pub(super) fn env(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// The places that this shell names.
pub(super) fn places() -> Places {
    Places {
        explicit: path("MLFLOW_SECRETS_AUTH_SOCKET").and_then(|p| std::path::absolute(p).ok()),
        runtime_dir: path("XDG_RUNTIME_DIR"),
        temporary_dir: path("TMPDIR"),
    }
}

/// Where clients of this shell look for the broker.
pub(super) fn socket() -> Result<PathBuf, SocketError> {
    locate(&places())
}

/// The configuration file of this shell's user.
pub(super) fn config_path() -> Option<PathBuf> {
    let base = path("XDG_CONFIG_HOME").filter(|p| p.is_absolute());
    let base = base.or_else(|| {
        path("HOME")
            .filter(|p| p.is_absolute())
            .map(|home| home.join(".config"))
    });
    base.map(|base| base.join("mlflow-secrets-auth").join("config.toml"))
}

/// What a process with this shell's environment would present.
pub(super) fn settings() -> Result<Settings, BadSetting> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    Settings::gather(
        |name| std::env::var_os(name).map(|value| value.into_string().map_err(|_| NotUnicode)),
        &cwd,
    )
}

/// The origins of the tracking and registry URIs that the environment names.
pub(super) fn uri_origins() -> Vec<Origin> {
    ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"]
        .iter()
        .filter_map(|name| origin_of(&env(name)?))
        .collect()
}

/// The origin of a URL in plain notation; `None` where a person has to look twice.
pub(super) fn origin_of(url: &str) -> Option<Origin> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    // A user name may stand before the host; nothing else may.
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    Origin::parse(&format!("{}://{host}", scheme.to_ascii_lowercase())).ok()
}

/// How long an answer may take.
pub(super) fn timeout() -> Result<Duration, String> {
    let Some(text) = env("MLFLOW_SECRETS_AUTH_TIMEOUT") else {
        return Ok(TIMEOUT);
    };
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("MLFLOW_SECRETS_AUTH_TIMEOUT is not a number of seconds between 0 and 3600. Correct or unset it".to_owned()),
    }
}

/// A client for this shell's broker.
pub(super) fn client() -> Client {
    Client::new(places())
}

/// Says what went wrong, and returns the exit code for it.
pub(super) fn complain(error: &ClientError) -> u8 {
    eprintln!("error: {error}");
    match error {
        ClientError::NotRunning(_) => exit::NOT_RUNNING,
        _ => exit::PROBLEM,
    }
}
