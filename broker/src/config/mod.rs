//! `config.toml`: routes for processes that bring no settings of their own, and the policy.

mod parse;
mod policy;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use mlflow_secrets_auth_core::origins::Patterns;
use mlflow_secrets_auth_core::variables::Settings;

pub(crate) use parse::ConfigError;
pub(crate) use policy::Policy;

/// Root's file: its policy binds every user of the host.
const SYSTEM: &str = "/etc/mlflow-secrets-auth/config.toml";

/// A configuration file that was understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) routes: Vec<ConfiguredRoute>,
    pub(crate) policy: Policy,
}

/// A `[[route]]` table: settings as a process would present them, for some hosts.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredRoute {
    /// `config.toml:12`, for messages.
    pub(crate) place: String,
    pub(crate) hosts: Patterns,
    pub(crate) settings: Settings,
}

/// The configuration in force.
pub(crate) struct Configured {
    path: PathBuf,
    system: PathBuf,
    current: RwLock<Arc<Loaded>>,
}

/// What the last look at the files came to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Root's policy and the user's own: both bind.
    pub(crate) policies: Vec<Policy>,
    /// Why the user's file is not in force, or not the newest version of it.
    pub(crate) error: Option<ConfigError>,
    /// Whether there is a file.
    pub(crate) exists: bool,
}

// === impl Configured ===

impl Configured {
    /// Reads both files. A user's bad file leaves its routes out and is told to whoever needs them.
    ///
    /// # Errors
    /// Root's file is there and bad: its policy is not known, so nothing may be served.
    pub(crate) fn load(path: PathBuf) -> Result<Self, ConfigError> {
        let configured = Self {
            path,
            system: SYSTEM.into(),
            current: RwLock::default(),
        };
        let loaded = match configured.read() {
            Ok(loaded) => loaded,
            Err(error) if error.path == configured.system => return Err(error),
            Err(error) => {
                let policies = parse::file(&configured.system)?
                    .into_iter()
                    .map(|c| c.policy)
                    .collect();
                Loaded {
                    config: Config::default(),
                    policies,
                    error: Some(error),
                    exists: true,
                }
            }
        };
        configured.replace(loaded);
        Ok(configured)
    }

    /// Reads both files again; atomic: on an error the old configuration stays in force.
    ///
    /// # Errors
    /// The error, which status shows as well.
    pub(crate) fn reload(&self) -> Result<usize, ConfigError> {
        match self.read() {
            Ok(loaded) => {
                let routes = loaded.config.routes.len();
                self.replace(loaded);
                Ok(routes)
            }
            Err(error) => {
                let old = self.current();
                self.replace(Loaded {
                    config: old.config.clone(),
                    policies: old.policies.clone(),
                    error: Some(error.clone()),
                    exists: true,
                });
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<Loaded, ConfigError> {
        let system = parse::file(&self.system)?;
        let own = parse::file(&self.path)?;
        let exists = own.is_some();
        let config = own.unwrap_or_default();
        let policies = system
            .into_iter()
            .map(|c| c.policy)
            .chain([config.policy.clone()])
            .collect();
        Ok(Loaded {
            config,
            policies,
            error: None,
            exists,
        })
    }

    fn replace(&self, loaded: Loaded) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
