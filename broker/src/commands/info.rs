//! `info`: version, enabled providers and settings; talks to nobody.

use mlflow_secrets_auth_core::headers::{DEFAULT_NAME, canonical_name};
use mlflow_secrets_auth_core::variables::{Kind, PROVIDERS, Role, TABLE};

use super::connect::{config_path, env, settings, socket};
use super::exit;
use super::paint::{Mark, mark, say};
use crate::providers;

pub(super) fn run() -> u8 {
    say("mlflow-secrets-auth");
    say("===================");
    mark(
        Mark::Good,
        &format!("Version: {}", mlflow_secrets_auth_core::VERSION),
    );
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            mark(Mark::Bad, &error.to_string());
            return exit::PROBLEM;
        }
    };
    let enabled = settings.enabled_providers().unwrap_or_default();
    if enabled.is_empty() {
        mark(
            Mark::Note,
            "Enabled providers: none in this environment; config.toml decides",
        );
    } else {
        mark(
            Mark::Good,
            &format!("Enabled providers: {}", enabled.join(", ")),
        );
    }
    let disabled = PROVIDERS.iter().copied().filter(|p| !enabled.contains(p));
    let disabled: Vec<_> = disabled
        .map(|name| match providers::named(name) {
            Ok(_) => name.to_owned(),
            Err(_) => format!("{name} (not in this version)"),
        })
        .collect();
    mark(
        Mark::Plain,
        &format!("Disabled providers: {}", disabled.join(", ")),
    );
    match env("MLFLOW_SECRETS_ALLOWED_HOSTS") {
        Some(hosts) => mark(Mark::Good, &format!("Allowed hosts: {hosts}")),
        None => mark(
            Mark::Good,
            "Allowed hosts: those of the tracking and registry URIs",
        ),
    }
    let header = env("MLFLOW_AUTH_HEADER_NAME").unwrap_or_else(|| DEFAULT_NAME.to_owned());
    mark(
        Mark::Good,
        &format!("Auth header: {}", canonical_name(&header)),
    );
    match env("MLFLOW_TRACKING_AUTH") {
        Some(name) if name == "mlflow_secrets_auth" => mark(
            Mark::Good,
            "Activation: MLFLOW_TRACKING_AUTH=mlflow_secrets_auth",
        ),
        _ => mark(
            Mark::Note,
            "Activation: set MLFLOW_TRACKING_AUTH=mlflow_secrets_auth",
        ),
    }
    match socket() {
        Ok(path) => mark(Mark::Plain, &format!("Socket: {}", path.display())),
        Err(error) => mark(Mark::Bad, &error.to_string()),
    }
    if let Some(path) = config_path() {
        let there = if path.exists() { "" } else { " (no such file)" };
        mark(Mark::Plain, &format!("Config: {}{there}", path.display()));
    }
    say("\nSettings that a process with this environment presents:");
    let mut any = false;
    for (name, _) in settings.iter() {
        any = true;
        let row = TABLE.iter().find(|v| v.name == name);
        let shown = match row.map(|v| v.kind) {
            Some(Kind::Secret) | None => "(set, not shown)".to_owned(),
            Some(_) => settings.get(name).unwrap_or_default().to_owned(),
        };
        mark(Mark::Plain, &format!("{name}={shown}"));
    }
    for row in TABLE.iter().filter(|v| v.role == Role::Client) {
        if let Some(value) = env(row.name) {
            any = true;
            mark(
                Mark::Plain,
                &format!("{}={value} (stays in the process)", row.name),
            );
        }
    }
    if !any {
        mark(Mark::Plain, "none");
    }
    exit::HEALTHY
}
