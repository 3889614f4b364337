//! `mlflow_secrets_auth._client`: the client inside a Python process.
//!
//! Python decides which request is authenticated for which origin; this module asks the broker
//! and keeps its answers. One file per Python class.

mod answer;
mod answers;
mod caller;
mod environment;
mod errors;
mod headers;
mod process;

/// Asks the broker which headers a request needs. Private: the Python package is the interface.
// The stable ABI that this is built for has no free-threaded interpreter.
#[pyo3::pymodule(gil_used = true)]
mod _client {
    #[pymodule_export]
    use crate::answer::Answer;
    #[pymodule_export]
    use crate::answers::Answers;
    #[pymodule_export]
    use crate::caller::Caller;
    #[cfg(debug_assertions)]
    #[pymodule_export]
    use crate::errors::panic_for_tests;

    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    /// What is static here would be shared with interpreters that share nothing else.
    #[pymodule_init]
    #[allow(unsafe_code)]
    fn refuse_sub_interpreters() -> PyResult<()> {
        // SAFETY: the caller is attached to the interpreter that is asked for its number.
        let number =
            unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
        // The main interpreter has been number 0 ever since they have numbers.
        if number == 0 {
            Ok(())
        } else {
            Err(PyImportError::new_err("subinterpreters are not supported"))
        }
    }

    /// The version that this module was built as.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = mlflow_secrets_auth_core::VERSION;
}
