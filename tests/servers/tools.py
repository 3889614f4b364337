"""Programs from outside Python that some tests need."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest


class MissingTool(Exception):
    """A program that a test needs is not installed; the text says how to get it."""


def find(program: str, *folders: str, install: str) -> str:
    """Path of ``program`` from PATH or one of ``folders``.

    Raises ``MissingTool`` with the one-line remedy ``install`` otherwise.
    """
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        raise MissingTool(f"{program} not found: {install}")
    return found


@contextlib.contextmanager
def optional() -> Iterator[None]:
    """Skip a test whose tool is not installed; under ``CI=true`` let it fail."""
    try:
        yield
    except MissingTool as missing:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
