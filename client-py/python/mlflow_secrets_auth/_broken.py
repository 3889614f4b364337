"""Says why the plugin does not load, and what to do about it."""

from __future__ import annotations

import sys

__all__ = ["explain"]


def explain(error: BaseException) -> str:
    """Return the text for an error at import: cause and next step."""
    what = "cannot authenticate any request: "
    if "subinterpreter" in str(error).lower():
        return what + (
            "mlflow-secrets-auth does not work in a sub-interpreter of Python. Run this code in the main"
            " interpreter (mod_wsgi: `WSGIApplicationGroup %{GLOBAL}`), or in a process of its own."
        )
    if sys.platform == "win32":
        return what + "mlflow-secrets-auth needs Linux or macOS. Use the Windows Subsystem for Linux (WSL)."
    cause = f"{type(error).__name__}: {error}"
    again = f"{sys.executable or 'python3'} -m pip install --force-reinstall --no-deps mlflow-secrets-auth"
    return what + f"the installation of mlflow-secrets-auth is broken ({cause}). Install it again: {again}"
