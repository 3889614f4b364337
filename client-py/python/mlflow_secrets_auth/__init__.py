"""Authenticates MLflow's HTTP requests with credentials from a secret manager.

`MLFLOW_TRACKING_AUTH=mlflow_secrets_auth` turns it on. MLflow loads this module when it looks for
plugins, in every process that has it installed: nothing here can fail, costs time or does I/O. What
does the work is loaded with the first request.
"""

from __future__ import annotations

# For type checkers alone.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlflow_secrets_auth._client import Answers

__all__ = ["SecretsAuthError", "SecretsAuthProviderFactory", "__version__"]

# The one auth object of this process, once there is one.
_made: dict[str, Answers] = {}


class SecretsAuthProviderFactory:
    """What MLflow's plugin registry makes and asks, by duck typing: it requires no base class.

    An exception from the constructor would break MLflow itself, and an ImportError of this module
    would be turned into a warning and unauthenticated requests. So both wait for `get_auth`.
    """

    def get_name(self) -> str:
        """Return the value of `MLFLOW_TRACKING_AUTH` that selects this plugin."""
        return "mlflow_secrets_auth"

    def get_auth(self) -> Answers:
        """Return this process's auth object for `requests`. Does no I/O once it is made.

        Raises:
            SecretsAuthError: what it is made of does not load. Never None: MLflow would send the
                request without a credential.
        """
        try:
            return _made["auth"]
        except KeyError:
            return _make()


def _make() -> Answers:
    try:
        from mlflow_secrets_auth.auth import answers_of_this_process

        return _made.setdefault("auth", answers_of_this_process())
    except Exception as error:
        cause = error
    from mlflow_secrets_auth._broken import explain
    from mlflow_secrets_auth.errors import SecretsAuthError

    raise SecretsAuthError(explain(cause)) from None


def __getattr__(name: str) -> object:
    if name == "__version__":
        from mlflow_secrets_auth._version import version

        return version()
    if name == "SecretsAuthError":
        from mlflow_secrets_auth.errors import SecretsAuthError

        return SecretsAuthError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
