"""The auth object that `requests` calls with every request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlflow_secrets_auth import hops, notices, replays
from mlflow_secrets_auth._client import Answers
from mlflow_secrets_auth.errors import SecretsAuthError
from mlflow_secrets_auth.origins import is_loopback, origin_of, origin_of_uri
from mlflow_secrets_auth.sent import Sent, sent_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

    from mlflow_secrets_auth._client import Answer, Caller

__all__ = ["SecretsAuth", "answers_of_this_process", "of_this_process"]


class SecretsAuth:
    """Decides which headers a request gets, and looks at the response.

    What `requests` calls is `answers`, the native part, which answers what it can by itself. Nothing
    here has a state beyond that: threads and forked children share it freely.
    """

    def __init__(self, native: Callable[[Callable[..., Any], Callable[..., Any]], Answers] = Answers) -> None:
        """Make one; `native` is for tests."""
        self.answers = native(self.ask_for, self.on_response)

    def __reduce__(self) -> tuple[Callable[[], SecretsAuth], tuple[()]]:
        """Pickle to the one of the process that unpickles: requests hold their response hook."""
        return of_this_process, ()

    def ask_for(self, request: PreparedRequest) -> None:
        """Authenticate a request that no kept answer fits.

        Raises:
            SecretsAuthError: no credential can be had for an origin that should get one.
        """
        notices.set_level()
        origin = origin_of(request.url)
        if origin is None:
            self.decline(request, None, "its URL has no certain host")
            return
        try:
            caller = self.answers.caller()
            answer = caller.ask(origin, _uri_origins(caller))
        except ValueError:  # the native part's own parser says no
            self.decline(request, None, "its URL has no certain host")
            return
        except SecretsAuthError as error:
            text = f"cannot authenticate requests to {origin}: {error}"
            if os.environ.get("MLFLOW_SECRETS_AUTH_ON_ERROR", "").strip().lower() != "skip":
                raise SecretsAuthError(text) from None
            notices.skipped(text)
            self.answers.register(request, Sent(origin, reason=text))
            return
        sent = sent_of(origin, answer)
        if sent.reason is not None:
            notices.declined(sent.reason)
        else:
            notices.asked(origin, sent.source, sent.revision)
            if origin.startswith("http:") and not is_loopback(origin):
                notices.plain_text(origin)
        for name, value in answer.headers:
            request.headers[name] = value
        self.answers.register(request, sent)
        if request.url is not None:
            self.answers.keep(caller, request.url, answer, sent)

    def decline(self, request: PreparedRequest, origin: str | None, reason: str) -> None:
        """Let a request go on without a credential."""
        if origin is None:
            notices.unknown_url()
        else:
            notices.declined(reason)
        self.answers.register(request, Sent(origin, reason=reason, allowed=False))

    def rejected(self, sent: Sent, url: str, status: int) -> Answer:
        """Report that a server rejected what was sent; return what to send instead.

        Raises:
            SecretsAuthError: the broker cannot say.
        """
        caller = self.answers.caller()
        answer = caller.rejected(sent.origin or "", _uri_origins(caller), sent.revision, status)
        self.answers.keep(caller, url, answer, sent_of(sent.origin, answer))
        return answer

    def mark(self, request: PreparedRequest, sent: Sent) -> None:
        """Remember on a request what is sent with it."""
        self.answers.register(request, sent)

    def on_response(self, response: Response, *_: object, **kwargs: Any) -> Response | None:
        """Look at the response to a request that was authenticated here (a hook of `requests`)."""
        request = response.request
        sent = sent_with(request)
        if sent is None:
            return None
        replayed = None
        if response.status_code in (401, 403):
            replayed = replays.replay(self, response, sent, kwargs)
        if (replayed or response).is_redirect:
            hops.govern(self, request)
        return replayed


def sent_of(origin: str | None, answer: Answer) -> Sent:
    """Return the record of an answer that is put on a request."""
    names = tuple(name for name, _ in answer.headers)
    return Sent(origin, names, answer.revision, answer.source, answer.declined, answer.declined is None)


def _uri_origins(caller: Caller) -> list[str]:
    """Return the origins of the tracking and registry URIs in effect."""
    origins = (origin_of_uri(caller.tracking_uri), origin_of_uri(caller.registry_uri))
    return [origin for origin in dict.fromkeys(origins) if origin is not None]


_made: dict[str, SecretsAuth] = {}


def of_this_process() -> SecretsAuth:
    """Return the one object of this process. Threads that get here at once get the same."""
    return _made.get("auth") or _made.setdefault("auth", SecretsAuth())


def answers_of_this_process() -> Answers:
    """Return what `requests` calls in this process."""
    return of_this_process().answers
