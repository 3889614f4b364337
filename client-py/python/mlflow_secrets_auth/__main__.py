"""`python -m mlflow_secrets_auth ...`: the command of the installation that this interpreter uses.

In a notebook it is the way to ask the very interpreter that MLflow runs in: `doctor` looks first at
what only that interpreter can see.
"""

from __future__ import annotations

import os
import subprocess
import sys

from mlflow_secrets_auth._command import find_command


def main(arguments: list[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    examined = arguments[:1] == ["doctor"] and not {"-h", "--help"}.intersection(arguments)
    if examined:
        from mlflow_secrets_auth._doctor import examine

        healthy = examine()
    try:
        command = find_command()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    if not examined:
        os.execv(command, ["mlflow-secrets-auth", *arguments])  # noqa: S606 (there is no shell in between)
    code = subprocess.run([command, *arguments], check=False).returncode
    return code if code or healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
