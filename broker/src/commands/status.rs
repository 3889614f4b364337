//! `status`: what the broker is doing, for people and for programs.

use std::time::Duration;

use clap::Args;
use mlflow_secrets_auth_core::client::ClientError;
use mlflow_secrets_auth_core::contract::{
    GetStatusResponse, LoginStatus, Problem, RouteStatus, SourceStatus,
};
use serde_json::{Value, json};

use super::connect::{Looks, client, complain};
use super::exit;
use super::paint::{say, span, tinted, wrap};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(after_help = "Exit codes: 0 healthy, 1 a source is failing or stale, 3 no broker runs.")]
pub(super) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> u8 {
        let status = match client().status(&Looks, TIMEOUT) {
            Ok(status) => status,
            Err(error) => {
                if self.json {
                    let running = !matches!(error, ClientError::NotRunning(_));
                    say(&json!({"running": running, "error": error.to_string()}).to_string());
                }
                return complain(&error);
            }
        };
        if self.json {
            say(&format!("{:#}", as_json(&status)));
        } else {
            show(&status);
        }
        if is_healthy(&status) {
            exit::HEALTHY
        } else {
            exit::PROBLEM
        }
    }
}

fn is_healthy(status: &GetStatusResponse) -> bool {
    status.warnings.is_empty()
        && status
            .sources
            .iter()
            .all(|s| !matches!(s.state.as_str(), "failing" | "stale"))
}

fn show(status: &GetStatusResponse) {
    say(&format!(
        "mlflow-secrets-auth {}, pid {}, up {} ({})",
        status.version,
        status.pid,
        span(status.uptime_ms),
        status.started_by
    ));
    say(&format!("socket  {}", status.socket));
    say(&format!(
        "config  {} ({})",
        status.config_path, status.config_state
    ));
    say(&format!(
        "{} callers, {} connections, {} answers given",
        status.callers, status.connections, status.answers
    ));
    for warning in &status.warnings {
        block(&tinted("warning", false), warning);
    }
    if !status.routes.is_empty() {
        say("\nROUTES");
    }
    for route in &status.routes {
        show_route(route);
    }
    if status.sources.is_empty() {
        say("\nno source has been asked for yet");
    } else {
        say("\nSOURCES");
    }
    for source in &status.sources {
        show_source(source);
    }
    if !status.logins.is_empty() {
        say("\nLOGINS");
    }
    for login in &status.logins {
        show_login(login);
    }
}

fn show_route(route: &RouteStatus) {
    let hosts = if route.hosts.is_empty() {
        "the tracking and registry URIs".to_owned()
    } else {
        route.hosts.join(", ")
    };
    say(&format!("  {hosts}"));
    block("from", &route.source);
    let mode = if route.auth_mode.is_empty() {
        String::new()
    } else {
        format!(
            "{} in {}, fresh for {}; ",
            route.auth_mode,
            route.header,
            span(route.ttl_ms)
        )
    };
    block("as", &format!("{mode}set by {}", route.place));
}

fn show_source(source: &SourceStatus) {
    say(&format!("  {}", source.source));
    let mut facts = vec![tinted(
        &source.state,
        matches!(source.state.as_str(), "fresh" | "empty"),
    )];
    if let Some(since) = source.stale_since_ms {
        facts.push(format!("since {}", span(since)));
    }
    if let Some(age) = source.age_ms {
        facts.push(format!("age {}", span(age)));
    }
    if let Some(next) = source.next_refresh_ms {
        facts.push(format!("next look in {}", span(next)));
    }
    if let Some(expires) = source.expires_in_ms {
        facts.push(format!("expires in {}", span(expires)));
    }
    block("state", &facts.join(", "));
    block(
        "count",
        &format!(
            "revision {}, {} hits, {} fetches, {} failures",
            source.revision, source.hits, source.fetches, source.failures
        ),
    );
    if let Some(error) = &source.last_error {
        block(
            "error",
            &format!(
                "{} ago, {}: {}. {}",
                span(source.last_error_age_ms.unwrap_or(0)),
                error.kind,
                error.cause,
                error.next_step
            ),
        );
    }
    if let Some(r) = &source.last_rejection {
        block(
            "reject",
            &format!(
                "{} ago, {} by {} for {} of revision {}: {}",
                span(r.age_ms),
                r.status,
                r.origin,
                r.sent.join(", "),
                r.revision,
                r.outcome
            ),
        );
    }
}

fn show_login(login: &LoginStatus) {
    say(&format!("  {} as {}", login.provider, login.identity));
    let expiry = login
        .expires_in_ms
        .map_or_else(String::new, |ms| format!(", expires in {}", span(ms)));
    block(
        "state",
        &format!(
            "{}{expiry}, {} logins, {} renewals",
            login.state, login.logins, login.renewals
        ),
    );
    if let Some(error) = &login.last_error {
        block(
            "error",
            &format!("{}: {}. {}", error.kind, error.cause, error.next_step),
        );
    }
}

fn block(label: &str, text: &str) {
    for (index, line) in wrap(text, 68).iter().enumerate() {
        say(&format!(
            "    {:<6} {line}",
            if index == 0 { label } else { "" }
        ));
    }
}

/// The stable form; docs/status.md describes it.
fn as_json(status: &GetStatusResponse) -> Value {
    json!({
        "running": true,
        "healthy": is_healthy(status),
        "version": status.version,
        "pid": status.pid,
        "uptime_ms": status.uptime_ms,
        "socket": status.socket,
        "started_by": status.started_by,
        "config": {"path": status.config_path, "state": status.config_state},
        "callers": status.callers,
        "connections": status.connections,
        "answers": status.answers,
        "warnings": status.warnings,
        "routes": status.routes.iter().map(|r| json!({
            "place": r.place, "hosts": r.hosts, "source": r.source,
            "auth_mode": r.auth_mode, "header": r.header, "ttl_ms": r.ttl_ms,
        })).collect::<Vec<_>>(),
        "sources": status.sources.iter().map(source_json).collect::<Vec<_>>(),
        "logins": status.logins.iter().map(|l| json!({
            "provider": l.provider, "identity": l.identity, "state": l.state,
            "expires_in_ms": l.expires_in_ms, "logins": l.logins, "renewals": l.renewals,
            "last_error": l.last_error.as_ref().map(problem), "warnings": l.warnings,
        })).collect::<Vec<_>>(),
    })
}

fn source_json(s: &SourceStatus) -> Value {
    json!({
        "source": s.source, "provider": s.provider, "state": s.state, "age_ms": s.age_ms,
        "next_refresh_ms": s.next_refresh_ms, "expires_in_ms": s.expires_in_ms,
        "stale_since_ms": s.stale_since_ms, "revision": s.revision, "hits": s.hits,
        "fetches": s.fetches, "failures": s.failures,
        "last_error": s.last_error.as_ref().map(problem), "last_error_age_ms": s.last_error_age_ms,
        "last_rejection": s.last_rejection.as_ref().map(|r| json!({
            "origin": r.origin, "status": r.status, "revision": r.revision,
            "age_ms": r.age_ms, "sent": r.sent, "outcome": r.outcome,
        })),
    })
}

fn problem(p: &Problem) -> Value {
    json!({"kind": p.kind, "cause": p.cause, "next_step": p.next_step})
}
