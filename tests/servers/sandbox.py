"""A user of one test's own: home, runtime directory, environment, processes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from servers.process import wait_until

COMMAND = Path(sys.executable).parent / "mlflow-secrets-auth"
"""The command of the installation that the tests run in."""

_CANNOT_RUN = "{} is missing: install the wheel into the environment that runs the tests"


class Sandbox:
    """Directories and an environment that share nothing with the machine's.

    ``environment`` is what every process gets that is run here; a test may add
    to it. The directories lie right under ``/tmp`` because the name of a Unix
    socket is limited to 107 bytes (macOS: 103).
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="m", dir="/tmp")).resolve()
        self.home = self._directory("home")
        self.runtime = self._directory("run")
        self.config = self._directory("config")
        self.tmp = self._directory("tmp")
        self.work = self._directory("work")
        self.environment: dict[str, str] = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(self.config),
            "TMPDIR": str(self.tmp),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        self._scripts = itertools.count(1)
        self._children: list[subprocess.Popen[str]] = []

    def run_python(
        self, code: str, *args: str, timeout: float = 120, check: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, with ``env`` on top of the environment."""
        return self.run(sys.executable, self.script(code), *args, timeout=timeout, check=check, env=env)

    def start_python(self, code: str, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a script, in a process group of its own; the test calls
        ``communicate`` (output and errors are pipes). What still runs at the
        test's end is killed."""
        child = subprocess.Popen(
            [sys.executable, self.script(code), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env={**self.environment, **env},
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def command(
        self, *args: str, timeout: float = 60, check: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mlflow-secrets-auth`` with these arguments."""
        if not COMMAND.exists():
            raise FileNotFoundError(_CANNOT_RUN.format(COMMAND))
        return self.run(str(COMMAND), *args, timeout=timeout, check=check, env=env)

    def run(
        self, *argv: str, timeout: float = 60, check: bool = False, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any program to its end, with ``env`` on top of the environment."""
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.work,
            env={**self.environment, **(env or {})},
        )
        if check and done.returncode:
            raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def script(self, code: str) -> str:
        """Write a script to a file of its own and return the path."""
        file = self.work / f"script{next(self._scripts)}.py"
        file.write_text(code)
        return str(file)

    def write_secret(self, text: str, name: str = "secret", *, mode: int = 0o600) -> Path:
        """A file for the ``file`` provider."""
        file = self.home / name
        file.touch(mode=0o600)
        file.write_text(text)
        file.chmod(mode)
        return file

    def write_config(self, text: str) -> Path:
        """The broker's ``config.toml``."""
        file = self.config / "mlflow-secrets-auth" / "config.toml"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_text(text)
        return file

    def processes(self) -> dict[int, str]:
        """Processes that belong here, by their id: those whose arguments name
        one of the directories, and (on Linux) those that hold a Unix socket in one."""
        listing = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()]
        living = {
            int(row[0]): row[2]
            for row in rows
            if len(row) == 3 and not row[1].startswith("Z") and int(row[0]) != os.getpid()
        }
        holders = self._socket_holders()
        return {
            pid: arguments
            for pid, arguments in living.items()
            if f"{self.root}/" in arguments or arguments.endswith(str(self.root)) or pid in holders
        }

    def brokers(self) -> dict[int, str]:
        """The brokers among the processes that belong here."""
        return {pid: args for pid, args in self.processes().items() if " serve" in args}

    def sockets(self) -> list[Path]:
        """Unix sockets below the directories."""
        return sorted(path for path in self.root.rglob("*") if path.is_socket())

    def close(self, *, grace: float = 5) -> dict[int, str]:
        """Stop the broker, kill what is left, remove the directories.

        Returns what had not ended ``grace`` seconds later: processes that the test has started
        and left, and a broker that did not obey ``stop``.
        """
        left = self._end_children()
        if COMMAND.exists() and (self.processes() or self.sockets()):
            try:
                self.command("stop", timeout=20)
            except subprocess.TimeoutExpired:
                pass  # what still runs shows below
        try:
            wait_until(lambda: not self.processes(), timeout=grace)
        except TimeoutError:
            left.update(self._kill_rest())
        shutil.rmtree(self.root, ignore_errors=True)
        return left

    def _directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        return path

    def _end_children(self) -> dict[int, str]:
        left = {}
        for child in self._children:
            if child.poll() is None:
                left[child.pid] = str(child.args)
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        return left

    def _kill_rest(self) -> dict[int, str]:
        rest = self.processes()
        for pid in rest:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return rest

    def _socket_holders(self) -> set[int]:
        table = Path("/proc/net/unix")
        if not table.exists():
            return set()
        rows = (line.split(None, 7) for line in table.read_text(errors="replace").splitlines()[1:])
        nodes = {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and row[7].startswith(f"{self.root}/")}
        if not nodes:
            return set()
        holders = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if any(os.readlink(link) in nodes for link in (process / "fd").iterdir()):
                    holders.add(int(process.name))
            except OSError:
                continue  # ended meanwhile, or another user's
        return holders - {os.getpid()}
