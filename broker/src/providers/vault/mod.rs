//! Vault and OpenBao.
//!
//! `plan` and `path` understand settings, `login` keeps a token alive that `tokens` gets,
//! `secret` reads; `api` has
//! the requests, `wire` sends them, `answers` says what a no means.

mod answers;
mod api;
mod files;
mod login;
mod path;
mod plan;
mod secret;
mod tokens;
mod wire;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::contract::LoginStatus;
use mlflow_secrets_auth_core::variables::Settings;

use super::{Answer, Provider, Reader, Reading, Stamp, required};
use crate::errors::{Class, Failure};
use login::Session;
use path::SecretPath;
use plan::Plan;
use secret::{No, Spot};

/// The provider `vault`, with the logins that are in use.
pub(super) static VAULT: Vault = Vault {
    sessions: LazyLock::new(Mutex::default),
};

pub(super) struct Vault {
    /// Equal settings are the same login; it lives as long as a source reads through it.
    sessions: LazyLock<Mutex<HashMap<Settings, Weak<Session>>>>,
}

struct VaultReader {
    session: Arc<Session>,
    spot: Spot,
}

// === impl Vault ===

impl Vault {
    fn session(&self, settings: &Settings) -> Result<Arc<Session>, Failure> {
        let settings = Plan::settings_of(settings);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(&settings).and_then(Weak::upgrade) {
            return Ok(session);
        }
        let session = Arc::new(Session::new(Plan::new(settings.clone())?));
        sessions.insert(settings, Arc::downgrade(&session));
        Ok(session)
    }

    /// With a login its settings go too, and are wiped.
    fn forget_unused(&self) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.strong_count() > 0);
    }
}

impl Provider for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn plan(&self, settings: &Settings) -> Result<Arc<dyn Reader>, Failure> {
        let session = self.session(settings)?;
        let path = required(settings, "MLFLOW_VAULT_SECRET_PATH", "secret/mlflow/auth")?;
        Ok(Arc::new(VaultReader {
            session,
            spot: Spot::new(SecretPath::parse(path)?),
        }))
    }
}

// === impl VaultReader ===

impl VaultReader {
    /// Reads with a token; a denial is worth one new login, not a loop.
    async fn fetch(&self) -> Result<Answer, Failure> {
        let wire = self.session.wire().await?;
        let lent = self.session.token().await?;
        let no = match self.look(&wire, &lent).await {
            Ok(answer) => return Ok(answer),
            Err(no) => no,
        };
        let Some(doubt) = no.doubt else {
            return Err(no.failure);
        };
        let other = self.session.doubt(lent.generation, doubt).await?;
        if other.generation == lent.generation {
            return Err(no.failure);
        }
        self.look(&wire, &other).await.map_err(|no| no.failure)
    }

    async fn look(
        &self,
        wire: &wire::Wire,
        lent: &crate::lifetimes::login::Lent<mlflow_secrets_auth_core::secret::Secret>,
    ) -> Result<Answer, No> {
        let result = self.spot.read(wire, &lent.token).await;
        match &result {
            Ok(_) => self.session.worked(lent.generation),
            Err(no) if no.failure.class == Class::NotFound => self.session.worked(lent.generation),
            Err(no) => self.session.heed(&no.failure),
        }
        result
    }
}

impl Reader for VaultReader {
    fn source(&self) -> String {
        format!("vault:{}", self.spot.path.shown())
    }

    fn read(&self, _: Option<Stamp>) -> Reading<'_> {
        Box::pin(self.fetch())
    }

    fn login(&self, now: Moment) -> Option<LoginStatus> {
        Some(self.session.status(now))
    }

    fn forgive(&self) {
        self.session.forgive();
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.session.close())
    }
}

#[cfg(test)]
mod tests {
    use mlflow_secrets_auth_core::secret::Secret;

    use super::*;

    fn settings(pairs: &[(&'static str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set(name, Secret::new(*value));
        }
        settings
    }

    #[test]
    fn equal_logins_are_one_and_are_forgotten_with_their_last_source() {
        let vault = Vault {
            sessions: LazyLock::new(Mutex::default),
        };
        let login = |path, role| {
            settings(&[
                ("VAULT_ADDR", "http://127.0.0.1:1"),
                ("VAULT_ROLE_ID", role),
                ("VAULT_SECRET_ID", "s"),
                ("MLFLOW_VAULT_SECRET_PATH", path),
            ])
        };
        let first = vault.session(&login("secret/a", "r")).unwrap();
        let same = vault.session(&login("secret/b", "r")).unwrap();
        let other = vault.session(&login("secret/a", "q")).unwrap();
        assert!(Arc::ptr_eq(&first, &same) && !Arc::ptr_eq(&first, &other));
        drop((first, same));
        vault.forget_unused();
        assert_eq!(vault.sessions.lock().unwrap().len(), 1);
        assert!(!Arc::ptr_eq(
            &other,
            &vault.session(&login("secret/a", "r")).unwrap()
        ));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (pairs, name) in [
            (&[][..], "VAULT_ADDR"),
            (&[("VAULT_ADDR", "http://v")], "VAULT_TOKEN"),
            (
                &[("VAULT_ADDR", "http://v"), ("VAULT_TOKEN", "x")],
                "MLFLOW_VAULT_SECRET_PATH",
            ),
        ] {
            let failure = VAULT.plan(&settings(pairs)).err().unwrap();
            assert_eq!(failure.class, Class::NotConfigured);
            assert!(failure.cause.contains(name), "{failure}");
        }
    }
}
