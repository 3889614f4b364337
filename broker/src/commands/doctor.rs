//! `doctor`: the whole way from this shell's settings to a header; stops at the first break.

use std::time::Duration;

use clap::Args;
use mlflow_secrets_auth_core::client::{Answer, ClientError, Question};
use mlflow_secrets_auth_core::origins::{Origin, Scheme};
use mlflow_secrets_auth_core::variables::{Settings, TABLE};
use tonic_types::StatusExt;

use super::connect::{
    Acts, client, config_path, env, origin_of, settings, socket, timeout, uri_origins,
};
use super::exit;
use super::paint::{Mark, mark, say};
use crate::config::Configured;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  mlflow-secrets-auth doctor\n  mlflow-secrets-auth doctor --dry-run https://mlflow.example.com"
)]
pub(super) struct Doctor {
    /// Ask this server too, with the header that it would get
    #[arg(long, value_name = "URL")]
    dry_run: Option<String>,
}

/// The check ended; the findings have been printed.
struct Broken;

impl Doctor {
    pub(super) fn run(self) -> u8 {
        say("mlflow-secrets-auth doctor");
        say("==========================");
        match self.walk() {
            Ok(()) => {
                say("\nAll checks passed.");
                exit::HEALTHY
            }
            Err(Broken) => exit::PROBLEM,
        }
    }

    fn walk(&self) -> Result<(), Broken> {
        let settings = settings().map_err(|e| broken(&e.to_string()))?;
        let timeout = timeout().map_err(|e| broken(&e))?;
        self.environment(&settings)?;
        let socket = socket().map_err(|e| broken(&e.to_string()))?;
        let origin = self.origin(&settings)?;
        let uris = self.uris(&settings, &origin);
        let question = Question {
            origin: &origin,
            uri_origins: &uris,
            timeout,
            fresh: true,
        };
        let client = client();
        let answer = client.headers(&Acts, &settings, question);
        if let Ok(status) = client.status(&Acts, Duration::from_secs(5)) {
            mark(
                Mark::Good,
                &format!(
                    "broker: {} (pid {}) at {}",
                    status.version,
                    status.pid,
                    socket.display()
                ),
            );
            if status.version != mlflow_secrets_auth_core::VERSION {
                mark(
                    Mark::Note,
                    &format!(
                        "this command is {}: restart the broker with `mlflow-secrets-auth stop`",
                        mlflow_secrets_auth_core::VERSION
                    ),
                );
            }
            for warning in status.warnings {
                mark(Mark::Note, &warning);
            }
        }
        let answer = answer.map_err(|error| explain(&error, &settings))?;
        self.header(&answer, &origin)?;
        match &self.dry_run {
            Some(_) => self.ask_server(&answer, &origin),
            None => Ok(()),
        }
    }

