"""Every test has an environment of its own: no settings, no home, no proxy of the machine's."""

from __future__ import annotations

import os

import pytest
from fakes import FakeBroker
from loopback import Loopback
from real import RealBroker, search_path

from mlflow_secrets_auth import notices
from mlflow_secrets_auth.auth import SecretsAuth

_FOREIGN = ("MLFLOW_", "VAULT_", "AWS_", "AZURE_", "XDG_", "SSL_", "NETRC")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """Nothing of the machine's user is in reach."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_AUTOSTART", "0")
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_SOCKET", str(home / "broker.sock"))
    notices._said.clear()


@pytest.fixture
def server():
    """A recording HTTP server on loopback."""
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def other():
    """Another one, on another port."""
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def broker():
    """A stand-in for the native part, with the credentials that a test gives it."""
    return FakeBroker()


@pytest.fixture
def auth(broker):
    """What `requests` calls, asking the stand-in."""
    return SecretsAuth(broker.native).answers


@pytest.fixture
def real(monkeypatch):
    """A real broker, and this process's environment set to use it."""
    path = search_path()
    if path is None:
        pytest.skip("there is no mlflow-secrets-auth command: cargo build")
    broker = RealBroker(path)
    for name, value in broker.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_SECRETS_AUTH_AUTOSTART")
    yield broker
    broker.close()
