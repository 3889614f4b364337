//! The answers that this process keeps, and the one fast path of the whole client.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use mlflow_secrets_auth_core::client::fork::PerProcess;
use mlflow_secrets_auth_core::clock::Moment;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::answer::Answer;
use crate::caller::Caller;
use crate::errors::guard;
use crate::headers::Headers;

/// Redirects and artifact locations can name any number of origins.
const MOST_KEPT: usize = 256;

/// The answers kept in this process, by the start of the URL they are for.
///
/// Nothing here waits for a lock: a thread may be forked away while it holds one, and the child
/// would wait for ever. A lock that is taken counts as a miss.
#[pyclass(frozen, module = "mlflow_secrets_auth._client")]
pub(crate) struct Answers {
    /// Python's part, for requests that no kept answer fits.
    miss: Py<PyAny>,
    /// The response hook that every request gets.
    hook: Py<PyAny>,
    state: PerProcess<RwLock<State>>,
}

#[derive(Default)]
struct State {
    caller: Option<Py<Caller>>,
    /// By `scheme://authority/`, as the URL has it.
    kept: HashMap<Box<[u8]>, Arc<Kept>>,
}

struct Kept {
    headers: Headers,
    /// What Python remembers on the request.
    sent: Py<PyAny>,
    revision: u64,
    expires: Moment,
}

#[pymethods]
impl Answers {
    #[new]
    fn new(miss: Py<PyAny>, hook: Py<PyAny>) -> Self {
        Self {
            miss,
            hook,
            state: PerProcess::new(),
        }
    }

    /// Authenticates a prepared request: `requests` calls it as it calls any auth object.
    fn __call__<'py>(&self, request: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        guard(|| {
            let py = request.py();
            match self.find(&request)? {
                Some(kept) => {
                    kept.headers.put_on(&request)?;
                    self.mark(&request, &kept.sent)?;
                }
                None => {
                    self.miss.call1(py, (&request,))?;
                }
            }
            Ok(request)
        })
    }

    /// Requests, and what holds them, are pickled: another process has an object of its own.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, ())> {
        guard(|| {
            Ok((
                py.import("mlflow_secrets_auth.auth")?
                    .getattr("answers_of_this_process")?,
                (),
            ))
        })
    }

    /// Keeps an answer for requests whose URL starts as this one does. `sent` is what is
    /// remembered on each of them.
    fn keep(
        &self,
        caller: &Bound<'_, Caller>,
        url: &Bound<'_, PyString>,
        answer: &Bound<'_, Answer>,
        sent: Py<PyAny>,
    ) -> PyResult<()> {
        guard(|| self.insert(caller, url, answer.get(), sent))
    }

    /// Remembers on a request what was sent with it, and sees to it that its response is looked at.
    fn register(&self, request: &Bound<'_, PyAny>, sent: Py<PyAny>) -> PyResult<()> {
        guard(|| self.mark(request, &sent))
    }

    /// This process's settings now.
    fn caller(&self, py: Python<'_>) -> PyResult<Py<Caller>> {
        guard(|| {
            let state = self.state.get();
            let before = state
                .try_read()
                .ok()
                .and_then(|s| s.caller.as_ref().map(|c| c.clone_ref(py)));
            if let Some(before) = &before
                && before.get().holds(py)?
            {
                return Ok(before.clone_ref(py));
            }
            let caller = Py::new(py, Caller::gather(py, before.as_ref().map(Py::get))?)?;
            let replaced = state.try_write().ok().map(|mut s| {
                (
                    s.caller.replace(caller.clone_ref(py)),
                    std::mem::take(&mut s.kept),
                )
            });
            // Python objects are let go without the lock: that may run anything.
            drop(replaced);
            Ok(caller)
        })
    }
}