    fn environment(&self, settings: &Settings) -> Result<(), Broken> {
        let enabled = settings
            .enabled_providers()
            .map_err(|e| broken(&e.to_string()))?;
        if enabled.is_empty() {
            let path = config_path().unwrap_or_default();
            let configured = Configured::load(path.clone()).map_err(|e| broken(&e.to_string()))?;
            let loaded = configured.current();
            if let Some(error) = &loaded.error {
                return Err(broken(&format!(
                    "{error}. Correct the file, then run `mlflow-secrets-auth reload`"
                )));
            }
            if loaded.config.routes.is_empty() {
                return Err(broken(&format!(
                    "no provider is enabled. Set MLFLOW_SECRETS_AUTH_ENABLE to one of vault, aws-secrets-manager, azure-key-vault, file, or write a [[route]] into {}",
                    path.display()
                )));
            }
            mark(
                Mark::Good,
                &format!(
                    "settings: {} routes in {}",
                    loaded.config.routes.len(),
                    path.display()
                ),
            );
        } else {
            mark(
                Mark::Good,
                &format!("settings: provider {}", enabled.join(", then ")),
            );
        }
        match env("MLFLOW_TRACKING_AUTH") {
            Some(name) if name == "mlflow_secrets_auth" => mark(
                Mark::Good,
                "activation: MLFLOW_TRACKING_AUTH=mlflow_secrets_auth",
            ),
            Some(_) => mark(
                Mark::Note,
                "activation: MLFLOW_TRACKING_AUTH names another plugin; set it to mlflow_secrets_auth",
            ),
            None => mark(
                Mark::Note,
                "activation: MLFLOW_TRACKING_AUTH is not set here; MLflow uses this plugin only with MLFLOW_TRACKING_AUTH=mlflow_secrets_auth",
            ),
        }
        for row in TABLE {
            let set: Vec<_> = row.spellings().filter(|name| env(name).is_some()).collect();
            if let [winner, rest @ ..] = set.as_slice()
                && !rest.is_empty()
            {
                mark(
                    Mark::Note,
                    &format!("{winner} wins over {}", rest.join(", ")),
                );
            }
        }
        for name in ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"] {
            if env(name).is_some() {
                mark(
                    Mark::Note,
                    &format!(
                        "{name} is set too; the plugin's header replaces what MLflow makes of it"
                    ),
                );
            }
        }
        Ok(())
    }

    /// The origin that is asked about: the URL's, else the tracking URI's, else one that the settings allow.
    fn origin(&self, settings: &Settings) -> Result<Origin, Broken> {
        if let Some(url) = &self.dry_run {
            return origin_of(url).ok_or_else(|| broken("--dry-run: this is not a URL of the form http[s]://host[:port]/. Write it out in full"));
        }
        if let Some(origin) = uri_origins().into_iter().next() {
            return Ok(origin);
        }
        let hosts = settings
            .get("MLFLOW_SECRETS_ALLOWED_HOSTS")
            .unwrap_or_default();
        let plain = hosts
            .split(',')
            .map(str::trim)
            .find(|h| !h.is_empty() && !h.contains(['*', '?', '[']));
        let url = format!("https://{}", plain.unwrap_or("tracking-uri.invalid"));
        origin_of(&url)
            .ok_or_else(|| broken("MLFLOW_SECRETS_ALLOWED_HOSTS holds no host name. Correct it"))
    }

    /// Without a tracking URI in the environment the one that a script sets is what counts.
    fn uris(&self, settings: &Settings, origin: &Origin) -> Vec<Origin> {
        let uris = uri_origins();
        if settings.get("MLFLOW_SECRETS_ALLOWED_HOSTS").is_some() || !uris.is_empty() {
            return uris;
        }
        mark(
            Mark::Note,
            "MLFLOW_TRACKING_URI is not set here: the URI that a script sets will decide who gets the header",
        );
        vec![origin.clone()]
    }

    fn header(&self, answer: &Answer, origin: &Origin) -> Result<(), Broken> {
        if let Some(reason) = &answer.declined {
            return Err(broken(&format!("{origin} gets no header: {reason}")));
        }
        let steps: &[&str] = if answer.source.starts_with("file:") {
            &LOCAL
        } else {
            &REMOTE
        };
        for step in &steps[1..] {
            mark(Mark::Good, &format!("{}: {step}", answer.source));
        }
        let names: Vec<_> = answer
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        mark(
            Mark::Good,
            &format!(
                "header: {} of revision {} for {origin}",
                names.join(", "),
                answer.revision
            ),
        );
        if origin.scheme() == Scheme::Http && !origin.is_loopback() {
            mark(
                Mark::Note,
                &format!("{origin} is plain http: everyone on the way can read the header"),
            );
        }
        Ok(())
    }

    fn ask_server(&self, answer: &Answer, origin: &Origin) -> Result<(), Broken> {
        match super::super::dry_run::head(origin, answer) {
            Ok(status @ (401 | 403)) => Err(broken(&format!(
                "{origin} answered {status} to a request with the header: it does not accept this credential. Check the secret, the auth mode and the header name"
            ))),
            Ok(status) => {
                mark(Mark::Good, &format!("dry run: {origin} answered {status}"));
                Ok(())
            }
            Err(error) => {
                mark(
                    Mark::Note,
                    &format!("dry run: no answer from {origin}: {error}"),
                );
                Ok(())
            }
        }
    }
}

/// The steps on the way to a header, in their order.
const REMOTE: [&str; 6] = [
    "settings",
    "address and connection",
    "TLS",
    "login",
    "permission",
    "secret",
];
const LOCAL: [&str; 4] = ["settings", "file", "permission", "secret"];

/// The steps before the one that a class of failure belongs to were good.
fn explain(error: &ClientError, settings: &Settings) -> Broken {
    let ClientError::Broker(status) = error else {
        return broken(&error.to_string());
    };
    let reason = status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default();
    let local = settings
        .enabled_providers()
        .is_ok_and(|enabled| enabled == ["file"]);
    let steps: &[&str] = if local { &LOCAL } else { &REMOTE };
    let step = match reason.as_str() {
        "NOT_CONFIGURED" | "REFUSED" => "settings",
        "CANNOT_REACH" | "SEALED" | "THROTTLED" if !local => "address and connection",
        "TLS" => "TLS",
        "NOT_AUTHENTICATED" => "login",
        "NOT_PERMITTED" => "permission",
        "NOT_FOUND" | "CANNOT_REACH" if local => "file",
        "NOT_FOUND" | "BAD_SECRET" => "secret",
        _ => return broken(status.message()),
    };
    for good in steps.iter().skip(1).take_while(|s| **s != step) {
        if step != "settings" {
            mark(Mark::Good, good);
        }
    }
    broken(&format!("{step}: {}", status.message()))
}

fn broken(what: &str) -> Broken {
    mark(Mark::Bad, what);
    Broken
}
