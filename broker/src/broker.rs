//! The broker itself: takes a question from its caller to a source and back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::origins::Origin;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::callers::{Asks, Caller, Callers, configured_routes};
use crate::config::{ConfigError, Configured, Loaded};
use crate::credential::Credential;
use crate::errors::Failure;
use crate::keeper::{Keeper, Report};
use crate::lifetimes::source::Served;
use crate::routing::{Destination, Link, Route, find};

/// Everything that one broker has.
pub(crate) struct Broker {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) callers: Callers,
    pub(crate) configured: Configured,
    /// The routes of the configuration in force, with their choices.
    routes: Mutex<Routes>,
    pub(crate) facts: Facts,
    pub(crate) answers: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// Requests under way; the broker ends after them.
    pub(crate) in_flight: AtomicU64,
    last_used: AtomicU64,
    pub(crate) stop: Notify,
}

type Routes = Option<(Arc<Loaded>, Arc<Result<Vec<Route>, Failure>>)>;

/// How a broker came up that a client started.
pub(crate) const AUTO_START: &str = "auto-start";

/// What status tells about the process.
pub(crate) struct Facts {
    pub(crate) socket: std::path::PathBuf,
    pub(crate) started_by: &'static str,
    pub(crate) started_at: Moment,
}

/// A question, understood.
pub(crate) struct Question<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) uri_origins: &'a [Origin],
    pub(crate) deadline: Instant,
    pub(crate) why: Why,
}

/// What makes a process ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    /// A request is to be sent. `fresh`: a remembered failure is no answer.
    Asked { fresh: bool },
    /// A server rejected this revision's headers, with 401 or 403.
    Rejected { revision: u64, status: u16 },
}

/// What comes of a question.
pub(crate) enum Outcome {
    Headers {
        served: Served<Arc<Credential>>,
        source: String,
    },
    Declined(String),
}

impl Broker {
    pub(crate) fn new(configured: Configured, facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            keeper: Keeper::new(),
            callers: Callers::new(),
            configured,
            routes: Mutex::default(),
            facts,
            answers: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            last_used: AtomicU64::new(Moment::now().as_millis()),
            stop: Notify::new(),
        })
    }

    /// Which headers an origin gets.
    ///
    /// # Errors
    /// No credential is to be had; classified, with its next step.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        question: &Question<'_>,
    ) -> Result<Outcome, Failure> {
        let loaded = self.configured.current();
        if let Some(reason) = loaded.declines(question.origin) {
            return Ok(Outcome::Declined(reason));
        }
        let outcome = match &caller.asks {
            Asks::Own(route) => {
                let route = route.as_ref().map_err(Clone::clone)?;
                match route.declines(question.origin, question.uri_origins) {
                    Some(reason) => Ok(Outcome::Declined(reason)),
                    None => self.follow(route, &loaded, question).await,
                }
            }
            Asks::Configured(narrowed) => {
                let narrowed = narrowed.as_ref().map_err(Clone::clone)?.as_ref();
                let routes = self.routes(&loaded)?;
                let routes = Result::as_ref(&routes).map_err(Clone::clone)?;
                match find(routes, narrowed, question.origin, self.configured.path()) {
                    Destination::Declined(reason) => Ok(Outcome::Declined(reason)),
                    Destination::Route(route) => self.follow(route, &loaded, question).await,
                }
            }
        };
        caller.answered();
        self.answers.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// Asks a route's sources in their order, under the rule of fall-back.
    async fn follow(
        &self,
        route: &Route,
        loaded: &Loaded,
        question: &Question<'_>,
    ) -> Result<Outcome, Failure> {
        let mut first_failure = None;
        for (index, link) in route.order() {
            match self.ask(link, loaded, question).await {
                Ok((served, source)) => {
                    if route.choose(index) && first_failure.is_some() {
                        tracing::warn!(provider = link.provider, route = %route.place, "fell back to another provider");
                    }
                    return Ok(Outcome::Headers { served, source });
                }
                Err(failure) if failure.class.falls_back() => {
                    // The first enabled provider is the one that people mean.
                    if index == 0 || first_failure.is_none() {
                        first_failure = Some(failure);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(first_failure.unwrap_or_else(nothing_enabled))
    }

    async fn ask(
        &self,
        link: &Link,
        loaded: &Loaded,
        question: &Question<'_>,
    ) -> Result<(Served<Arc<Credential>>, String), Failure> {
        let key = loaded.bind(link.key.as_ref().map_err(Clone::clone)?)?;
        let kept = self.keeper.source(&key)?;
        let served = match question.why {
            Why::Asked { fresh } => self.keeper.ask(&kept, fresh, question.deadline).await?,
            Why::Rejected { revision, status } => {
                let origin = question.origin.to_string();
                let report = Report {
                    origin: &origin,
                    revision,
                    status,
                };
                self.keeper
                    .rejected(&kept, report, question.deadline)
                    .await?
            }
        };
        Ok((served, kept.reader.source()))
    }

    /// The routes of the configuration in force.
    fn routes(&self, loaded: &Arc<Loaded>) -> Result<Arc<Result<Vec<Route>, Failure>>, Failure> {
        if loaded.config.routes.is_empty() {
            if let Some(error) = &loaded.error {
                return Err(error.clone().into());
            }
            return Err(nothing_enabled());
        }
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        match &*routes {
            Some((of, known)) if Arc::ptr_eq(of, loaded) => Ok(Arc::clone(known)),
            _ => {
                let fresh = Arc::new(configured_routes(loaded));
                *routes = Some((Arc::clone(loaded), Arc::clone(&fresh)));
                Ok(fresh)
            }
        }
    }

    /// For status: the configured routes, if any.
    pub(crate) fn known_routes(&self) -> Option<Arc<Result<Vec<Route>, Failure>>> {
        self.routes(&self.configured.current()).ok()
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// The file is bad; the old configuration stays.
    pub(crate) fn reload(&self) -> Result<usize, ConfigError> {
        let result = self.configured.reload();
        match &result {
            Ok(routes) => tracing::info!(routes, "configuration reloaded"),
            Err(error) => {
                tracing::warn!(%error, "configuration not reloaded; the old one stays in force")
            }
        }
        result
    }

    /// Somebody uses the broker.
    pub(crate) fn touch(&self) {
        self.last_used
            .store(Moment::now().as_millis(), Ordering::Relaxed);
    }

    /// For how long nobody has.
    pub(crate) fn unused_for(&self) -> Duration {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        Moment::now().since(Moment::from_millis(self.last_used.load(Ordering::Relaxed)))
    }
}

fn nothing_enabled() -> Failure {
    Failure::not_configured(
        "no provider is enabled",
        "Set MLFLOW_SECRETS_AUTH_ENABLE=vault (or file, ...) in the process, or write a [[route]] into config.toml",
    )
}
