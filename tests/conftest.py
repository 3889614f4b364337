"""Fixtures for the end-to-end tests: real servers, and a sandbox for each test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import openbao as openbao_server
from servers import tools
from servers.certificates import Authority
from servers.mlflow import MlflowServer
from servers.nginx import Nginx
from servers.openbao import OpenBao
from servers.recorder import Recorder
from servers.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A home, a runtime directory and an environment for this test alone;
    fails the test when something of it still runs at its end."""
    box = Sandbox()
    try:
        yield box
    finally:
        left = box.close()
    assert not left, f"left running (now killed): {left}"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of our own."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server that lets everybody in."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_basic_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server with users. Its administrator is everybody's: a test
    that changes a password adds a user of its own first."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow_basic_auth"), basic_auth=True) as server:
        yield server


@pytest.fixture(scope="session")
def openbao_program() -> Path:
    """The ``bao`` program, built when it is not there yet."""
    with tools.optional():
        return openbao_server.binary()


@pytest.fixture
def new_openbao(openbao_program: Path, tmp_path: Path) -> Iterator[Callable[..., OpenBao]]:
    """Starts a secret manager: ``new_openbao(**options of OpenBao)``."""
    with contextlib.ExitStack() as running:
        numbers = itertools.count(1)

        def start(**options: Any) -> OpenBao:
            directory = tmp_path / f"openbao{next(numbers)}"
            return running.enter_context(OpenBao(openbao_program, directory, **options))

        yield start


@pytest.fixture
def openbao(new_openbao: Callable[..., OpenBao]) -> OpenBao:
    """A secret manager with KV version 2 at ``secret``."""
    server = new_openbao()
    server.enable_kv()
    return server


@pytest.fixture
def openbao_tls(new_openbao: Callable[..., OpenBao], authority: Authority) -> OpenBao:
    """The same with TLS, under our own authority."""
    server = new_openbao(certificate=authority.server(), ca_file=authority.file)
    server.enable_kv()
    return server


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Starts a proxy: ``nginx(upstream, demand, **options of Nginx)``."""
    with contextlib.ExitStack() as running:
        numbers = itertools.count(1)

        def start(*arguments: Any, **options: Any) -> Nginx:
            with tools.optional():
                proxy = Nginx(tmp_path / f"nginx{next(numbers)}", *arguments, **options)
                return running.enter_context(proxy)

        yield start


@pytest.fixture
def new_recorder() -> Iterator[Callable[..., Recorder]]:
    """Starts a stand-in: ``new_recorder(**options of Recorder)``."""
    with contextlib.ExitStack() as running:
        yield lambda **options: running.enter_context(Recorder(**options))


@pytest.fixture
def recorder(new_recorder: Callable[..., Recorder]) -> Recorder:
    """A stand-in that answers 200 and ``{}`` until it is told otherwise."""
    return new_recorder()
