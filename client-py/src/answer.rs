//! What the broker answered.

use std::time::Duration;

use mlflow_secrets_auth_core::client;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// Which headers a request to an origin needs, for a while.
#[pyclass(frozen, module = "mlflow_secrets_auth._client")]
pub(crate) struct Answer {
    /// Pairs of name and value, fit for HTTP; empty where the origin gets none.
    #[pyo3(get)]
    headers: Py<PyTuple>,
    /// Grows each time the credential changes.
    #[pyo3(get)]
    revision: u64,
    /// Which secret the headers were made from.
    #[pyo3(get)]
    source: String,
    /// Why the origin gets none; None: it gets the headers.
    #[pyo3(get)]
    declined: Option<String>,
    pub(crate) max_age: Duration,
}

impl Answer {
    pub(crate) fn from_core(py: Python<'_>, answer: &client::Answer) -> PyResult<Self> {
        let pairs = answer.headers.iter().map(|(name, value)| {
            // Shared by all requests that carry it; Python's copy of it lives as long as they do.
            PyTuple::new(
                py,
                [PyString::new(py, name), PyString::new(py, value.reveal())],
            )
        });
        // An origin that is declined gets nothing, whatever else the answer holds.
        let pairs = if answer.declined.is_some() {
            Vec::new()
        } else {
            pairs.collect::<PyResult<Vec<_>>>()?
        };
        Ok(Self {
            headers: PyTuple::new(py, pairs)?.unbind(),
            revision: answer.revision,
            source: answer.source.clone(),
            declined: answer.declined.clone(),
            max_age: answer.max_age,
        })
    }

    pub(crate) fn pairs<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(Bound<'py, PyString>, Bound<'py, PyString>)>> {
        self.headers
            .bind(py)
            .iter()
            .map(|pair| pair.extract())
            .collect()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }
}

#[pymethods]
impl Answer {
    /// Seconds for which the answer may be used again.
    #[getter]
    fn max_age(&self) -> f64 {
        self.max_age.as_secs_f64()
    }
}
