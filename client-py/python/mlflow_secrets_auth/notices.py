"""What is written to the log `mlflow_secrets_auth`: each cause once, never a secret."""

from __future__ import annotations

import logging
import os
import sys

__all__ = [
    "asked",
    "declined",
    "not_replayed",
    "plain_text",
    "rejected",
    "report_failed",
    "set_level",
    "skipped",
    "unauthenticated",
    "unknown_url",
]

_log = logging.getLogger("mlflow_secrets_auth")
_said: set[tuple[object, ...]] = set()
_level: list[str] = [""]

# A process that meets more causes than this may repeat some.
_MOST_REMEMBERED = 1000


class _LastResort(logging.Handler):
    """Shows what nobody else would, as `logging.lastResort` does, but from any level that was asked for."""

    def emit(self, record: logging.LogRecord) -> None:
        others = logging.getLogger().handlers or len(_log.handlers) > 1
        if not others and sys.stderr is not None:
            sys.stderr.write(f"{record.levelname} mlflow_secrets_auth: {self.format(record)}\n")


_log.addHandler(_LastResort())


def set_level() -> None:
    """Apply `MLFLOW_SECRETS_LOG_LEVEL`, to this package's own log only."""
    name = os.environ.get("MLFLOW_SECRETS_LOG_LEVEL", "").strip().upper()
    if name == _level[0]:
        return
    _level[0] = name
    level = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}.get(name)
    if name and level is None:
        once(logging.WARNING, "MLFLOW_SECRETS_LOG_LEVEL is none of DEBUG, INFO, WARNING and ERROR; ignored")
    _log.setLevel(level or logging.NOTSET)


def once(level: int, text: str, *values: object) -> None:
    """Log a text, unless the very same was logged before."""
    said = (text, *values)
    if said in _said:
        return
    if len(_said) >= _MOST_REMEMBERED:
        _said.clear()
    _said.add(said)
    _log.log(level, text, *values)


def asked(origin: str, source: str, revision: int) -> None:
    """The broker gave a credential."""
    _log.debug("the credential for %s is made from %s (revision %d)", origin, source, revision)


def declined(reason: str) -> None:
    """An origin gets no credential."""
    once(logging.WARNING, "no credential is sent: %s", reason)


def unknown_url() -> None:
    """A URL leads nobody can say where. It is not shown: it may hold a password."""
    declined(
        "the request's URL has no host that all parts of the HTTP library understand in the same way."
        " Write it with plain letters, digits, dots and hyphens"
    )


def plain_text(origin: str) -> None:
    """A credential crosses a network in the clear."""
    once(logging.WARNING, "the credential for %s crosses the network unencrypted. Use https there", origin)


def skipped(error: str) -> None:
    """A request goes out without a credential because the user wants it so."""
    once(logging.WARNING, "%s (sent without a credential: MLFLOW_SECRETS_AUTH_ON_ERROR=skip)", error)


def rejected(status: int, origin: str, names: str, source: str, revision: int, outcome: str) -> None:
    """A server said no to what was sent."""
    once(
        # 403 is everyday life where users have different permissions.
        logging.WARNING if status == 401 else logging.DEBUG,
        "%s answered %d to header %s made from %s (revision %d): %s",
        origin, status, names, source, revision, outcome,
    )  # fmt: skip


def unauthenticated(origin: str, reason: str) -> None:
    """A server asked for a credential that it was not sent."""
    once(logging.WARNING, "%s answered 401 to a request without a credential: %s", origin, reason)


def report_failed(origin: str, error: str) -> None:
    """The broker could not be asked for a newer credential."""
    once(logging.WARNING, "%s rejected the credential, and no newer one could be asked for: %s", origin, error)


def not_replayed(origin: str) -> None:
    """There is a newer credential, but no second body."""
    once(logging.INFO, "a request to %s was not repeated with the newer credential: its body cannot be", origin)
