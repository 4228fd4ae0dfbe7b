"""An ordinary user has a warm process of his own, below his XDG_RUNTIME_DIR."""

from __future__ import annotations

from pathlib import Path

from support.rootless import Rootless
from support.warm import install

# everything in one mount namespace of the user's; ends what it began
SCRIPT = """
import os, subprocess, sys, time
command = sys.argv[1]

def run(*words, **more):
    done = subprocess.run([command, *words], capture_output=True, text=True, timeout=200, env={**os.environ, **more})
    assert done.returncode == 0, (words, done)
    return done.stdout

def until(what):
    end = time.monotonic() + 100
    while not (found := what()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return found

def pid():
    lines = run("system", "warm", LAMINA_WARM="0").splitlines()
    return int(lines[2].split()[0]) if len(lines) > 2 else 0

def worker():
    children = open(f"/proc/{server}/task/{server}/children").read().split()
    return children[0] if len(children) == 1 else ""

try:
    cold = run("version")
    server = until(pid)
    directory = os.environ["XDG_RUNTIME_DIR"] + "/lamina"
    assert os.stat(directory).st_mode & 0o7777 == 0o700
    before = until(worker)
    assert run("version") == cold
    until(lambda: worker() not in ("", before))
    try:
        open(f"/proc/{server}/environ")
    except PermissionError:
        print("private and warm")
    before = until(worker)
    run("version", XDG_RUNTIME_DIR="")
    run("version", XDG_RUNTIME_DIR="/nonexistent")
    assert worker() == before
finally:
    run("system", "warm", "off")
"""


def test_a_user_has_one_of_his_own(rootless: Rootless, client: Path) -> None:
    command = install(rootless.tmp / "prefix", client)
    rootless.give(rootless.tmp / "prefix")
    del rootless.env["LAMINA_WARM"]
    done = rootless.python(SCRIPT, str(command))
    assert (done.returncode, done.stdout) == (0, "private and warm\n"), done.stderr
