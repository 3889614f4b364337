"""OpenBao, nginx that demands a token, twenty training processes and a rotation under way."""

from __future__ import annotations

import re
import secrets
import time

from backends import MlflowServer, Nginx, OpenBao
from console import Console, Failed
from stage import Child, Stage

_PROCESSES = 20
_EPOCHS = 80
_LOGIN = "update auth/approle/login"
_READ = "read secret/data/mlflow/auth"


class VaultDemo:
    """The case that the broker exists for: many processes, one login, one read per revision."""

    TITLE = "mlflow-secrets-auth: twenty training processes, one AppRole, a rotation while they run"
    STEPS = 8

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._bao = OpenBao(stage)
        self._mlflow = MlflowServer(stage, users=False)
        self._nginx = Nginx(stage, self._mlflow.url)
        self._token = secrets.token_urlsafe(24)
        self._settings: dict[str, str] = {"MLFLOW_TRACKING_URI": self._nginx.url}

    @staticmethod
    def check() -> None:
        """Programs that are not in the wheel."""
        OpenBao.program()
        Nginx.program()

    def run(self) -> None:
        """All steps but the last."""
        self._start_openbao()
        self._start_mlflow()
        self._train_without()
        children = self._train_many()
        self._rotate(children)
        self._show_status()
        self._count()

    def _start_openbao(self) -> None:
        console = self._console
        console.step("Start OpenBao with a token for MLflow, and a role that may read it and nothing else")
        self._bao.start()
        role, secret = self._bao.set_up(self._token)
        console.say(f'{self._bao.address}: secret/mlflow/auth holds {{"token": "..."}}')
        console.say(f"policy of the role: {self._bao.POLICY}")
        self._settings.update(
            MLFLOW_TRACKING_AUTH="mlflow_secrets_auth",
            MLFLOW_SECRETS_AUTH_ENABLE="vault",
            VAULT_ADDR=self._bao.address,
            VAULT_ROLE_ID=role,
            VAULT_SECRET_ID=secret,
            MLFLOW_VAULT_SECRET_PATH="secret/mlflow/auth",
        )
        console.good("unsealed, with an audit log")

    def _start_mlflow(self) -> None:
        console = self._console
        console.step("Start an MLflow server, and nginx before it, which demands the token")
        started = time.monotonic()
        self._mlflow.start()
        # Of many that create it at once MLflow lets some log to the default experiment.
        self._mlflow.api("POST", "experiments/create", {"name": "demo"})
        self._nginx.start(self._token)
        console.good(f"{self._nginx.url} answers ({time.monotonic() - started:.0f} s)")

    def _train_without(self) -> None:
        console = self._console
        console.step("Run the training script without the plugin")
        console.command("python train.py")
        child = self._stage.train("train-without", 5, {"MLFLOW_TRACKING_URI": self._nginx.url})
        if self._stage.finish(child, "training") == 0 or "401" not in child.output():
            raise Failed("the script was to fail with 401, and did not", child.log)
        console.good("refused by nginx with 401, as it should be")

    def _train_many(self) -> list[Child]:
        console = self._console
        console.step(f"Run it {_PROCESSES} times at once with the plugin; no broker runs yet")
        for name, value in self._settings.items():
            console.command(f"export {name}={'...' if name == 'VAULT_SECRET_ID' else value}")
        console.command(f"for i in $(seq {_PROCESSES}); do python train.py {_EPOCHS} & done")
        children = [
            self._stage.train(f"train-{number}", _EPOCHS, self._settings) for number in range(1, _PROCESSES + 1)
        ]
        started = time.monotonic()
        self._until(children, 3, f"starting {_PROCESSES} processes")
        console.good(f"all {_PROCESSES} are training ({time.monotonic() - started:.0f} s)")
        return children

    def _rotate(self, children: list[Child]) -> None:
        console = self._console
        console.step("Rotate the token while they train")
        new = secrets.token_urlsafe(24)
        self._nginx.demand(self._token, new)
        self._bao.store(new)
        self._nginx.demand(new)
        running = sum(child.code is None for child in children)
        console.good(f"OpenBao has a new token, nginx refuses the old one; {running} processes are training")
        started = time.monotonic()

        def ended() -> bool | None:
            for child in children:
                if child.code not in (None, 0):
                    raise Failed(f"a process ended with exit code {child.code}", child.log)
            return all(child.code == 0 for child in children) or None

        console.wait("training on", ended, seconds=300)
        runs = self._mlflow.runs()
        epochs = [len(self._mlflow.history(run["info"]["run_id"])) for run in runs]
        finished = sum(run["info"]["status"] == "FINISHED" for run in runs)
        if finished != _PROCESSES or epochs != [_EPOCHS] * _PROCESSES:
            raise Failed(f"{finished} runs are finished, with {epochs} epochs")
        if running != _PROCESSES:
            raise Failed(f"only {running} of {_PROCESSES} processes met the rotation")
        console.good(f"all {_PROCESSES} ended well ({time.monotonic() - started:.0f} s), every epoch has arrived")

    def _show_status(self) -> None:
        self._console.step("Ask the broker what it is doing")
        self._console.command("mlflow-secrets-auth status")
        status = self._stage.command("status")
        self._console.quote(status.stdout + status.stderr)
        if status.returncode != 0:
            raise Failed(f"status said {status.returncode}: the broker is not healthy")

    def _count(self) -> None:
        self._console.step("Count in OpenBao's own audit log what all of them together have asked for")
        counts = self._bao.audited()
        for what, count in sorted(counts.items()):
            self._console.say(f"{count:>3} x {what}")
        if counts[_LOGIN] != 1 or counts[_READ] != 2:
            raise Failed(
                f"{counts[_LOGIN]} logins and {counts[_READ]} reads, where 1 and 2 were expected",
                self._stage.root / "log/openbao.log",
            )
        self._console.good(f"{_PROCESSES} processes, 2 revisions of the secret: 1 login, 2 reads")

    def _until(self, children: list[Child], epoch: int, what: str) -> None:
        def reached() -> bool | None:
            for child in children:
                if child.code is not None:
                    raise Failed(f"a process ended early with exit code {child.code}", child.log)
            texts = (child.output() for child in children)
            epochs = [len(re.findall(r"^epoch \d+/", text, re.MULTILINE)) for text in texts]
            return all(count >= epoch for count in epochs) or None

        self._console.wait(what, reached, seconds=300)