impl Answers {
    /// The answer for a request, if there is one that still holds.
    fn find(&self, request: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Kept>>> {
        let py = request.py();
        let url = request.getattr(intern!(py, "url"))?;
        let Ok(url) = url.cast_into::<PyString>() else {
            return Ok(None);
        };
        let Ok(url) = url.encode_utf8() else {
            return Ok(None);
        };
        let Some(start) = start_of(&url) else {
            return Ok(None);
        };
        let (caller, kept) = {
            let Ok(state) = self.state.get().try_read() else {
                return Ok(None);
            };
            let (Some(caller), Some(kept)) = (&state.caller, state.kept.get(start)) else {
                return Ok(None);
            };
            (caller.clone_ref(py), Arc::clone(kept))
        };
        let holds = kept.expires > Moment::now() && caller.get().holds(py)?;
        Ok(holds.then_some(kept))
    }

    fn mark(&self, request: &Bound<'_, PyAny>, sent: &Py<PyAny>) -> PyResult<()> {
        let py = request.py();
        let hooks = request
            .getattr(intern!(py, "hooks"))?
            .cast_into::<PyDict>()?;
        let registered = hooks.get_item(intern!(py, "response"))?;
        match registered.as_ref().map(|r| r.cast::<PyList>()) {
            // Authenticated twice, or copied from a request that was.
            Some(Ok(list)) if !list.is_empty() && list.contains(&self.hook)? => {}
            Some(Ok(list)) => list.append(&self.hook)?,
            _ => {
                request.call_method1(
                    intern!(py, "register_hook"),
                    (intern!(py, "response"), &self.hook),
                )?;
            }
        }
        request.setattr(intern!(py, "_mlflow_secrets_auth"), sent)
    }

    fn insert(
        &self,
        caller: &Bound<'_, Caller>,
        url: &Bound<'_, PyString>,
        answer: &Answer,
        sent: Py<PyAny>,
    ) -> PyResult<()> {
        let py = url.py();
        let Ok(url) = url.encode_utf8() else {
            return Ok(());
        };
        let Some(start) = start_of(&url).filter(|s| is_plain(s)) else {
            return Ok(());
        };
        if answer.max_age.is_zero() {
            return Ok(());
        }
        let headers = Headers::new(py, answer.pairs(py)?)?;
        let now = Moment::now();
        let fresh = Arc::new(Kept {
            headers,
            sent,
            revision: answer.revision(),
            expires: now + answer.max_age,
        });
        let mut dropped = Vec::new();
        if let Ok(mut state) = self.state.get().try_write()
            // The settings may have changed while the broker was thinking.
            && state.caller.as_ref().is_some_and(|c| c.is(caller))
            // So may the credential: an answer that was long on its way must not replace a newer one.
            && state.kept.get(start).is_none_or(|old| old.revision <= fresh.revision || old.expires <= now)
        {
            if state.kept.len() >= MOST_KEPT {
                dropped.extend(state.kept.drain().map(|(_, old)| old));
            }
            dropped.extend(state.kept.insert(start.into(), fresh));
        }
        drop(dropped);
        Ok(())
    }
}

/// `scheme://authority/` of a URL: whatever follows the slash cannot change where it leads.
fn start_of<'a>(url: &'a Bound<'_, PyBytes>) -> Option<&'a [u8]> {
    let url = url.as_bytes();
    // Behind "https://", or one byte into the host behind "http://".
    let slash = url.get(8..)?.iter().position(|b| *b == b'/')?;
    url.get(..=slash + 8)
}

/// Whether no two URL parsers disagree about it. No `@`: nobody's password becomes a key.
fn is_plain(start: &[u8]) -> bool {
    let authority = start
        .strip_prefix(b"http")
        .map(|s| s.strip_prefix(b"s").unwrap_or(s));
    let authority = authority
        .and_then(|s| s.strip_prefix(b"://"))
        .and_then(|s| s.strip_suffix(b"/"));
    authority.is_some_and(|a| {
        !a.is_empty()
            && a.iter()
                .all(|b| b.is_ascii_alphanumeric() || b"._:[]-".contains(b))
    })
}
