"""A real broker with the `file` provider, for one test alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow_secrets_auth
from mlflow_secrets_auth._command import find_command

PACKAGES = Path(mlflow_secrets_auth.__file__).parent.parent
_BUILT = Path(__file__).resolve().parents[2] / "target/debug"


def search_path() -> str | None:
    """A PATH on which the command is found if the installation has none; None: there is none at all."""
    try:
        find_command()
    except FileNotFoundError:
        built = _BUILT / "mlflow-secrets-auth"
        return f"{_BUILT}{os.pathsep}{os.environ.get('PATH', os.defpath)}" if built.exists() else None
    return os.environ.get("PATH", os.defpath)


class RealBroker:
    """Where it is, what it serves, and the environment that leads to it. The client starts it."""

    def __init__(self, path: str) -> None:
        # Short, because the name of a socket is limited to some hundred bytes.
        self.root = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # noqa: S108
        self.secret = self.root / "secret"
        self.socket = self.root / "run/broker.sock"
        self.environment = {
            "PATH": path,
            "PYTHONPATH": str(PACKAGES),
            "HOME": str(self.root),
            "MLFLOW_SECRETS_AUTH_SOCKET": str(self.socket),
            "MLFLOW_SECRETS_AUTH_ENABLE": "file",
            "MLFLOW_FILE_SECRET_PATH": str(self.secret),
            "MLFLOW_FILE_AUTH_MODE": "bearer",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        }
        self.write("one")

    def write(self, token: str) -> None:
        """Change the secret, as tools do that write files: at once."""
        fresh = self.secret.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(json.dumps({"token": token}))
        fresh.replace(self.secret)

    def run(
        self, code: str, *, check: bool = True, timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def status(self) -> dict[str, object]:
        """What the command says."""
        done = self.command("status", "--json")
        return json.loads(done.stdout)

    def pid(self) -> int:
        """The broker's process."""
        return int(str(self.status()["pid"]))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        command = shutil.which("mlflow-secrets-auth", path=self.environment["PATH"]) or find_command()
        return subprocess.run(
            [command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def close(self) -> None:
        """End the broker and remove everything."""
        self.command("stop")
        shutil.rmtree(self.root, ignore_errors=True)


PRELUDE = """
import os, sys, time
import requests
import mlflow_secrets_auth as m
auth = m.SecretsAuthProviderFactory().get_auth()
def header(url="http://127.0.0.1:5000/api"):
    return auth(requests.Request("GET", url).prepare()).headers.get("Authorization")
"""
