"""Hooks that complain without end: what they say is never the last thing that is looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest

# runs one hook whose complaints never have a gap: where they are read, there is always more
ENDLESS = """
import os, sys
from lamina.errors import HookFailed
from lamina.linux.fd import Fd
from lamina.runtime import hooks

words, timeout = sys.argv[2:], int(sys.argv[1]) or None
flags = os.O_RDWR | os.O_CLOEXEC
os.pipe2 = lambda _: (os.open("/dev/zero", flags), os.open("/dev/null", flags))

def start(hook, streams):
    return Fd(os.pidfd_open(os.posix_spawn(words[0], words, {})))

try:
    hooks.run("prestart", {"path": words[0], "timeout": timeout}, {}, start)
except HookFailed as error:
    print(str(error).replace("\\0", ""))
"""


@pytest.mark.parametrize(
    ("timeout", "script", "complaint"),
    [("0", "exit 7", "exit status 7: "), ("1", "exec sleep 100", "not ended within 1 s, and killed")],
    ids=["ended", "late"],
)
def test_who_complains_without_end_is_judged_all_the_same(timeout: str, script: str, complaint: str) -> None:
    """A child that it left behind may go on writing for ever; and a hook's time is looked at while it speaks."""
    words = [sys.executable, "-c", ENDLESS, timeout, "/bin/sh", "-c", script]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=200)
    assert done.stdout == f"run prestart hook /bin/sh: {complaint}\n"
