"""A stand-in for the native part: answers from a dictionary, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mlflow_secrets_auth.errors import SecretsAuthError


def answer(*headers: tuple[str, str], revision: int = 1, declined: str | None = None) -> Any:
    """An answer as the native part gives it."""
    return SimpleNamespace(headers=headers, revision=revision, source="file:/secret", declined=declined, max_age=60.0)


def bearer(token: str, revision: int = 1) -> Any:
    """An answer with a bearer token."""
    return answer(("Authorization", f"Bearer {token}"), revision=revision)


@dataclass
class FakeBroker:
    """What each origin gets; an exception is raised, an origin that is not there is declined."""

    answers: dict[str, Any] = field(default_factory=dict)
    #: What is answered to a rejection; None: what is answered anyway.
    newer: Any = None
    asked: list[str] = field(default_factory=list)
    rejections: list[tuple[str, int, int]] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    registry_uri: str | None = None

    def native(self, miss: Callable[..., Any], hook: Callable[..., Any]) -> Any:
        """Make the object in whose place this one stands."""
        self.miss, self.hook = miss, hook
        return self

    def __call__(self, request: Any) -> Any:
        self.miss(request)
        return request

    def register(self, request: Any, sent: object) -> None:
        if self.hook not in request.hooks["response"]:
            request.register_hook("response", self.hook)
        request._mlflow_secrets_auth = sent

    def keep(self, caller: Any, url: str, answer: Any, sent: object) -> None:
        self.kept[url] = answer

    def caller(self) -> Any:
        return self

    def ask(self, origin: str, uri_origins: list[str]) -> Any:
        self.asked.append(origin)
        found = self.answers.get(origin, answer(declined=f"{origin} is not allowed"))
        if isinstance(found, Exception):
            raise found
        return found

    def rejected(self, origin: str, uri_origins: list[str], revision: int, status: int) -> Any:
        self.rejections.append((origin, revision, status))
        found = self.newer if self.newer is not None else self.answers[origin]
        if isinstance(found, Exception):
            raise found
        if self.newer is not None:
            self.answers[origin] = found
        return found


def failing(text: str = "the secret manager is on fire. Put it out") -> SecretsAuthError:
    """A failure as the native part raises it."""
    return SecretsAuthError(text)
