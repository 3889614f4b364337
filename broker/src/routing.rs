//! Which source answers for an origin: from a caller's settings, or from the configuration file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlflow_secrets_auth_core::origins::{Origin, Patterns};
use mlflow_secrets_auth_core::variables::{Settings, Variable, ttl_seconds};

use crate::config::{Loaded, Policy};
use crate::credential::Shape;
use crate::errors::Failure;
use crate::keeper::SourceKey;

/// Retries of transient failures where the settings name no number.
const RETRIES: u32 = 3;
const MOST_RETRIES: u32 = 10;

/// Origins → sources, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct Route {
    /// `environment`, or `config.toml:12`.
    pub(crate) place: String,
    pub(crate) hosts: Hosts,
    pub(crate) links: Vec<Link>,
    /// The link that served last; it is asked first until it fails.
    chosen: AtomicUsize,
}

/// One enabled provider of a route.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) provider: &'static str,
    /// The source, or what is wrong with the settings.
    pub(crate) key: Result<Arc<SourceKey>, Failure>,
}

/// Which origins a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    Patterns(Patterns),
    /// Nobody said: the origins of the tracking and registry URIs in effect.
    UrisInEffect,
}

/// Where a question leads.
pub(crate) enum Destination<'a> {
    Route(&'a Route),
    /// The origin gets no headers, for this reason.
    Declined(String),
}

// === impl Route ===

impl Route {
    /// The one route of a process that brings its own settings.
    ///
    /// # Errors
    /// The settings do not say who is asked, or whom the header is for.
    pub(crate) fn of_environment(settings: &Settings) -> Result<Self, Failure> {
        let hosts = match allowed_hosts(settings)? {
            Some(patterns) => Hosts::Patterns(patterns),
            None => Hosts::UrisInEffect,
        };
        Self::new("environment".to_owned(), hosts, settings)
    }

    /// A route of the configuration file.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn configured(
        place: &str,
        hosts: &Patterns,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        Self::new(place.to_owned(), Hosts::Patterns(hosts.clone()), settings)
    }

    fn new(place: String, hosts: Hosts, settings: &Settings) -> Result<Self, Failure> {
        let links = settings.enabled_providers()?;
        let links = links
            .into_iter()
            .map(|provider| Link {
                provider,
                key: key(settings, provider),
            })
            .collect();
        Ok(Self {
            place,
            hosts,
            links,
            chosen: AtomicUsize::new(0),
        })
    }

    /// The links, the one that served last first.
    pub(crate) fn order(&self) -> impl Iterator<Item = (usize, &Link)> {
        let chosen = self
            .chosen
            .load(Ordering::Relaxed)
            .min(self.links.len().saturating_sub(1));
        let first = self.links.get(chosen).map(|link| (chosen, link));
        first.into_iter().chain(
            self.links
                .iter()
                .enumerate()
                .filter(move |(i, _)| *i != chosen),
        )
    }

    /// Remembers who serves; true when that changed.
    pub(crate) fn choose(&self, index: usize) -> bool {
        self.chosen.swap(index, Ordering::Relaxed) != index
    }

    /// Whether the route's hosts include an origin; else why not.
    pub(crate) fn declines(&self, origin: &Origin, uri_origins: &[Origin]) -> Option<String> {
        match &self.hosts {
            Hosts::Patterns(patterns) if patterns.allow(origin) => None,
            Hosts::UrisInEffect if uri_origins.contains(origin) => None,
            Hosts::Patterns(patterns) => Some(format!(
                "{origin} matches none of MLFLOW_SECRETS_ALLOWED_HOSTS ({patterns}). Add {} to it if this server may have your credential",
                origin.host()
            )),
            Hosts::UrisInEffect => Some(format!(
                "{origin} is neither the tracking nor the registry URI. Set MLFLOW_SECRETS_ALLOWED_HOSTS to a list with {} if this server may have your credential",
                origin.host()
            )),
        }
    }
}

/// Where a configured caller's question leads: the first route whose hosts include the origin.
pub(crate) fn find<'a>(
    routes: &'a [Route],
    narrowed: Option<&Patterns>,
    origin: &Origin,
    config_path: &std::path::Path,
) -> Destination<'a> {
    if let Some(patterns) = narrowed
        && !patterns.allow(origin)
    {
        return Destination::Declined(format!(
            "{origin} matches none of MLFLOW_SECRETS_ALLOWED_HOSTS ({patterns}). Add {} to it if this server may have your credential",
            origin.host()
        ));
    }
    match routes
        .iter()
        .find(|route| route.declines(origin, &[]).is_none())
    {
        Some(route) => Destination::Route(route),
        None => Destination::Declined(format!(
            "no route in {} names the host {}. Add it to a route's hosts if this server may have your credential",
            config_path.display(),
            origin.host()
        )),
    }
}

