"""Where the command is looked for, in every layout that pip and Debian produce."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "client-py/python/mlflow_secrets_auth/_command.py"
COMMAND = "mlflow-secrets-auth"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"

PROGRAM = b"#!/bin/sh\necho this one\n"


@pytest.fixture(autouse=True)
def empty_path(monkeypatch, tmp_path):
    """No command of the machine that the tests run on is ever in reach."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-such-folder"))


def command_in(folder: Path, content: bytes = PROGRAM, mode: int = 0o755) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / COMMAND
    path.write_bytes(content)
    path.chmod(mode)
    return path


def package_in(site: Path) -> Path:
    package = site / "mlflow_secrets_auth"
    package.mkdir(parents=True)
    (package / "_command.py").write_bytes(SOURCE.read_bytes())
    return package


def record_in(site: Path, *lines: str) -> Path:
    """The metadata that an installer leaves in `site`."""
    info = site / "mlflow_secrets_auth-0.3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-secrets-auth\nVersion: 0.3.0\n")
    (info / "RECORD").write_text("".join(f"{line}\n" for line in lines))
    return info


def entry(path: str, content: bytes = PROGRAM) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}"


def find(package: Path) -> str:
    """`find_command` of the copy in `package`."""
    spec = importlib.util.spec_from_file_location("command_under_test", package / "_command.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.find_command()


@pytest.mark.parametrize(
    ("site", "scripts"),
    [
        (f"lib/{PYTHON}/site-packages", "bin"),  # a virtual environment, --prefix, --user
        (f"lib64/{PYTHON}/site-packages", "bin"),  # Fedora's platlib
        (f"local/lib/{PYTHON}/dist-packages", "local/bin"),  # Debian's pip
        ("lib/python3/dist-packages", "bin"),  # Debian's packages
        ("lib/python", "bin"),  # --home
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_finds_the_command_of_each_layout(tmp_path, site, scripts, recorded):
    command = command_in(tmp_path / scripts)
    package = package_in(tmp_path / site)
    if recorded:
        record_in(tmp_path / site, entry(os.path.relpath(command, tmp_path / site)))

    assert find(package) == str(command)


def test_target_folder_has_its_own_bin(tmp_path):
    site = tmp_path / "one/two/deps"
    package = package_in(site)
    # pip writes the record before it moves the files: the line points outside, here at another
    # installation's command, which is even the same file.
    other = command_in(tmp_path / "one/bin")
    record_in(site, entry("../../bin/" + COMMAND))
    own = command_in(site / "bin")

    assert find(package) == str(own)
    assert find(package) != str(other)


def test_record_of_a_target_folder_leads_to_no_other_command(tmp_path):
    site = tmp_path / "one/two/deps"
    package = package_in(site)
    command_in(tmp_path / "one/bin", b"#!/bin/sh\necho another\n")
    record_in(site, entry("../../bin/" + COMMAND))

    with pytest.raises(FileNotFoundError):
        find(package)


def test_record_wins_over_the_layout(tmp_path):
    site = tmp_path / f"lib/{PYTHON}/site-packages"
    package = package_in(site)
    command_in(tmp_path / "bin", b"#!/bin/sh\necho another\n")
    elsewhere = command_in(tmp_path / "libexec")
    record_in(site, entry("../../../libexec/" + COMMAND))

    assert find(package) == str(elsewhere)


def test_command_that_was_changed_after_its_installation_is_still_in_its_place(tmp_path):
    site = tmp_path / f"lib/{PYTHON}/site-packages"
    package = package_in(site)
    command = command_in(tmp_path / "bin", b"#!/bin/sh\necho stripped or relocated\n")
    record_in(site, entry("../../../bin/" + COMMAND))

    assert find(package) == str(command)


def test_scheme_of_this_interpreter(tmp_path, monkeypatch):
    site, scripts = tmp_path / "odd/modules", tmp_path / "odd/programs"
    package = package_in(site)
    command = command_in(scripts)
    schemes = {"odd": {"purelib": str(site), "platlib": str(site), "scripts": str(scripts)}}
    monkeypatch.setattr(sysconfig, "get_scheme_names", lambda: ("broken", "odd"))
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: schemes[scheme])

    assert find(package) == str(command)


def test_editable_installation(tmp_path, monkeypatch):
    source = tmp_path / "checkout/python"
    package = package_in(source)
    site = tmp_path / f"venv/lib/{PYTHON}/site-packages"
    command = command_in(tmp_path / "venv/bin")
    record_in(site, entry("../../../bin/" + COMMAND), "mlflow_secrets_auth.pth,,")
    (site / "mlflow_secrets_auth.pth").write_text(f"{source}\n")
    monkeypatch.syspath_prepend(str(site))

    assert find(package) == str(command)


def test_other_installation_on_the_module_path_is_not_ours(tmp_path, monkeypatch):
    package = package_in(tmp_path / "checkout/python")
    site = tmp_path / f"venv/lib/{PYTHON}/site-packages"
    command_in(tmp_path / "venv/bin")
    record_in(site, entry("../../../bin/" + COMMAND))
    monkeypatch.syspath_prepend(str(site))

    with pytest.raises(FileNotFoundError):
        find(package)


def test_path_is_the_last_resort(tmp_path, monkeypatch):
    package = package_in(tmp_path / f"env/lib/{PYTHON}/site-packages")
    last = command_in(tmp_path / "somewhere")
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "relative", str(last.parent)]))
    monkeypatch.chdir(last.parent)
    assert find(package) == str(last)

    own = command_in(tmp_path / "env/bin")
    assert find(package) == str(own)


