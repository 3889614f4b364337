//! Failures as Python sees them: one exception class, whatever went wrong.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::PyResult;
use pyo3::prelude::*;

pyo3::import_exception!(mlflow_secrets_auth.errors, SecretsAuthError);

/// The exception with an error's own text, which names the cause and the next step.
pub(crate) fn failure(error: impl Display) -> PyErr {
    SecretsAuthError::new_err(error.to_string())
}

/// Runs the body of an entry point. PyO3 would turn a panic into a `PanicException`, which
/// `except Exception` does not catch, and which would end a training run for a missing header.
pub(crate) fn guard<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        // Not the panic's own text: it may quote what it stumbled over.
        Err(failure(
            "an internal error of mlflow-secrets-auth (see standard error). Please report it",
        ))
    })
}

/// Panics: how the tests see that a panic becomes an exception. Not in release builds.
#[cfg(debug_assertions)]
#[pyfunction]
#[pyo3(name = "_panic")]
pub(crate) fn panic_for_tests() -> PyResult<()> {
    guard(|| panic!("asked for"))
}
