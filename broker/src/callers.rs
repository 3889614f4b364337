//! Who asks: settings that were presented once, and the handle that stands for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlflow_secrets_auth_core::origins::Patterns;
use mlflow_secrets_auth_core::variables::Settings;

use crate::bounded;
use crate::config::Loaded;
use crate::errors::{Class, Failure};
use crate::routing::{Route, allowed_hosts};

/// Callers that nobody speaks for in this time are dropped and their settings wiped; who comes
/// back presents itself again within its next question.
const UNUSED: Duration = Duration::from_secs(600);

/// More callers than this are never kept; those that were used longest ago go first.
const MOST_CALLERS: u64 = 1_000;

/// 128 random bits.
pub(crate) type Handle = [u8; 16];

/// Equal settings are the same caller.
pub(crate) struct Caller {
    pub(crate) asks: Asks,
    pub(crate) answers: AtomicU64,
}

/// Whose routes decide.
pub(crate) enum Asks {
    /// Its own settings'.
    Own(Result<Route, Failure>),
    /// The configuration file's, narrowed by the process's own list of allowed hosts.
    Configured(Result<Option<Patterns>, Failure>),
}

/// All callers.
pub(crate) struct Callers {
    by_settings: moka::sync::Cache<Settings, Handle>,
    by_handle: moka::sync::Cache<Handle, Arc<Caller>>,
}

impl Callers {
    pub(crate) fn new() -> Self {
        Self {
            by_settings: bounded::cache(MOST_CALLERS, UNUSED),
            by_handle: bounded::cache(MOST_CALLERS, UNUSED),
        }
    }

    /// The handle of settings, known or new.
    ///
    /// # Errors
    /// The system has no random numbers, or a setting makes no sense to anybody.
    pub(crate) fn present(&self, settings: Settings) -> Result<Handle, Failure> {
        let enabled = settings.enabled_providers()?;
        if let Some(handle) = self.by_settings.get(&settings)
            && self.by_handle.contains_key(&handle)
        {
            return Ok(handle);
        }
        let mut handle = Handle::default();
        getrandom::fill(&mut handle).map_err(|e| {
            Failure::new(
                Class::Refused,
                format!("this system gives no random numbers ({e})"),
                "Check /dev/urandom",
            )
        })?;
        let asks = if enabled.is_empty() {
            Asks::Configured(allowed_hosts(&settings))
        } else {
            Asks::Own(Route::of_environment(&settings))
        };
        self.by_handle.insert(
            handle,
            Arc::new(Caller {
                asks,
                answers: AtomicU64::new(0),
            }),
        );
        self.by_settings.insert(settings, handle);
        Ok(handle)
    }

    pub(crate) fn get(&self, handle: &Handle) -> Option<Arc<Caller>> {
        self.by_handle.get(handle)
    }

    pub(crate) fn count(&self) -> u64 {
        self.by_handle.run_pending_tasks();
        self.by_handle.entry_count()
    }

    /// Forgets everybody; who comes back presents itself again.
    pub(crate) fn flush(&self) {
        self.by_settings.invalidate_all();
        self.by_handle.invalidate_all();
        self.sweep();
    }

    /// Drops what has not been used for long; moka does it on its own only when it is used.
    pub(crate) fn sweep(&self) {
        bounded::settle(&self.by_handle);
        bounded::settle(&self.by_settings);
    }

    /// The routes of callers that brought their own settings.
    pub(crate) fn own_routes<T>(&self, mut see: impl FnMut(&Route) -> T) -> Vec<T> {
        self.by_handle
            .iter()
            .filter_map(|(_, caller)| match &caller.asks {
                Asks::Own(Ok(route)) => Some(see(route)),
                _ => None,
            })
            .collect()
    }
}

impl Caller {
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// The configured routes, understood; one list per loaded configuration.
pub(crate) fn configured_routes(loaded: &Loaded) -> Result<Vec<Route>, Failure> {
    let routes = loaded.config.routes.iter();
    routes
        .map(|route| Route::configured(&route.place, &route.hosts, &route.settings))
        .collect()
}
