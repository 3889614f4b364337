//! What binds every caller, whatever its own settings say.

use std::time::Duration;

use mlflow_secrets_auth_core::origins::{Origin, Patterns, Scheme};

use crate::errors::{Class, Failure};

/// A `[policy]` table. Policies only narrow: where two are in force, both have to agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// `config.toml:3`, for messages.
    pub(crate) place: String,
    pub(crate) allowed_hosts: Option<Patterns>,
    pub(crate) require_https: bool,
    pub(crate) max_ttl: Option<Duration>,
    pub(crate) providers: Option<Vec<String>>,
}

impl Policy {
    /// Why an origin may not get a header, if it may not.
    pub(crate) fn declines(&self, origin: &Origin) -> Option<String> {
        if let Some(hosts) = &self.allowed_hosts
            && !hosts.allow(origin)
        {
            return Some(format!(
                "{origin} is not among the allowed_hosts of the [policy] in {}",
                self.place
            ));
        }
        if self.require_https && origin.scheme() != Scheme::Https {
            return Some(format!(
                "{origin} is not https, which the [policy] in {} requires",
                self.place
            ));
        }
        None
    }

    /// Whether a provider may be used.
    pub(crate) fn permits_provider(&self, provider: &str) -> Result<(), Failure> {
        match &self.providers {
            Some(permitted) if !permitted.iter().any(|p| p == provider) => Err(Failure::new(
                Class::Refused,
                format!(
                    "the provider {provider} is not permitted by the [policy] in {}",
                    self.place
                ),
                format!("Use one of: {}", permitted.join(", ")),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn clamp_ttl(&self, ttl: Duration) -> Duration {
        self.max_ttl.map_or(ttl, |max| ttl.min(max))
    }
}
