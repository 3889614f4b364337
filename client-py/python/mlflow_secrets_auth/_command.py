"""Finds the `mlflow-secrets-auth` command that was installed together with this package."""

from __future__ import annotations

import os
import sys

# For type checkers alone: the modules behind these names are imported where they are used.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution

__all__ = ["find_command"]

_COMMAND = "mlflow-secrets-auth"
_DISTRIBUTION = "mlflow-secrets-auth"
_OTHERS_WRITE = 0o002
_STICKY = 0o1000


def find_command() -> str:
    """Return the absolute path of the command that belongs to this installation.

    Nothing in the environment but `PATH` has a say, and `PATH` only where every other place has failed:
    the command is started with the user's rights and is given the user's credentials.

    Raises:
        FileNotFoundError: there is none; the text says where it was looked for and what to do.
    """
    package = os.path.dirname(os.path.abspath(__file__))
    # Whoever may write to this package decides already what runs in this process.
    itself = os.stat(package)
    owners = {0, os.geteuid(), itself.st_uid}
    refused: dict[str, str] = {}
    for path in _candidates(package):
        reason = refused[path] if path in refused else _refusal(path, owners, itself.st_mode & _OTHERS_WRITE)
        if reason is None:
            return path
        refused[path] = reason
    for path in _on_path():
        reason = refused[path] if path in refused else _refusal(path, {0, os.geteuid()}, 0)
        if reason is None:
            return path
        if os.path.lexists(path):
            refused[path] = reason
    raise FileNotFoundError(_explanation(package, refused))


def _candidates(package: str) -> Iterator[str]:
    """Where the command may be, the surest place first."""
    site = os.path.dirname(package)
    # `pip install --target DIR` moves the command to DIR/bin, and leaves a record that says otherwise.
    yield os.path.join(site, "bin", _COMMAND)
    sites = [site]
    for distribution, place in _distributions(site):
        yield from _recorded(distribution)
        if place not in sites:
            sites.append(place)  # an editable installation: the package is elsewhere
    for place in sites:
        yield from _of_schemes(place)
        yield from _of_layout(place)


def _distributions(site: str) -> Iterator[tuple[Distribution, str]]:
    """The distribution that the package in `site` is a part of, and the folder it is installed in."""
    from importlib.metadata import distributions

    beside = False
    for distribution in distributions(name=_DISTRIBUTION, path=[site]):
        beside = True
        yield distribution, site
    if beside:
        return
    for distribution in distributions(name=_DISTRIBUTION):
        if _points_at(distribution, site):
            yield distribution, os.path.abspath(str(distribution.locate_file("")))


def _points_at(distribution: Distribution, site: str) -> bool:
    """Whether an editable installation's `.pth` file names the folder that this package is in."""
    for file in distribution.files or ():
        if file.suffix == ".pth":
            try:
                with open(str(file.locate()), encoding="utf-8") as lines:
                    named = [line.strip() for line in lines]
            except (OSError, ValueError):
                continue
            if any(line and _same(line, site) for line in named):
                return True
    return False


def _recorded(distribution: Distribution) -> Iterator[str]:
    """The command as the installer recorded it, if it is still what was installed."""
    for file in distribution.files or ():
        if file.name == _COMMAND:
            path = os.path.normpath(str(file.locate()))
            if file.hash is None or _has_digest(path, file.hash.mode, file.hash.value):
                yield path


def _has_digest(path: str, algorithm: str, expected: str) -> bool:
    import base64
    import hashlib

    try:
        digest = hashlib.new(algorithm)
        with open(path, "rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):
                digest.update(block)
    except (OSError, ValueError):
        return False
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() == expected


def _of_schemes(site: str) -> Iterator[str]:
    """The scripts folder of each of this interpreter's schemes that installs packages into `site`."""
    import sysconfig

    for scheme in sysconfig.get_scheme_names():
        try:
            paths = sysconfig.get_paths(scheme)
        except (KeyError, AttributeError):
            continue  # a scheme of another system, with variables that are not known here
        if any(_same(paths.get(key, ""), site) for key in ("platlib", "purelib")):
            yield os.path.join(paths["scripts"], _COMMAND)


def _of_layout(site: str) -> Iterator[str]:
    """`PREFIX/bin` for `PREFIX/lib/python3.x/site-packages`, Debian's names and `--home` included."""
    above = site
    if os.path.basename(above) in ("site-packages", "dist-packages"):
        above = os.path.dirname(above)
    if os.path.basename(above).startswith("python"):
        above = os.path.dirname(above)
        if os.path.basename(above) in ("lib", "lib64"):
            yield os.path.join(os.path.dirname(above), "bin", _COMMAND)


def _on_path() -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.path.isabs(folder):
            yield os.path.join(folder, _COMMAND)


def _refusal(path: str, owners: set[int], permitted: int) -> str | None:
    """Why the file is not to be run, or None. `permitted` write bits are not held against it."""
    import stat

    try:
        file = os.stat(path)
        folder = os.stat(os.path.dirname(path))
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return error.strerror or type(error).__name__
    if not stat.S_ISREG(file.st_mode):
        return "not a file"
    if file.st_uid not in owners or folder.st_uid not in owners:
        return f"belongs to another user (uid {file.st_uid}, in a folder of uid {folder.st_uid})"
    if file.st_mode & _OTHERS_WRITE & ~permitted:
        return "everybody may write to it"
    if folder.st_mode & _OTHERS_WRITE & ~permitted and not folder.st_mode & _STICKY:
        return "everybody may write to its folder"
    if not os.access(path, os.X_OK):
        return "not executable"
    if _is_python_script(path):
        return "a Python script, as releases before 0.3 installed"
    return None


def _is_python_script(path: str) -> bool:
    try:
        with open(path, "rb") as content:
            start = content.read(256)
    except OSError:
        return False  # executable and not readable: nothing that an older release installed
    return start.startswith(b"#!") and b"python" in start.split(b"\n", 1)[0]


def _same(one: str, other: str) -> bool:
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)


def _explanation(package: str, refused: dict[str, str]) -> str:
    reasons = [f"  {path}: {reason}" for path, reason in refused.items()]
    return "\n".join(
        [
            f"the {_COMMAND} command of the installation in {package} was not found. Looked at:",
            *reasons,
            "  the folders of PATH",
            "Install it again, the same way as before, for instance with:",
            f"  {sys.executable or 'python3'} -m pip install --force-reinstall --no-deps {_DISTRIBUTION}",
        ]
    )
