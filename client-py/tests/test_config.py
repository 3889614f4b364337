"""The settings as scripts look at them."""

from __future__ import annotations

import pytest

from mlflow_secrets_auth.config import get_allowed_hosts, get_auth_header_name, is_provider_enabled


@pytest.mark.parametrize(
    ("listed", "name", "enabled"),
    [
        ("vault", "vault", True),
        (" Vault , AWS-Secrets-Manager", "aws-secrets-manager", True),
        ("vault", "VAULT", True),
        ("vault", "file", False),
        ("", "vault", False),
        (",", "", False),
    ],
)
def test_providers_by_list(monkeypatch, listed, name, enabled):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_ENABLE", listed)
    assert is_provider_enabled(name) is enabled


@pytest.mark.parametrize(
    ("value", "enabled"),
    [("1", True), ("Yes", True), (" on ", True), ("TRUE", True), ("0", False), ("y", False)],
)
def test_providers_by_switch(monkeypatch, value, enabled):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_ENABLE_AZURE_KEY_VAULT", value)
    assert is_provider_enabled("azure-key-vault") is enabled


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        (None, None),
        ("", None),
        (" , ", None),
        ("a", ["a"]),
        (" *.corp.example.com, b ,", ["*.corp.example.com", "b"]),
    ],
)
def test_allowed_hosts(monkeypatch, value, hosts):
    if value is not None:
        monkeypatch.setenv("MLFLOW_SECRETS_ALLOWED_HOSTS", value)
    assert get_allowed_hosts() == hosts


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "Authorization"),
        ("", "Authorization"),
        ("authorization", "Authorization"),
        ("X-Api-Key", "X-Api-Key"),
    ],
)
def test_header_name(monkeypatch, value, name):
    if value is not None:
        monkeypatch.setenv("MLFLOW_AUTH_HEADER_NAME", value)
    assert get_auth_header_name() == name
