"""What is remembered on a request: what went out with it, or why nothing did."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["Sent", "sent_with"]


class Sent(NamedTuple):
    """What went out with a request. Holds names, never values: requests are pickled and logged."""

    origin: str | None
    names: tuple[str, ...] = ()
    revision: int = 0
    source: str = ""
    #: Why no header went out.
    reason: str | None = None
    #: Whether the rules allow the origin to have a credential, even where there was none to send.
    allowed: bool = True


def sent_with(request: PreparedRequest) -> Sent | None:
    """Return what went out with a request; None: it was not for us to authenticate."""
    sent = request.__dict__.get("_mlflow_secrets_auth")  # the native part sets it
    return sent if isinstance(sent, Sent) else None
