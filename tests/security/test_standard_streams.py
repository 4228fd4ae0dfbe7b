"""What a container is handed as 0, 1 and 2 must have nothing of the host behind it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from support.attacker import Attacker

# tries what needs no writing, and to open it anew with other rights
CHANGE = """
import os, sys
for fd in (0, 1, 2):
    for attempt in (
        lambda: os.fchmod(fd, 0o4777),
        lambda: os.utime(fd, (0, 0)),
        lambda: os.setxattr(fd, "trusted.x", b"x"),
        lambda: os.truncate(f"/proc/self/fd/{fd}", 0),
        lambda: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC | os.O_NONBLOCK)),
    ):
        try:
            attempt()
        except OSError:
            pass
"""


def state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_mtime_ns, found.st_size


@pytest.mark.parametrize("options", [[], ["--rm"]], ids=["logged", "not logged"])
@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_cve_2019_5736_what_is_redirected_stays_as_it_is(
    attacker: Attacker, kind: str, options: list[str]
) -> None:
    """`lamina run host -- sh <script`, `<fifo`: neither its mode nor its content is the container's to change."""
    place = attacker.place / "handed"
    if kind == "fifo":
        os.mkfifo(place)
        place.chmod(0o600)
    else:
        place.write_text("content")
        place.chmod(0o644)
    if attacker.user is not None:
        attacker.user.give(place)
    held = os.open(place, os.O_RDWR if kind == "fifo" else os.O_RDONLY)
    os.set_inheritable(held, True)
    before = state(place)
    words = ("run", "-i", "--name", "handed", *options, "host", "--", "python3", "-c", CHANGE)
    try:
        done = attacker.lamina(*words, stdin=held, timeout=200)
    finally:
        os.close(held)
    assert done.returncode == 0, done.stdout
    assert state(place) == before
    if kind == "fifo":
        assert stat.S_IMODE(before[0]) == 0o600
    if not options:
        assert attacker.lamina("rm", "handed").returncode == 0


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_cve_2019_5736_where_output_goes_stays_as_it_is(attacker: Attacker, kind: str) -> None:
    place = attacker.place / "handed"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        place.write_text("content")
    place.chmod(0o640)
    if attacker.user is not None:
        attacker.user.give(place)
    held = os.open(place, os.O_RDWR | os.O_APPEND)
    before = state(place)
    try:
        done = attacker.lamina(
            "run", "--rm", "host", "--", "python3", "-c", CHANGE, stdout=held, stderr=subprocess.DEVNULL
        )
    finally:
        os.close(held)
    assert done.returncode == 0
    assert state(place) == before