/// The list of allowed hosts, if the settings have one.
///
/// # Errors
/// A pattern makes no sense.
pub(crate) fn allowed_hosts(settings: &Settings) -> Result<Option<Patterns>, Failure> {
    let Some(list) = settings.get("MLFLOW_SECRETS_ALLOWED_HOSTS") else {
        return Ok(None);
    };
    let patterns = Patterns::parse_list(list).map_err(|bad| {
        Failure::not_configured(
            format!("MLFLOW_SECRETS_ALLOWED_HOSTS: {bad}"),
            "Write a comma list such as mlflow.example.com,*.corp.example.com",
        )
    })?;
    // "," names nobody, and nobody is who gets the header.
    Ok(Some(patterns))
}

fn key(settings: &Settings, provider: &'static str) -> Result<Arc<SourceKey>, Failure> {
    let of = |suffix: &str| -> (&'static str, Option<&str>) {
        let variable = mlflow_secrets_auth_core::variables::TABLE
            .iter()
            .find(|v: &&Variable| v.provider == provider && v.key == suffix);
        variable.map_or(("", None), |v| (v.name, settings.get(v.name)))
    };
    let (mode_name, mode) = of("auth_mode");
    let (_, ttl) = of("ttl");
    let retries = settings
        .get("MLFLOW_SECRETS_MAX_RETRIES")
        .and_then(|r| r.parse::<u32>().ok())
        .unwrap_or(RETRIES);
    Ok(Arc::new(SourceKey {
        provider,
        settings: SourceKey::settings_of(settings, provider),
        shape: Shape::parse(mode, settings.get("MLFLOW_AUTH_HEADER_NAME"), mode_name)?,
        ttl: Duration::from_secs(ttl_seconds(ttl)),
        retries: retries.min(MOST_RETRIES),
    }))
}

impl Loaded {
    /// What every policy in force says to an origin: the first reason against it.
    pub(crate) fn declines(&self, origin: &Origin) -> Option<String> {
        self.policies
            .iter()
            .find_map(|policy| policy.declines(origin))
    }

    /// A source as the policies permit it.
    ///
    /// # Errors
    /// A provider that is not permitted.
    pub(crate) fn bind(&self, key: &Arc<SourceKey>) -> Result<Arc<SourceKey>, Failure> {
        for policy in &self.policies {
            policy.permits_provider(key.provider)?;
        }
        let ttl = self
            .policies
            .iter()
            .fold(key.ttl, |ttl, policy: &Policy| policy.clamp_ttl(ttl));
        if ttl == key.ttl {
            return Ok(Arc::clone(key));
        }
        Ok(Arc::new(SourceKey {
            ttl,
            ..SourceKey::clone(key)
        }))
    }
}

#[cfg(test)]
mod tests {
    use mlflow_secrets_auth_core::secret::Secret;

    use super::*;

    fn route(pairs: &[(&'static str, &str)]) -> Route {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set(name, Secret::new(*value));
        }
        Route::of_environment(&settings).unwrap()
    }

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap()
    }

    #[test]
    fn without_an_allowlist_only_the_uris_in_effect() {
        let route = route(&[("MLFLOW_SECRETS_AUTH_ENABLE", "file")]);
        let uris = [origin("https://mlflow:5000")];
        assert!(
            route
                .declines(&origin("https://mlflow:5000"), &uris)
                .is_none()
        );
        for other in [
            "http://mlflow:5000",
            "https://mlflow",
            "https://mlflow.evil:5000",
        ] {
            let reason = route.declines(&origin(other), &uris).unwrap();
            assert!(reason.contains("MLFLOW_SECRETS_ALLOWED_HOSTS"), "{reason}");
        }
    }

    #[test]
    fn an_allowlist_decides_alone() {
        let pairs = [
            ("MLFLOW_SECRETS_AUTH_ENABLE", "file"),
            ("MLFLOW_SECRETS_ALLOWED_HOSTS", "mlflow.example.com"),
        ];
        let route = route(&pairs);
        let uris = [origin("http://127.0.0.1:5000")];
        assert!(
            route
                .declines(&uris[0], &uris)
                .unwrap()
                .contains("127.0.0.1")
        );
        assert!(
            route
                .declines(&origin("http://mlflow.example.com:81"), &[])
                .is_none()
        );
    }

    #[test]
    fn an_empty_allowlist_allows_nobody() {
        let route = route(&[
            ("MLFLOW_SECRETS_AUTH_ENABLE", "file"),
            ("MLFLOW_SECRETS_ALLOWED_HOSTS", " , "),
        ]);
        let uris = [origin("http://a")];
        assert!(route.declines(&uris[0], &uris).is_some());
    }

    #[test]
    fn the_choice_sticks() {
        let route = route(&[("MLFLOW_SECRETS_AUTH_ENABLE", "vault,file")]);
        let order = |r: &Route| r.order().map(|(_, l)| l.provider).collect::<Vec<_>>();
        assert_eq!(order(&route), ["vault", "file"]);
        assert!(route.choose(1) && !route.choose(1));
        assert_eq!(order(&route), ["file", "vault"]);
    }
}
