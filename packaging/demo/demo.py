#!/usr/bin/env python3
"""Shows mlflow-secrets-auth at work against real servers; `make demo` runs it.

    demo.py            MLflow with users and passwords, the credential in a file
    demo.py --vault    OpenBao, nginx that demands a token, twenty processes and a rotation

Everything happens in a directory of its own under /tmp, with processes of its own, and is gone afterwards.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from console import Console, Failed
from file_demo import FileDemo
from stage import COMMAND, Stage
from vault_demo import VaultDemo


def main() -> int:
    """Run one of the two; return the exit code."""
    parser = argparse.ArgumentParser(description="mlflow-secrets-auth at work against real servers")
    parser.add_argument("--vault", action="store_true", help="with OpenBao, nginx and twenty processes")
    demo = VaultDemo if parser.parse_args().vault else FileDemo
    # Whoever ends the demo, its processes end too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    console = Console(demo.STEPS)
    console.title(demo.TITLE)
    stage = None
    code = 0
    try:
        if not COMMAND.exists():
            raise Failed(f"{COMMAND} is not there: the wheel is not installed here. Run `make demo`")
        demo.check()
        stage = Stage(console)
        console.say(f"Everything happens in {stage.root}; nothing of yours is touched.")
        demo(stage, console).run()
    except Failed as error:
        console.failed(error)
        code = 1
    except KeyboardInterrupt:
        print(f"\n  interrupted in {console.step_title}")
        code = 130
    finally:
        # From here on nothing interrupts.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if stage is not None:
            if code == 0:
                console.step("Stop the broker and the servers, and look for anything left")
            left = stage.close()
            if left:
                code = code or 1
                print("  had to be killed:", *left, sep="\n    ")
            else:
                console.good("nothing is left running, the directory is gone")
    if code == 0:
        print(f"\nDone in {time.monotonic() - started:.0f} s.")
    return code


if __name__ == "__main__":
    sys.exit(main())
