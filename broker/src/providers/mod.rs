//! The secret managers, each behind the same two traits.
//!
//! A new one is a file here and a line in [`PROVIDERS`]. Only this folder knows a cloud.

mod file;
pub(crate) mod http;
mod vault;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::contract::LoginStatus;
use mlflow_secrets_auth_core::secret::Secret;
use mlflow_secrets_auth_core::variables::Settings;

use crate::errors::Failure;
use crate::lifetimes::source::Life;

/// What reads secrets of one kind of secret manager.
pub(crate) trait Provider: Sync {
    /// The name that settings enable it by.
    fn name(&self) -> &'static str;

    /// Understands a caller's settings; talks to nobody yet.
    ///
    /// # Errors
    /// A setting is missing or makes no sense; names the variable.
    fn plan(&self, settings: &Settings) -> Result<Arc<dyn Reader>, Failure>;
}

/// Reads one secret.
pub(crate) trait Reader: Send + Sync {
    /// What is read, for people: `file:/run/secrets/mlflow`. Never a secret.
    fn source(&self) -> String;

    /// Reads it as it is now. `previous` is the stamp of the last reading that is still held.
    ///
    /// Runs under the keeper's time-out; a dropped future must leave nothing half done.
    fn read(&self, previous: Option<Stamp>) -> Reading<'_>;

    /// What to tell about the login it reads through.
    fn login(&self, _now: Moment) -> Option<LoginStatus> {
        None
    }

    /// A person has mended something: what the login remembers of failures is no answer.
    fn forgive(&self) {}

    /// Called when the broker ends: gives back what was minted.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// The future of a reading.
pub(crate) type Reading<'a> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>;

/// What a secret manager answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The secret's text.
    Secret {
        text: Secret,
        life: Life,
        stamp: Option<Stamp>,
    },
    /// Exactly as at the stamp that was shown.
    Unchanged { life: Life },
}

/// Tells one state of a secret from another without holding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) [u64; 5]);

/// Every provider, in the priority of the table of names.
static PROVIDERS: &[&dyn Provider] = &[&vault::VAULT, &file::File];

/// The provider of that name.
///
/// # Errors
/// It is not part of this build.
pub(crate) fn named(name: &str) -> Result<&'static dyn Provider, Failure> {
    PROVIDERS
        .iter()
        .copied()
        .find(|p| p.name() == name)
        .ok_or_else(|| {
            let have: Vec<_> = PROVIDERS.iter().map(|p| p.name()).collect();
            Failure::not_configured(
                format!("the provider {name} is not part of this version"),
                format!("Use one of: {}", have.join(", ")),
            )
        })
}

/// A setting that has to be there.
///
/// # Errors
/// Names the variable.
pub(crate) fn required<'a>(
    settings: &'a Settings,
    name: &str,
    example: &str,
) -> Result<&'a str, Failure> {
    settings.get(name).ok_or_else(|| {
        Failure::not_configured(
            format!("{name} is not set"),
            format!("Set it, for example {name}={example}"),
        )
    })
}
