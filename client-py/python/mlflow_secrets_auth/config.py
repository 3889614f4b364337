"""The settings of this process, as scripts may want to look at them."""

from __future__ import annotations

import os

__all__ = ["get_allowed_hosts", "get_auth_header_name", "is_provider_enabled"]

_TRUE = frozenset({"1", "true", "yes", "on"})


def is_provider_enabled(provider_name: str) -> bool:
    """Tell whether a provider (`vault`, `aws-secrets-manager`, `azure-key-vault`, `file`) is enabled.

    Either by `MLFLOW_SECRETS_AUTH_ENABLE`, a comma list, or by `MLFLOW_SECRETS_AUTH_ENABLE_<PROVIDER>`.
    """
    name = provider_name.strip().lower()
    listed = os.environ.get("MLFLOW_SECRETS_AUTH_ENABLE", "").split(",")
    if name and name in (word.strip().lower() for word in listed):
        return True
    switch = "MLFLOW_SECRETS_AUTH_ENABLE_" + name.upper().replace("-", "_")
    return os.environ.get(switch, "").strip().lower() in _TRUE


def get_allowed_hosts() -> list[str] | None:
    """Return the host patterns of `MLFLOW_SECRETS_ALLOWED_HOSTS`.

    None where there are none: then only the tracking and registry URIs in effect get a credential.
    """
    patterns = [word.strip() for word in os.environ.get("MLFLOW_SECRETS_ALLOWED_HOSTS", "").split(",")]
    return [pattern for pattern in patterns if pattern] or None


def get_auth_header_name() -> str:
    """Return the name of the header that carries the credential (`MLFLOW_AUTH_HEADER_NAME`)."""
    name = os.environ.get("MLFLOW_AUTH_HEADER_NAME", "").strip()
    return "Authorization" if name.lower() in ("", "authorization") else name