def test_environment_cannot_redirect(tmp_path, monkeypatch):
    package = package_in(tmp_path / f"lib/{PYTHON}/site-packages")
    own = command_in(tmp_path / "bin")
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_COMMAND", str(command_in(tmp_path / "evil")))

    assert find(package) == str(own)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (PROGRAM, 0o644, "not executable"),
        (PROGRAM, 0o757, "everybody may write"),
        (b"#!/opt/env/bin/python3.11\nimport sys\n", 0o755, "a Python script"),
        (None, 0o755, "not a file"),
    ],
)
def test_refuses(tmp_path, content, mode, reason):
    package = package_in(tmp_path / f"lib/{PYTHON}/site-packages")
    if content is None:
        (tmp_path / "bin" / COMMAND).mkdir(parents=True)
    else:
        command_in(tmp_path / "bin", content, mode)

    with pytest.raises(FileNotFoundError, match=reason):
        find(package)


def test_refuses_a_folder_that_everybody_may_write_to(tmp_path, monkeypatch):
    package = package_in(tmp_path / f"env/lib/{PYTHON}/site-packages")
    command = command_in(tmp_path / "somewhere")
    command.parent.chmod(0o777)
    monkeypatch.setenv("PATH", str(command.parent))

    with pytest.raises(FileNotFoundError, match="everybody may write to its folder"):
        find(package)


def test_installation_that_is_open_to_everybody_is_no_worse_for_its_command(tmp_path):
    package = package_in(tmp_path / f"env/lib/{PYTHON}/site-packages")
    command = command_in(tmp_path / "env/bin", mode=0o777)
    for folder in (package, command.parent):
        folder.chmod(0o777)

    assert find(package) == str(command)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["file", "folder"])
def test_refuses_what_another_user_owns(tmp_path, monkeypatch, given):
    package = package_in(tmp_path / f"env/lib/{PYTHON}/site-packages")
    command = command_in(tmp_path / "somewhere")
    os.chown(command if given == "file" else command.parent, 12345, -1)
    monkeypatch.setenv("PATH", str(command.parent))

    with pytest.raises(FileNotFoundError, match="belongs to another user"):
        find(package)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_trusts_the_owner_of_the_package_in_its_own_installation(tmp_path, monkeypatch):
    package = package_in(tmp_path / f"env/lib/{PYTHON}/site-packages")
    command = command_in(tmp_path / "env/bin")
    for path in (package, command, command.parent):
        os.chown(path, 12345, -1)

    assert find(package) == str(command)


def test_says_where_it_looked_and_what_to_do(tmp_path):
    site = tmp_path / f"lib/{PYTHON}/site-packages"
    package = package_in(site)

    with pytest.raises(FileNotFoundError) as failure:
        find(package)

    text = str(failure.value)
    assert f"{tmp_path}/bin/{COMMAND}: not there" in text
    assert f"{site}/bin/{COMMAND}: not there" in text
    assert f"{sys.executable} -m pip install --force-reinstall" in text


def wheel() -> Path | None:
    """The wheel that `make wheel` left, unless it is one that only points at a source tree."""
    for path in sorted((ROOT / "target/wheels").glob("mlflow_secrets_auth-*.whl")):
        with ZipFile(path) as content:
            if "mlflow_secrets_auth/_command.py" in content.namelist():
                return path
    return None


@pytest.mark.skipif(wheel() is None, reason="target/wheels has no wheel: make wheel")
@pytest.mark.parametrize("scheme", ["venv", "target", "prefix", "user"])
def test_real_wheel(tmp_path, monkeypatch, scheme):
    """Installed for real by pip, the command is found from inside and says its version."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False, symlinks=True, system_site_packages=scheme == "user")
    python = environment / "bin/python"
    place = tmp_path / "place"
    options, expected, modules = {
        "venv": (["--prefix", str(environment)], environment / "bin", None),
        "target": (["--target", str(place)], place / "bin", place),
        "prefix": (["--prefix", str(place)], place / "bin", place / f"lib/{PYTHON}/site-packages"),
        "user": (["--user"], place / "bin", None),
    }[scheme]
    monkeypatch.setenv("PYTHONUSERBASE", str(place))
    monkeypatch.setenv("PATH", os.defpath)
    for name in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONNOUSERSITE"):
        monkeypatch.delenv(name, raising=False)
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-input", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *quiet, *options, str(wheel())], check=True)

    if modules is not None:
        monkeypatch.setenv("PYTHONPATH", str(modules))
    look = "from mlflow_secrets_auth._command import find_command; print(find_command())"
    found = subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout.strip()

    assert found == str(expected / COMMAND)
    subprocess.run([found, "--version"], check=True, stdout=subprocess.DEVNULL)
