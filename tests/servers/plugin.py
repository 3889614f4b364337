"""What a process needs to know to use the plugin: the variables."""

from __future__ import annotations

import json
from pathlib import Path

from servers.mlflow import MlflowServer
from servers.sandbox import Sandbox

ASK = """
import os, sys, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
answer = requests.get(sys.argv[1], auth=SecretsAuthProviderFactory().get_auth(), timeout=30)
print(answer.status_code)
"""
"""A script that makes one request, authenticated by the plugin, without the weight of MLflow."""


def file_provider(tracking_uri: str, secret: Path, mode: str = "bearer") -> dict[str, str]:
    """Variables for the ``file`` provider."""
    return {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_AUTH": "mlflow_secrets_auth",
        "MLFLOW_SECRETS_AUTH_ENABLE": "file",
        "MLFLOW_FILE_SECRET_PATH": str(secret),
        "MLFLOW_FILE_AUTH_MODE": mode,
    }


def basic_auth(sandbox: Sandbox, server: MlflowServer) -> dict[str, str]:
    """Variables for a server with users, its administrator's password in a file."""
    secret = sandbox.write_secret(json.dumps({"username": server.username, "password": server.password}))
    return file_provider(server.url, secret, "basic")
