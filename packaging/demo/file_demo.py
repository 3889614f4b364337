"""MLflow with users and passwords; the credential comes from a file."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import textwrap
import time
from typing import Any

from backends import MlflowServer
from console import Console, Failed
from stage import Child, Stage

_EPOCHS = 20


class FileDemo:
    """One server, one script: refused without the plugin, at home with it."""

    TITLE = "mlflow-secrets-auth: an unmodified training script, a real MLflow server, a password in a file"
    STEPS = 8

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._server = MlflowServer(stage, users=True)
        self._secret = stage.root / "secret.json"
        self._who = self._server.admin

    @staticmethod
    def check() -> None:
        """Nothing is needed beyond Python."""

    def run(self) -> None:
        """All steps but the last."""
        self._start_server()
        self._write_secret()
        self._train_without()
        self._train_with()
        self._show_status()
        self._read_back()
        self._rotate_and_kill()

    def _start_server(self) -> None:
        self._console.step("Start an MLflow server that demands a user and a password")
        self._console.command(f"mlflow server --app-name basic-auth --port {self._server.port}")
        started = time.monotonic()
        self._server.start()
        self._console.good(f"{self._server.url} answers ({time.monotonic() - started:.0f} s)")

    def _write_secret(self) -> None:
        self._console.step("Put a user name and a password into a file that only its owner can read")
        self._store(self._who)
        mode = self._secret.stat().st_mode & 0o777
        self._console.say(f'{self._secret} (mode {mode:04o}): {{"username": "admin", "password": "..."}}')

    def _train_without(self) -> None:
        console = self._console
        console.step("Run the training script without the plugin")
        settings = {"MLFLOW_TRACKING_URI": self._server.url}
        _show(console, settings)
        console.command("python train.py")
        child = self._stage.train("train-without", 5, settings)
        if self._stage.finish(child, "training") == 0 or "401" not in child.output():
            raise Failed("the script was to fail with 401, and did not", child.log)
        error = next(line for line in reversed(child.output().splitlines()) if "401" in line)
        console.quote(textwrap.fill(error, 90))
        console.good("refused with 401, as it should be")

    def _train_with(self) -> None:
        console = self._console
        console.step("Run the same script with the plugin")
        _show(console, self._settings)
        console.command("python train.py")
        started = time.monotonic()
        child = self._stage.train("train-with", 5, self._settings)
        if self._stage.finish(child, "training") != 0:
            raise Failed("the script failed", child.log)
        console.quote("\n".join(line for line in child.output().splitlines() if line.startswith("epoch")))
        console.good(f"trained ({time.monotonic() - started:.0f} s); the first request has started a broker")

    def _show_status(self) -> None:
        self._console.step("Ask the broker what it is doing")
        self._console.command("mlflow-secrets-auth status")
        status = self._stage.command("status")
        self._console.quote(status.stdout + status.stderr)
        if status.returncode != 0:
            raise Failed(f"status said {status.returncode}: the broker is not healthy")

    def _read_back(self) -> None:
        self._console.step("Read the run back through MLflow's REST API")
        run = self._server.runs()[0]
        params = {item["key"]: item["value"] for item in run["data"]["params"]}
        losses = self._server.history(run["info"]["run_id"])
        self._console.say(f"run {run['info']['run_id']} {run['info']['status']}")
        self._console.say(f"params  {params}")
        self._console.say(f"loss    {', '.join(f'{loss:.3f}' for loss in losses)}")
        if run["info"]["status"] != "FINISHED" or len(losses) != 5:
            raise Failed("the run is not what the script has logged")
        self._console.good("all there")

    def _rotate_and_kill(self) -> None:
        console, stage = self._console, self._stage
        console.step(f"Train for {_EPOCHS} epochs; meanwhile change the password and kill the broker")
        console.command(f"python train.py {_EPOCHS}")
        child = stage.train("train-long", _EPOCHS, self._settings)
        self._until_epoch(child, 4)
        self._rotate()
        console.good(f"epoch {_epoch(child)}: the file names another user, the old password is worth nothing")
        self._until_epoch(child, 10)
        status = self._status()
        os.kill(status["pid"], signal.SIGKILL)
        console.good(f"epoch {_epoch(child)}: the broker (pid {status['pid']}) was killed with SIGKILL")
        if stage.finish(child, "training on") != 0:
            raise Failed("the script did not survive", child.log)
        # The server's own count; the old password would not get this answer.
        run = self._server.runs(self._who)[0]
        losses = self._server.history(run["info"]["run_id"], self._who)
        if run["info"]["status"] != "FINISHED" or len(losses) != _EPOCHS:
            raise Failed(f"{len(losses)} of {_EPOCHS} epochs have arrived", child.log)
        for source in status["sources"]:
            seen = source["last_rejection"]
            if seen is not None:
                console.say(f"the broker saw: {seen['status']} for revision {seen['revision']}, {seen['outcome']}")
        again = self._status()
        console.good(f"all {_EPOCHS} epochs have arrived; another broker (pid {again['pid']}) was started")

    def _status(self) -> dict[str, Any]:
        answer = self._stage.command("status", "--json")
        status: dict[str, Any] = json.loads(answer.stdout)
        if not status["running"]:
            raise Failed(f"no broker runs: {answer.stderr.strip()}")
        return status

    def _rotate(self) -> None:
        """As rotations go: the new credential works first, then the file changes, then the old one ends."""
        new = ("trainer", f"pw-{secrets.token_urlsafe(18)}")
        self._server.api("POST", "users/create", {"username": new[0], "password": new[1]})
        self._store(new)
        name, old = self._server.admin
        other = {"username": name, "password": f"pw-{secrets.token_urlsafe(18)}", "current_password": old}
        self._server.api("PATCH", "users/update-password", other)
        self._who = new

    def _store(self, user: tuple[str, str]) -> None:
        self._stage.write_private(self._secret, json.dumps({"username": user[0], "password": user[1]}))

    def _until_epoch(self, child: Child, epoch: int) -> None:
        def reached() -> bool | None:
            if child.code is not None:
                raise Failed(f"the script ended in epoch {_epoch(child)}", child.log)
            return _epoch(child) >= epoch or None

        self._console.wait("training", reached, seconds=60, log=child.log)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "MLFLOW_TRACKING_URI": self._server.url,
            "MLFLOW_TRACKING_AUTH": "mlflow_secrets_auth",
            "MLFLOW_SECRETS_AUTH_ENABLE": "file",
            "MLFLOW_FILE_SECRET_PATH": str(self._secret),
            "MLFLOW_FILE_AUTH_MODE": "basic",
        }


def _epoch(child: Child) -> int:
    """The last epoch that a training script has reported."""
    found = re.findall(r"^epoch (\d+)/", child.output(), re.MULTILINE)
    return int(found[-1]) if found else 0


def _show(console: Console, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        console.command(f"export {name}={value}")
