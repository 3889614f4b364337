"""The checks that only the interpreter that MLflow runs in can make."""

from __future__ import annotations

import os
import sys
import textwrap
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["examine"]

_GROUP, _NAME = "mlflow.request_auth_provider", "mlflow_secrets_auth"
_TARGET = "mlflow_secrets_auth:SecretsAuthProviderFactory"
_OLDEST_MLFLOW = (2, 20, 4)
_AGAIN = f"{sys.executable or 'python3'} -m pip install --force-reinstall --no-deps mlflow-secrets-auth"
_LAYOUT = textwrap.TextWrapper(80, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


def examine() -> bool:
    """Print what is found, with what to do about it; tell whether all is well."""
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version} at {sys.executable}")
    healthy = True
    for mark, text in _findings():
        healthy = healthy and mark != "FAIL"
        print(_LAYOUT.fill(f"{mark:<6}{text}"))
    print()
    return healthy


def _findings() -> Iterator[tuple[str, str]]:
    yield from _mlflow()
    yield from _registered()
    yield from _loads()
    yield from _activated()
    yield from _settings()


def _mlflow() -> Iterator[tuple[str, str]]:
    for name in ("mlflow", "mlflow-skinny"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
        if numbers < _OLDEST_MLFLOW:
            oldest = ".".join(map(str, _OLDEST_MLFLOW))
            yield "FAIL", f"{name} {version} is too old. Install {oldest} or newer"
        else:
            yield "ok", f"{name} {version}"
        return
    yield "FAIL", "this Python has no MLflow. Run this command with the Python that runs your training script"


def _registered() -> Iterator[tuple[str, str]]:
    targets = [point.value for point in _entry_points() if point.name == _NAME]
    if not targets:
        yield (
            "FAIL",
            f"the plugin is not registered in this Python: MLflow will not find it. Install it: {_AGAIN}",
        )
    elif _TARGET not in targets:
        yield "FAIL", f"another package registers the plugin's name ({targets[0]}). Remove it, then: {_AGAIN}"
    else:
        yield "ok", f"the plugin is registered as {_NAME}"


def _entry_points() -> Iterable[metadata.EntryPoint]:
    if sys.version_info >= (3, 10):
        return metadata.entry_points(group=_GROUP)
    return metadata.entry_points().get(_GROUP, ())


def _loads() -> Iterator[tuple[str, str]]:
    from mlflow_secrets_auth import SecretsAuthProviderFactory, __version__

    try:
        SecretsAuthProviderFactory().get_auth()
    except Exception as error:
        yield "FAIL", str(error)
    else:
        yield (
            "ok",
            f"mlflow-secrets-auth {__version__} loads from {os.path.dirname(os.path.abspath(__file__))}",
        )


def _activated() -> Iterator[tuple[str, str]]:
    value = os.environ.get("MLFLOW_TRACKING_AUTH", "")
    if value == _NAME:
        yield "ok", f"MLFLOW_TRACKING_AUTH={_NAME}"
    else:
        now = f"is {value}" if value else "is not set"
        yield "FAIL", f"MLFLOW_TRACKING_AUTH {now}: MLflow does not use the plugin. Set it to {_NAME}"


def _settings() -> Iterator[tuple[str, str]]:
    on_error = os.environ.get("MLFLOW_SECRETS_AUTH_ON_ERROR", "").strip().lower()
    if on_error == "skip":
        yield (
            "note",
            "MLFLOW_SECRETS_AUTH_ON_ERROR=skip: requests go out without a credential where there is none",
        )
    elif on_error not in ("", "raise"):
        yield "note", "MLFLOW_SECRETS_AUTH_ON_ERROR is neither raise nor skip, and taken for raise"
