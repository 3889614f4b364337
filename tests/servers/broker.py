"""A broker in the foreground, with its log."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers.process import wait_until
from servers.sandbox import COMMAND, Sandbox


class Broker:
    """``mlflow-secrets-auth serve`` in a sandbox; ended on the way out, also after a failed assertion."""

    def __init__(self, sandbox: Sandbox, *options: str, **environment: str) -> None:
        self._sandbox = sandbox
        self._options = options
        self._environment = {**sandbox.environment, **environment}
        self._log = sandbox.root / "broker.log"

    def __enter__(self) -> Broker:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(COMMAND), "serve", *self._options],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: bool(self._sandbox.sockets()) or self.process.poll() is not None, timeout=10)
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._sandbox.sockets()[0]

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")
