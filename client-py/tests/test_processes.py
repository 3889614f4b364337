"""What a process may do around the plugin: fork, threads, asyncio, its end."""

from __future__ import annotations

import sys

import pytest

# Warm requests, cold ones (another origin each time) and forks, at once.
FORK_STORM = """
import threading
os.environ["MLFLOW_SECRETS_ALLOWED_HOSTS"] = "127.0.0.1"
header()
stop = threading.Event()
wrong = []
def busy(number):
    port = 10000 + number
    while not stop.is_set():
        port += 8
        if port > 60000:
            port = 10000 + number
        if header(f"http://127.0.0.1:{port}/") != "Bearer one" or header() != "Bearer one":
            wrong.append(port)
threads = [threading.Thread(target=busy, args=(n,), daemon=True) for n in range(4)]
for thread in threads:
    thread.start()
failed = 0
for number in range(COUNT):
    child = os.fork()
    if child == 0:
        try:
            good = header("http://127.0.0.1:%d/" % (61000 + number % 1000)) == header() == "Bearer one"
            os._exit(0 if good else 1)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(2)
    deadline = time.monotonic() + 20
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            status = 99
            break
        time.sleep(0.0005)
    failed += status != 0
stop.set()
for thread in threads:
    thread.join(20)
print(failed, len(wrong), sum(thread.is_alive() for thread in threads))
"""


def test_forks_while_threads_ask(real):
    done = real.run(FORK_STORM.replace("COUNT", "400"), timeout=300)
    assert done.stdout.split() == ["0", "0", "0"], done.stderr


def test_child_holds_no_descriptor_of_its_parent_s(real):
    done = real.run("""
def sockets():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return {name for name in found if name.startswith("socket:")}
before = sockets()
header()
mine = sockets() - before
child = os.fork()
if child == 0:
    inherited = sockets() & mine
    header("http://127.0.0.1:5000/")
    os._exit(len(inherited))
_, status = os.waitpid(child, 0)
print(len(mine), os.waitstatus_to_exitcode(status), flush=True)
child = os.posix_spawn("/bin/sh", ["sh", "-c", "ls -l /proc/self/fd | grep -c socket: || true"], os.environ)
os.waitpid(child, 0)
""")
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    assert done.stdout.split() == ["1", "0", "0"], done.stdout


def test_child_of_a_child_and_its_parent_go_on(real):
    done = real.run("""
print(header(), flush=True)
if os.fork() == 0:
    ok = header() == "Bearer one"
    if os.fork() == 0:
        os._exit(0 if header() == "Bearer one" else 1)
    _, status = os.wait()
    os._exit(0 if ok and status == 0 else 1)
print(os.wait()[1], header())
""")
    assert done.stdout.split() == ["Bearer", "one", "0", "Bearer", "one"]


WORKER = """
import requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
def ask(number):
    request = requests.Request("GET", "http://127.0.0.1:5000/").prepare()
    return SecretsAuthProviderFactory().get_auth()(request).headers.get("Authorization")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(real, method):
    (real.root / "worker.py").write_text(WORKER)
    script = real.root / "main.py"
    script.write_text(f"""
import multiprocessing, worker
if __name__ == "__main__":
    worker.ask(0)
    with multiprocessing.get_context("{method}").Pool(4) as pool:
        print(set(pool.map(worker.ask, range(40))))
""")
    done = real.run(f"""
import subprocess
print(subprocess.run([sys.executable, {str(script)!r}], capture_output=True, text=True, timeout=60).stdout)
""")
    assert done.stdout.strip() == "{'Bearer one'}"
    assert real.status()["pid"]


def test_threads_that_are_cold_at_once(real):
    done = real.run("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(32) as pool:
    print(set(pool.map(lambda _: header(), range(500))))
print(len(os.listdir("/dev/fd")) < 30)
""")
    assert done.stdout.splitlines() == ["{'Bearer one'}", "True"]
    assert len(real.status()["sources"]) == 1
    assert real.status()["sources"][0]["fetches"] == 1


def test_asyncio_callers(real):
    done = real.run("""
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    print(header())
    print(set(await asyncio.gather(*(loop.run_in_executor(None, header) for _ in range(50)))))
asyncio.run(main())
""")
    assert done.stdout.splitlines() == ["Bearer one", "{'Bearer one'}"]


def test_end_of_the_interpreter(real):
    """In atexit, in destructors, and with a daemon thread in the middle of a question."""
    done = real.run("""
import atexit, threading
def busy():
    port = 1000
    while True:
        port = port % 60000 + 1
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        header(f"http://127.0.0.1:{port}/")
for _ in range(3):
    threading.Thread(target=busy, daemon=True).start()
time.sleep(0.2)
os.environ["MLFLOW_SECRETS_ALLOWED_HOSTS"] = "127.0.0.1"
atexit.register(lambda: print("at exit", header()))
class Last:
    def __del__(self):
        try:
            header()
        except Exception as error:
            print(error)
sys.last = Last()
""")
    assert done.stdout.splitlines()[0] == "at exit Bearer one"
    assert "panicked" not in done.stderr


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONMALLOC": "debug"}, {"PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"}],
    ids=["malloc", "dev"],
)
def test_debugging_aids(real, variables):
    done = real.run("print(set(header() for _ in range(100)))", **variables)
    assert done.stdout.strip() == "{'Bearer one'}"
    assert "Fatal" not in done.stderr


def test_nothing_is_leaked_by_warm_requests(real):
    done = real.run("""
import gc
request = requests.Request("GET", "http://127.0.0.1:5000/").prepare()
auth(request)
def count():
    gc.collect()
    return sys.getallocatedblocks()
for _ in range(2000):
    auth(request)
before = count()
for _ in range(20000):
    auth(request)
print(abs(count() - before) < 50, len(request.hooks["response"]))
""")
    assert done.stdout.split() == ["True", "1"]


def test_registry_reloaded_and_plugin_imported_twice(real):
    done = real.run("""
import importlib
again = importlib.reload(m).SecretsAuthProviderFactory().get_auth()
print(again is auth)
for name in [n for n in sys.modules if n.startswith("mlflow_secrets_auth") and not n.endswith("_client")]:
    del sys.modules[name]
import mlflow_secrets_auth as fresh
request = requests.Request("GET", "http://127.0.0.1:5000/").prepare()
print(fresh.SecretsAuthProviderFactory().get_auth()(request).headers["Authorization"])
""")
    assert done.stdout.splitlines() == ["True", "Bearer one"]
