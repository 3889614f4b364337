"""Redirects: every hop is a request to an origin of its own.

`requests` calls an auth object once, then copies the request for each hop, headers included; of
those it takes off only `Authorization`, and puts that of `~/.netrc` in its place. Here the copy is
a `Hop`, which carries none of our headers until it is really sent, and then those of the origin
that it is really sent to.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest

from mlflow_secrets_auth.origins import origin_of
from mlflow_secrets_auth.sent import sent_with

if TYPE_CHECKING:
    from mlflow_secrets_auth.auth import SecretsAuth

__all__ = ["Hop", "govern"]


def govern(auth: SecretsAuth, request: PreparedRequest) -> None:
    """See to it that the redirected copy of a request, should one be made, is a `Hop`."""
    if not isinstance(request, Hop):
        request.copy = partial(_next, auth, request)  # type: ignore[method-assign]


class Hop(PreparedRequest):
    """A request that follows a redirect.

    A session reads `hooks` first of all when it sends a request, and not while it prepares one: that
    is when the headers are decided. What is prepared and never sent (`Response.next`) costs nothing,
    and a failure there is raised where the request would have gone out.
    """

    _auth: SecretsAuth
    #: Whether a request before it in the chain was encrypted.
    _was_secure: bool
    #: The origin that the chain began at, where that must not have a credential. Who may choose where
    #: an artifact lies must not be able to aim an authenticated request at the tracking server.
    _came_from: str | None
    _decided_for: str | None

    @property
    def hooks(self) -> Any:
        """The hooks, as they were registered."""
        if "_auth" in self.__dict__ and self._decided_for != self.url:
            self._decide()
        return self.__dict__["hooks"]

    @hooks.setter
    def hooks(self, hooks: Any) -> None:
        self.__dict__["hooks"] = hooks

    def prepare_auth(self, auth: object, url: object = "") -> None:
        """Do nothing: this is how `requests` would bring in a password from `~/.netrc`."""

    def copy(self) -> PreparedRequest:
        """Return the hop after this one."""
        return _next(self._auth, self)

    def _decide(self) -> None:
        # First, because the native part reads `hooks` as well.
        self._decided_for = self.url
        try:
            _strip(self)
            origin = origin_of(self.url)
            if origin is not None and self._was_secure and not origin.startswith("https:"):
                reason = f"a redirect led from https to {origin}. Credentials never follow there"
                self._auth.decline(self, origin, reason)
            elif origin is not None and self._came_from is not None:
                reason = f"a redirect led to {origin} from {self._came_from}, which may have none"
                self._auth.decline(self, origin, reason)
            else:
                self._auth.answers(self)
        except BaseException:
            self._decided_for = None
            raise


def _next(auth: SecretsAuth, request: PreparedRequest) -> Hop:
    """Copy a request for the hop after it, without what was sent to its own origin."""
    hop = Hop()
    was_decided = request.__dict__.get("_decided_for")
    if isinstance(request, Hop):
        request._decided_for = request.url  # copying reads `hooks`, and is no reason to decide
    hop.__dict__.update(PreparedRequest.copy(request).__dict__)
    hop._was_secure = (request.url or "").startswith("https:")
    hop._came_from = None
    if isinstance(request, Hop):
        request._decided_for = was_decided
        hop._was_secure |= request._was_secure
        hop._came_from = request._came_from
    sent = sent_with(request)
    if sent is not None:
        for name in sent.names:
            hop.headers.pop(name, None)
        if not sent.allowed and not isinstance(request, Hop):
            hop._came_from = sent.origin or "an unknown origin"
    hop._decided_for = None
    hop._auth = auth
    return hop


def _strip(request: PreparedRequest) -> None:
    """Take off what was put on for an origin that the request does not go to after all."""
    sent = sent_with(request)
    if sent is not None:
        for name in sent.names:
            request.headers.pop(name, None)
        del request.__dict__["_mlflow_secrets_auth"]
