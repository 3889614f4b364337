"""Rejections: one second try, and only with a newer credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests import PreparedRequest
from requests.cookies import extract_cookies_to_jar
from requests.utils import rewind_body

from mlflow_secrets_auth import notices
from mlflow_secrets_auth.errors import SecretsAuthError
from mlflow_secrets_auth.sent import Sent

if TYPE_CHECKING:
    from requests import Response

    from mlflow_secrets_auth._client import Answer
    from mlflow_secrets_auth.auth import SecretsAuth

__all__ = ["replay"]

_MARKER = ("X-MLFSA-Retried", "true")


def replay(auth: SecretsAuth, response: Response, sent: Sent, kwargs: dict[str, Any]) -> Response | None:
    """Report a rejection; return the response to a second try, or None: the first one stands.

    `kwargs` are those that the session sent the request with: its time-outs, proxies and TLS set-up.
    """
    request, status = response.request, response.status_code
    if sent.origin is None or not sent.names:
        if status == 401:
            notices.unauthenticated(sent.origin or "a server", sent.reason or "its secret makes no header")
        return None
    try:
        answer = auth.rejected(sent, request.url or "", status)
    except SecretsAuthError as error:
        notices.report_failed(sent.origin, str(error))
        return None
    outcome = _useless(answer, request, sent)
    if outcome is not None:
        notices.rejected(status, sent.origin, ", ".join(sent.names), sent.source, sent.revision, outcome)
        return None
    if getattr(response, "connection", None) is None or not _rewind(request):
        notices.not_replayed(sent.origin)
        return None
    _drain(response)
    return _send_again(auth, response, sent, answer, kwargs)


def _useless(answer: Answer, request: PreparedRequest, sent: Sent) -> str | None:
    """Say why an answer is not worth a second try; None: it is."""
    if answer.declined is not None:
        return answer.declined
    same = all(request.headers.get(name) == value for name, value in answer.headers)
    if answer.revision == sent.revision or same or not answer.headers:
        return "there is no newer one. See `mlflow-secrets-auth status`"
    return None


def _rewind(request: PreparedRequest) -> bool:
    """Bring a request's body back to its start; False: it was read and is gone."""
    if request.body is None or isinstance(request.body, (str, bytes)):
        return True
    if not isinstance(getattr(request, "_body_position", None), int):
        return False
    try:
        rewind_body(request)
    except Exception:  # closed meanwhile, not seekable after all
        return False
    return True


def _drain(response: Response) -> None:
    """Give the connection back to its pool."""
    try:
        _ = response.content
    except Exception:  # a broken answer that nobody will read
        notices.once(10, "the rest of a rejected response could not be read")
    response.close()


def _send_again(auth: SecretsAuth, response: Response, sent: Sent, answer: Answer, kwargs: dict[str, Any]) -> Response:
    # Of the base class: a hop's copy would be the hop after it.
    again = PreparedRequest.copy(response.request)
    jar: Any = getattr(again, "_cookies", None)
    if jar is not None:
        extract_cookies_to_jar(jar, response.request, response.raw)
        again.prepare_cookies(jar)
    for name in sent.names:
        again.headers.pop(name, None)
    for name, value in (*answer.headers, _MARKER):
        again.headers[name] = value
    names = tuple(name for name, _ in answer.headers)
    auth.mark(again, Sent(sent.origin, names, answer.revision, answer.source))
    second: Response = response.connection.send(again, **kwargs)
    second.history.append(response)
    second.request = again
    if second.status_code == 401:
        outcome = "so was the newer one. See `mlflow-secrets-auth status`"
        notices.rejected(401, str(sent.origin), ", ".join(names), answer.source, answer.revision, outcome)
    return second
