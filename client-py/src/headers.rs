//! Header values on their way onto a request.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

/// Headers that many requests get.
pub(crate) struct Headers(Vec<Header>);

struct Header {
    name: Py<PyString>,
    value: Py<PyString>,
    /// The item that `requests` makes of the two.
    key: Py<PyString>,
    item: Py<PyTuple>,
}

// === impl Headers ===

impl Headers {
    pub(crate) fn new(
        py: Python<'_>,
        pairs: Vec<(Bound<'_, PyString>, Bound<'_, PyString>)>,
    ) -> PyResult<Self> {
        let header = |(name, value): (Bound<'_, PyString>, Bound<'_, PyString>)| {
            let key = name
                .call_method0(intern!(py, "lower"))?
                .cast_into::<PyString>()?;
            let item = PyTuple::new(py, [&name, &value])?.unbind();
            Ok(Header {
                name: name.unbind(),
                value: value.unbind(),
                key: key.unbind(),
                item,
            })
        };
        pairs
            .into_iter()
            .map(header)
            .collect::<PyResult<_>>()
            .map(Self)
    }

    /// Sets them on a prepared request.
    pub(crate) fn put_on(&self, request: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let py = request.py();
        let headers = request.getattr(intern!(py, "headers"))?;
        // Setting an item of this class runs Python code, which is a quarter of the whole call.
        if transparent(py).is_some_and(|class| headers.get_type().is(class)) {
            let store = headers.getattr(intern!(py, "_store"))?;
            for header in &self.0 {
                store.set_item(&header.key, &header.item)?;
            }
        } else {
            for header in &self.0 {
                headers.set_item(&header.name, &header.value)?;
            }
        }
        Ok(())
    }
}

/// The class that `requests` keeps headers in, if it still is what it has been since 2013: a
/// dictionary from the name in lower case to name and value. Tried out once.
fn transparent(py: Python<'_>) -> Option<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Option<Py<PyType>>> = PyOnceLock::new();
    let class = CLASS.get_or_init(py, || try_out(py).ok().flatten().map(Bound::unbind));
    class.as_ref().map(|class| class.bind(py))
}

fn try_out(py: Python<'_>) -> PyResult<Option<Bound<'_, PyType>>> {
    let class = py
        .import("requests.structures")?
        .getattr("CaseInsensitiveDict")?
        .cast_into::<PyType>()?;
    let sample = class.call0()?;
    sample.set_item("A-b", "c")?;
    let items = sample
        .getattr("_store")?
        .call_method0("items")?
        .try_iter()?
        .collect::<PyResult<Vec<_>>>()?;
    let [only] = items.as_slice() else {
        return Ok(None);
    };
    Ok(only.eq(("a-b", ("A-b", "c")))?.then_some(class))
}
