"""What the demo says: numbered steps, a spinner on a terminal, and how a step failed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PAUSE = 0.08


class Failed(Exception):
    """A step failed; the text says why, `log` is the file that says more."""

    def __init__(self, why: str, log: Path | None = None) -> None:
        super().__init__(why)
        self.log = log


class Console:
    """Writes to standard output; colours and a spinner only on a terminal."""

    def __init__(self, steps: int) -> None:
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._coloured = self._terminal and not os.environ.get("NO_COLOR")
        self._steps = steps
        self._number = 0
        self.step_title = "preparing"
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]

    def title(self, text: str) -> None:
        """The first line."""
        print(self._tint("1", text))

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._number += 1
        self.step_title = f"step {self._number} ({text})"
        print("\n" + self._tint("1;36", f"{self._number}/{self._steps} {text}"))

    def command(self, text: str) -> None:
        """Show a command that is run now."""
        print(self._tint("33", f"    $ {text}"))

    def say(self, text: str = "") -> None:
        """Show lines as they are."""
        for line in text.splitlines() or [""]:
            print(f"    {line}".rstrip())

    def quote(self, text: str) -> None:
        """Show what a program has written."""
        for line in text.rstrip().splitlines():
            print(self._tint("2", f"    │ {line}".rstrip()))

    def good(self, text: str) -> None:
        """Say that something is as it should be."""
        print(f"    {self._tint('32', '✓')} {text}")

    def failed(self, error: Failed) -> None:
        """Say which step failed and why, with the end of the log that tells more."""
        print(f"\n{self._tint('1;31', '✗')} {self.step_title} failed: {error}")
        if error.log is not None and error.log.exists():
            tail = error.log.read_text(errors="replace").splitlines()[-25:]
            print(f"  the end of {error.log.name}:")
            self.quote("\n".join(tail) or "(empty)")

    def wait(self, what: str, ready: Callable[[], T | None], *, seconds: float, log: Path | None = None) -> T:
        """Poll until `ready` returns something other than None; show that time passes."""
        started = time.monotonic()
        with self._spinner() as turn:
            while True:
                value = ready()
                if value is not None:
                    return value
                passed = time.monotonic() - started
                if passed > seconds:
                    raise Failed(f"{what}: not done after {seconds:g} s", log)
                turn(f"{what} ({passed:.0f} s)")
                time.sleep(_PAUSE)

    @contextmanager
    def _spinner(self) -> Iterator[Callable[[str], None]]:
        """Give what to call with the text of the moment; without a terminal it is written once."""
        count = 0

        def turn(text: str) -> None:
            nonlocal count
            if self._terminal:
                print(f"\r\x1b[2K    {_FRAMES[count % len(_FRAMES)]} {text}", end="", flush=True)
            elif count == 0:
                print(f"    {text.rsplit(' (', 1)[0]} …")
            count += 1

        try:
            yield turn
        finally:
            if self._terminal and count:
                print("\r\x1b[2K", end="", flush=True)

    def _tint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text
