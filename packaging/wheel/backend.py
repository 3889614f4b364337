"""The build backend: maturin, with the command built beside the extension.

A wheel carries two things made by cargo: the extension (`mlflow_secrets_auth._client`), which maturin
builds, and the command (`mlflow-secrets-auth`), which this module builds and hands to maturin as one of
the wheel's scripts. They are built by separate calls of cargo, because one call would unify the features
of their dependencies and put the daemon's tokio into every Python process.
"""

from __future__ import annotations

import email
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import maturin

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

COMMAND = "mlflow-secrets-auth"
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "wheel.data" / "scripts"

# What cargo and this backend need, and what a reader of the source needs to judge it.
SDIST_FILES = ["pyproject.toml", "README.md", "LICENSE", "Cargo.toml", "Cargo.lock", "build.rs"]
SDIST_FOLDERS = ["proto", "src", "broker", "client-py", "packaging"]
SDIST_SKIPPED = (".so", ".dylib", ".pyc")

Settings = Optional[dict[str, Any]]


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build the command, then the extension and the wheel around both."""
    _build_command()
    with _elsewhere(config_settings) as settings:
        return str(maturin.build_wheel(wheel_directory, settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the command and the extension for an installation that points at this source tree."""
    _build_command()
    with _elsewhere(config_settings) as settings:
        return str(maturin.build_editable(wheel_directory, settings, metadata_directory))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """Write the metadata alone, which compiles nothing."""
    _cargo()
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Pack the whole workspace.

    maturin's own source archives hold one crate and what that crate depends on, with the other members
    cut out of `Cargo.toml`; the command would be lost, and `Cargo.lock` would no longer fit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        info = prepare_metadata_for_build_wheel(scratch, config_settings)
        metadata = Path(scratch, info, "METADATA").read_bytes()
    version = email.message_from_bytes(metadata)["Version"]
    stem = f"mlflow_secrets_auth-{version}"
    # The same source gives the same archive: no clock, no owner, no order of the file system.
    with (
        open(Path(sdist_directory, f"{stem}.tar.gz"), "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(_sdist_paths()):
            content = path.read_bytes()
            _add(archive, f"{stem}/{path.relative_to(ROOT).as_posix()}", content, os.access(path, os.X_OK))
        _add(archive, f"{stem}/PKG-INFO", metadata, executable=False)
    return f"{stem}.tar.gz"


@contextmanager
def _elsewhere(config_settings: Settings) -> Iterator[dict[str, Any]]:
    """Keep maturin from leaving a second copy, perhaps an editable one, in `target/wheels`."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = maturin.get_maturin_pep517_args(config_settings)
        yield {**(config_settings or {}), "maturin.build-args": [*arguments, "--out", scratch]}


def _sdist_paths() -> Iterator[Path]:
    for name in SDIST_FILES:
        yield ROOT / name
    for folder in SDIST_FOLDERS:
        for place, folders, names in os.walk(ROOT / folder):
            folders[:] = [name for name in folders if name != "target" and not name.startswith((".", "__"))]
            for name in names:
                if not name.startswith(".") and not name.endswith(SDIST_SKIPPED):
                    yield Path(place, name)


def _add(archive: tarfile.TarFile, name: str, content: bytes, executable: bool) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o755 if executable else 0o644
    entry.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))  # 1980, where zip begins
    archive.addfile(entry, io.BytesIO(content))


def _build_command() -> None:
    """Build the command, and leave it where maturin takes a wheel's scripts from."""
    shutil.rmtree(SCRIPTS, ignore_errors=True)
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    arguments = ["build", "--package", COMMAND, "--release", "--locked"]
    print(f"Running `cargo {' '.join(arguments)}`", flush=True)
    built = subprocess.run(
        [_cargo(), *arguments, "--message-format", "json-render-diagnostics"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if built.returncode != 0:
        sys.exit(f"error: cargo could not build the {COMMAND} command (exit code {built.returncode})")
    # Asked, not guessed: CARGO_TARGET_DIR, CARGO_BUILD_TARGET and cargo's configuration move it.
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == COMMAND:
            script = SCRIPTS / COMMAND
            shutil.copyfile(message["executable"], script)
            script.chmod(0o755)
            return
    sys.exit(f"error: cargo built no {COMMAND} command")


def _cargo() -> str:
    cargo = shutil.which(os.environ.get("CARGO", "cargo"))
    if cargo is None:
        sys.exit(
            "error: there is no wheel of mlflow-secrets-auth for this platform, so it is built from source, "
            "which needs Rust 1.88 or newer: install it from https://rustup.rs or as a package of the system"
        )
    return cargo
