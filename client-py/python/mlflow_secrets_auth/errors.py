"""The one exception that this package raises."""

from __future__ import annotations

__all__ = ["SecretsAuthError"]


class SecretsAuthError(Exception):
    """A request cannot be authenticated.

    The text says for which origin and why, and what to do about it. It never holds a secret.
    """
