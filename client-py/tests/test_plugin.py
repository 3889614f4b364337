"""How MLflow loads the plugin, and what that costs; what a broken installation does."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

import mlflow_secrets_auth
from mlflow_secrets_auth import SecretsAuthError, SecretsAuthProviderFactory

PACKAGE = Path(mlflow_secrets_auth.__file__).parent


def run(code: str, path: Path = PACKAGE.parent, **environment: str) -> str:
    """Run code in an interpreter of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_object_per_process_and_never_nothing():
    factory = SecretsAuthProviderFactory()
    assert factory.get_name() == "mlflow_secrets_auth"
    auth = factory.get_auth()
    assert auth
    assert callable(auth)
    assert SecretsAuthProviderFactory().get_auth() is auth


def test_import_is_light():
    names = run(
        "import sys, threading; before = set(sys.modules); import mlflow_secrets_auth as m;"
        "m.SecretsAuthProviderFactory().get_name();"
        "print(' '.join(sorted(set(sys.modules) - before)), threading.active_count())"
    )
    assert names in ("mlflow_secrets_auth 1", "__future__ mlflow_secrets_auth 1")


def test_auth_object_is_light():
    code = """
import os, sys, threading, requests
modules, files = set(sys.modules), set(os.listdir("/dev/fd"))
import mlflow_secrets_auth as m
m.SecretsAuthProviderFactory().get_auth()
new = set(sys.modules) - modules
print(sorted(n for n in new if not n.startswith("mlflow_secrets_auth")))
print(threading.active_count(), len(set(os.listdir("/dev/fd")) - files) <= 0)
"""
    modules, rest = run(code).splitlines()
    assert modules == "[]"
    assert rest == "1 True"
    assert "asyncio" not in modules


def test_version_is_lazy_and_known():
    assert run("import mlflow_secrets_auth as m; print(m.__version__)") == mlflow_secrets_auth.__version__
    with pytest.raises(AttributeError, match="nothing"):
        mlflow_secrets_auth.nothing  # noqa: B018


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, to be broken."""
    target = tmp_path / "site" / "mlflow_secrets_auth"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return target


TRY = """
import mlflow_secrets_auth as m
factory = m.SecretsAuthProviderFactory()
for _ in range(2):
    try:
        print("got", factory.get_auth())
    except Exception as error:
        print(type(error).__name__, error, "|", error.__cause__, error.__suppress_context__)
"""


@pytest.mark.parametrize("damage", ["missing", "garbage", "syntax"])
def test_broken_installation_raises_and_says_what_to_do(copy, damage):
    if damage == "garbage":
        (copy / "_client.abi3.so").write_bytes(b"\x7fELF nonsense")
    elif damage == "syntax":
        (copy / "hops.py").write_text("def :")
    for line in run(TRY, path=copy.parent).splitlines():
        assert line.startswith("SecretsAuthError cannot authenticate any request")
        assert "pip install --force-reinstall" in line
        assert line.endswith("| None True")


def test_mlflow_s_registry_never_fails_open(copy):
    """An ImportError at load would be a warning, and unauthenticated requests."""
    pytest.importorskip("mlflow")
    info = copy.parent / "mlflow_secrets_auth-0.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-secrets-auth\nVersion: 0.3.0\n")
    (info / "entry_points.txt").write_text(
        "[mlflow.request_auth_provider]\nmlflow_secrets_auth = mlflow_secrets_auth:SecretsAuthProviderFactory\n"
    )
    code = """
from mlflow.tracking.request_auth.registry import fetch_auth
try:
    print("got", fetch_auth("mlflow_secrets_auth"))
except Exception as error:
    print(type(error).__name__, error)
"""
    assert run(code, path=copy.parent).startswith("SecretsAuthError cannot authenticate any request")


def test_sub_interpreter_is_refused_clearly():
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        raise SystemExit
import mlflow_secrets_auth as m
m.SecretsAuthProviderFactory().get_auth()
try:
    other = interpreters.create("legacy")
except TypeError:
    other = interpreters.create()
import os
script = '''
import sys
import mlflow_secrets_auth as m
try:
    text = repr(m.SecretsAuthProviderFactory().get_auth())
except Exception as error:
    text = f"{type(error).__name__} {error}"
import os
os.write(1, text.encode())
'''
failed = (getattr(interpreters, "run_string"))(other, script)
if failed is not None:
    print(failed)
"""
    said = run(code)
    if said:
        assert said.startswith("SecretsAuthError cannot authenticate any request")
        assert "main interpreter" in said


def test_errors_requests_and_the_object_itself_can_be_pickled(monkeypatch):
    assert str(pickle.loads(pickle.dumps(SecretsAuthError("x")))) == "x"
    auth = SecretsAuthProviderFactory().get_auth()
    assert pickle.loads(pickle.dumps(auth)) is auth
    monkeypatch.setenv("MLFLOW_SECRETS_ALLOWED_HOSTS", "nobody.example")
    request = auth(requests.Request("GET", "http://127.0.0.1:1/").prepare())
    copy = pickle.loads(pickle.dumps(request))
    assert copy.hooks == request.hooks
    assert len(copy.hooks["response"]) == 1


# Only debug builds have a way to panic on purpose.
if hasattr(__import__("mlflow_secrets_auth._client")._client, "_panic"):

    def test_panic_is_an_ordinary_exception(capfd):
        with pytest.raises(SecretsAuthError, match="internal error"):
            __import__("mlflow_secrets_auth._client")._client._panic()


def test_stub_says_what_the_native_part_is(tmp_path):
    pytest.importorskip("mypy")
    allowed = tmp_path / "allowed"
    # What only debug builds have.
    allowed.write_text("mlflow_secrets_auth._client._panic\nmlflow_secrets_auth._client.__all__\n")
    folder = str(PACKAGE.parent)
    # mypy finds an installed package by itself, and refuses to be told of its folder.
    paths = {} if PACKAGE.parent.name == "site-packages" else {"MYPYPATH": folder, "PYTHONPATH": folder}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy.stubtest", "mlflow_secrets_auth._client"),
            *("--ignore-unused-allowlist", "--allowlist", str(allowed)),
        ],
        env={**os.environ, **paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
