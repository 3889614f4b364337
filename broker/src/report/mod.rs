//! What the broker tells about itself. Never a secret, nor a part of one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::contract::{
    GetStatusResponse, LoginStatus, Rejection, RouteStatus, SourceStatus,
};

use crate::broker::Broker;
use crate::keeper::Kept;
use crate::lifetimes::source::State;
use crate::routing::{Hosts, Route};

/// Everything that status shows.
pub(crate) fn status(broker: &Broker) -> GetStatusResponse {
    let now = Moment::now();
    let loaded = broker.configured.current();
    let sources = broker.keeper.all();
    let mut logins: Vec<LoginStatus> = sources
        .iter()
        .filter_map(|kept| kept.reader.login(now))
        .collect();
    logins.sort_by(|a, b| (&a.provider, &a.identity).cmp(&(&b.provider, &b.identity)));
    logins.dedup();
    let mut routes = broker.callers.own_routes(route);
    if let Some(known) = broker.known_routes()
        && let Ok(configured) = &*known
    {
        routes.extend(configured.iter().map(route));
    }
    let mut routes: Vec<RouteStatus> = routes.into_iter().flatten().collect();
    routes.sort_by(|a, b| (&a.place, &a.source).cmp(&(&b.place, &b.source)));
    routes.dedup();
    let config_state = match (&loaded.error, loaded.exists) {
        (Some(error), _) => error.to_string(),
        (None, true) => format!("{} routes", loaded.config.routes.len()),
        (None, false) => "no such file".to_owned(),
    };
    let mut warnings: Vec<String> = logins
        .iter()
        .flat_map(|login| login.warnings.clone())
        .collect();
    if let Some(error) = &loaded.error {
        warnings.push(format!("the configuration is not in force: {error}"));
    }
    warnings.dedup();
    GetStatusResponse {
        version: mlflow_secrets_auth_core::VERSION.to_owned(),
        pid: std::process::id(),
        uptime_ms: millis(now.since(broker.facts.started_at)),
        socket: broker.facts.socket.display().to_string(),
        started_by: broker.facts.started_by.to_owned(),
        config_path: broker.configured.path().display().to_string(),
        config_state,
        callers: broker.callers.count(),
        sources: sources.iter().map(|kept| source(kept, now)).collect(),
        logins,
        warnings,
        answers: broker.answers.load(Ordering::Relaxed),
        connections: broker.connections.load(Ordering::Relaxed),
        routes,
    }
}

/// A route's links, each with what it leads to or why it leads nowhere.
fn route(route: &Route) -> Vec<RouteStatus> {
    let hosts: Vec<String> = match &route.hosts {
        Hosts::Patterns(patterns) => patterns.texts().map(str::to_owned).collect(),
        Hosts::UrisInEffect => Vec::new(),
    };
    let links = route.links.iter().map(|link| {
        let (source, mode, header, ttl) = match &link.key {
            Ok(key) => {
                let source = crate::providers::named(key.provider)
                    .and_then(|p| p.plan(&key.settings))
                    .map(|reader| reader.source());
                let source =
                    source.unwrap_or_else(|failure| format!("{}: {failure}", link.provider));
                (
                    source,
                    key.shape.mode.name(),
                    key.shape.header.clone(),
                    key.ttl,
                )
            }
            Err(failure) => (
                format!("{}: {failure}", link.provider),
                "",
                String::new(),
                Duration::ZERO,
            ),
        };
        RouteStatus {
            place: route.place.clone(),
            hosts: hosts.clone(),
            source,
            auth_mode: mode.to_owned(),
            header,
            ttl_ms: millis(ttl),
        }
    });
    links.collect()
}

fn source(kept: &Kept, now: Moment) -> SourceStatus {
    kept.look(|state, rejection| {
        let view = state.view(now);
        SourceStatus {
            source: kept.reader.source(),
            provider: kept.key.provider.to_owned(),
            state: match view.state {
                State::Empty => "empty",
                State::Fresh => "fresh",
                State::Stale => "stale",
                State::Failing => "failing",
            }
            .to_owned(),
            age_ms: view.age.map(millis),
            next_refresh_ms: view.next_refresh.map(millis),
            expires_in_ms: view.expires_in.map(millis),
            revision: view.revision,
            hits: state.counters.hits,
            fetches: state.counters.fetches,
            failures: state.counters.failures,
            last_error: view.failure.map(|(failure, _)| failure.to_problem()),
            last_error_age_ms: view.failure.map(|(_, age)| millis(age)),
            stale_since_ms: view.stale_for.map(millis),
            last_rejection: rejection.map(|rejection| Rejection {
                origin: rejection.origin.clone(),
                status: rejection.status.into(),
                revision: rejection.revision,
                age_ms: millis(now.since(rejection.at)),
                sent: vec![kept.key.shape.header.clone()],
                outcome: rejection.outcome.to_owned(),
            }),
        }
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
