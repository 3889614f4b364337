//! What this process says about itself: `os.environ`, and the URIs that MLflow has in effect.
//!
//! The environment is read through Python, never through `std::env`: `os.environ` is what
//! scripts and tests change, and libc's copy must not be read while another thread writes it.

use mlflow_secrets_auth_core::variables::NotUnicode;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString};

/// `os.environ` as it was at one moment, and a way to see whether it still is.
pub(crate) struct Environment {
    /// The object that was called `os.environ`.
    environ: Py<PyAny>,
    /// The dictionary beneath it, which changes with it; `None` where there is none.
    live: Option<Py<PyDict>>,
    /// A copy of its items.
    taken: Py<PyDict>,
    /// The addresses of its keys and values in their order. `taken` keeps them alive, so that no
    /// other object can come to have one of them.
    addresses: Vec<(usize, usize)>,
}

/// The module variables that `mlflow.set_tracking_uri` and `mlflow.set_registry_uri` set.
pub(crate) struct Uri {
    at: &'static (&'static str, &'static str),
    /// The module's dictionary; `None`: it was not loaded.
    module: Option<Py<PyDict>>,
    value: Option<Py<PyAny>>,
}

const TRACKING: (&str, &str) = ("mlflow.tracking._tracking_service.utils", "_tracking_uri");
const REGISTRY: (&str, &str) = ("mlflow.tracking._model_registry.utils", "_registry_uri");

// === impl Environment ===

impl Environment {
    /// Copies the environment.
    pub(crate) fn take(py: Python<'_>) -> PyResult<Self> {
        let environ = current(py)?;
        let live = beneath(&environ);
        let taken = match &live {
            Some(live) => live.copy()?,
            None => copy(&environ)?,
        };
        let addresses = taken
            .iter()
            .map(|(key, value)| (key.as_ptr() as usize, value.as_ptr() as usize))
            .collect();
        Ok(Self {
            environ: environ.unbind(),
            live: live.map(Bound::unbind),
            taken: taken.unbind(),
            addresses,
        })
    }

    /// Whether nothing has changed since. Every request asks, so it is the same objects that are
    /// looked for first (half the time of comparing the dictionaries).
    pub(crate) fn holds(&self, py: Python<'_>) -> PyResult<bool> {
        let environ = current(py)?;
        if !environ.is(&self.environ) {
            return Ok(false);
        }
        match &self.live {
            Some(live) => Ok(self.is_untouched(live.bind(py)) || live.bind(py).eq(&self.taken)?),
            None => copy(&environ)?.eq(&self.taken),
        }
    }

    /// Whether a dictionary holds the very same objects in the same order.
    #[allow(unsafe_code)]
    fn is_untouched(&self, live: &Bound<'_, PyDict>) -> bool {
        let mut known = self.addresses.iter();
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        loop {
            // SAFETY: this thread is attached, `live` is a dictionary, and nothing in the loop can
            // change it: the borrowed references are compared and not followed.
            let more = unsafe {
                pyo3::ffi::PyDict_Next(live.as_ptr(), &raw mut at, &raw mut key, &raw mut value)
            };
            if more == 0 {
                return known.next().is_none();
            }
            if known.next() != Some(&(key as usize, value as usize)) {
                return false;
            }
        }
    }

    /// A variable, under the one encoding that settings have.
    pub(crate) fn get(&self, py: Python<'_>, name: &str) -> Option<Result<String, NotUnicode>> {
        let taken = self.taken.bind(py);
        let found = [
            PyBytes::new(py, name.as_bytes()).into_any(),
            PyString::new(py, name).into_any(),
        ]
        .into_iter()
        .find_map(|key| taken.get_item(key).ok().flatten())?;
        let text = match found.cast::<PyBytes>() {
            Ok(bytes) => String::from_utf8(bytes.as_bytes().to_vec()).map_err(|_| NotUnicode),
            Err(_) => found.extract::<String>().map_err(|_| NotUnicode),
        };
        Some(text)
    }

    /// A variable as trimmed text; blank and undecodable ones count as unset.
    pub(crate) fn text(&self, py: Python<'_>, name: &str) -> Option<String> {
        let text = self.get(py, name)?.ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }
}

fn current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let os = OS.get_or_try_init(py, || py.import("os").map(|os| os.into_any().unbind()))?;
    os.bind(py).getattr(intern!(py, "environ"))
}

fn beneath<'py>(environ: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    if let Ok(plain) = environ.cast::<PyDict>() {
        return Some(plain.clone());
    }
    environ
        .getattr(intern!(environ.py(), "_data"))
        .ok()?
        .cast_into()
        .ok()
}

fn copy<'py>(environ: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let copy = PyDict::new(environ.py());
    copy.update(environ.cast()?)?;
    Ok(copy)
}

// === impl Uri ===

impl Uri {
    pub(crate) fn tracking(py: Python<'_>) -> PyResult<Self> {
        Self::take(py, &TRACKING)
    }

    pub(crate) fn registry(py: Python<'_>) -> PyResult<Self> {
        Self::take(py, &REGISTRY)
    }

    fn take(py: Python<'_>, at: &'static (&'static str, &'static str)) -> PyResult<Self> {
        let module = loaded(py, at.0)?;
        let value = match &module {
            Some(module) => module.get_item(PyString::intern(py, at.1))?,
            None => None,
        };
        Ok(Self {
            at,
            module: module.map(Bound::unbind),
            value: value.map(Bound::unbind),
        })
    }

    /// The URI that was set in this process, if one was.
    pub(crate) fn get(&self, py: Python<'_>) -> Option<String> {
        self.value.as_ref()?.extract(py).ok()
    }

    /// Whether it is still what it was.
    pub(crate) fn holds(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(module) = &self.module else {
            return Ok(loaded(py, self.at.0)?.is_none());
        };
        let value = module.bind(py).get_item(self.key(py))?;
        Ok(match (&value, &self.value) {
            (Some(now), Some(then)) => now.is(then),
            (None, None) => true,
            _ => false,
        })
    }

    fn key<'py>(&self, py: Python<'py>) -> &'py Bound<'py, PyString> {
        if std::ptr::eq(self.at, &TRACKING) {
            intern!(py, "_tracking_uri")
        } else {
            intern!(py, "_registry_uri")
        }
    }
}

/// A module's variables, if somebody has imported it.
fn loaded<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let modules = py
        .import(intern!(py, "sys"))?
        .getattr(intern!(py, "modules"))?;
    let Ok(module) = modules.get_item(name) else {
        return Ok(None);
    };
    Ok(module
        .getattr(intern!(py, "__dict__"))
        .ok()
        .and_then(|d| d.cast_into().ok()))
}
