"""Child processes, ports and waiting, as all servers here need them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL = 0.02
"""Seconds between two looks at a condition."""


class ServerFailed(RuntimeError):
    """A server ended, or did not answer in time; the text ends with its output."""


def free_port() -> int:
    """A loopback port that nothing listens on.

    It lies below the ranges that Linux and macOS use for outgoing connections,
    so that a busy client next door cannot take it before the server does.
    """
    for _ in range(200):
        port = random.randint(15000, 32000)
        with socket.socket() as probe:
            # As servers do: a port in TIME_WAIT is free, one in use is not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free loopback port found")


def wait_until(condition: Callable[[], T], *, timeout: float = 10, what: str = "") -> T:
    """Poll ``condition`` until it returns something true, and return that.

    Raises ``TimeoutError`` naming ``what`` after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what or condition!r}")
        time.sleep(POLL)


def machine_free_environment(**more: str) -> dict[str, str]:
    """The least that a program needs: PATH and a locale, plus ``more``.

    None of the machine's proxies, credentials or MLflow settings get through.
    """
    kept = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    return {**kept, **more}


class Process:
    """A program in a process group of its own, its output in a log file."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._name = Path(command[0]).name
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(machine_free_environment() if env is None else env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is the id of the group as well."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._child.poll() is None

    def output(self, last: int = 4000) -> str:
        """The last characters of what the program has written."""
        return self.log.read_text(errors="replace")[-last:]

    def wait_ready(self, ready: Callable[[], object], *, timeout: float) -> None:
        """Wait until ``ready()`` is true; fail at once when the program ends."""

        def ready_or_dead() -> bool:
            if not self.alive:
                raise ServerFailed(f"{self._name} ended with {self._child.returncode}:\n{self.output()}")
            return bool(ready())

        try:
            wait_until(ready_or_dead, timeout=timeout, what=self._name)
        except TimeoutError as late:
            raise ServerFailed(f"{late}; its output:\n{self.output()}") from None

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        self._child.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens when it is gone."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # macOS answers EPERM for a group of zombies

    def pause(self) -> None:
        """Let the program stand still; it does when this returns."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def stop(self, *, grace: float = 5) -> None:
        """Ask the group to end, then make sure of it."""
        self.signal_group(signal.SIGCONT)
        self.signal_group(signal.SIGTERM)
        try:
            self._child.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """End the whole group at once."""
        self.signal_group(signal.SIGKILL)
        self._child.wait()
