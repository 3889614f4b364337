//! The Python process, as the client sees it while it waits.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mlflow_secrets_auth_core::client::{ClientError, Host, Launch};
use pyo3::prelude::*;

use crate::errors::failure;

/// How a broker may be started, if at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Starting {
    /// `MLFLOW_SECRETS_AUTH_AUTOSTART`.
    pub(crate) allowed: bool,
    /// The configuration file that the broker is told of.
    pub(crate) config: Option<PathBuf>,
}

/// This process during one call.
pub(crate) struct Process<'a> {
    starting: &'a Starting,
    /// What a signal handler raised while the call was waiting.
    raised: Mutex<Option<PyErr>>,
}

impl<'a> Process<'a> {
    pub(crate) fn new(starting: &'a Starting) -> Self {
        Self {
            starting,
            raised: Mutex::new(None),
        }
    }

    /// The Python exception for a failed call: the signal handler's own where one ended it.
    pub(crate) fn exception(self, error: ClientError) -> PyErr {
        match (
            error,
            self.raised
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        ) {
            (ClientError::Interrupted, Some(raised)) => raised,
            (error, _) => failure(error),
        }
    }
}

impl Host for Process<'_> {
    fn interrupted(&self) -> bool {
        let raised = Python::try_attach(|py| py.check_signals());
        match raised {
            Some(Ok(())) => false,
            Some(Err(error)) => {
                *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                true
            }
            // The interpreter is shutting down; nobody waits for an answer any more.
            None => true,
        }
    }

    fn launch(&self) -> Result<Option<Launch>, String> {
        if !self.starting.allowed {
            return Ok(None);
        }
        let command = Python::try_attach(|py| {
            let found = py
                .import("mlflow_secrets_auth._command")?
                .call_method0("find_command")?;
            found.extract::<PathBuf>()
        });
        match command {
            Some(Ok(command)) => Ok(Some(Launch { command, config: self.starting.config.clone() })),
            Some(Err(error)) => Err(Python::attach(|py| error.value(py).to_string())),
            None => Err("the interpreter is shutting down. Start a broker before with `mlflow-secrets-auth serve`".into()),
        }
    }
}
