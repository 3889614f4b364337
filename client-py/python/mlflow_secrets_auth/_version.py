"""The version, wherever this package was loaded from."""

from __future__ import annotations

__all__ = ["version"]


def version() -> str:
    """Return the version of the native part, which is built from the same sources."""
    try:
        from mlflow_secrets_auth._client import __version__

        return __version__
    except ImportError:  # broken: the installer's own record is the next best
        from importlib import metadata

        try:
            return metadata.version("mlflow-secrets-auth")
        except metadata.PackageNotFoundError:
            return "unknown"
