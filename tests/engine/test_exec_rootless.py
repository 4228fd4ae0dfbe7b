"""Joining, attaching and reading logs without root: in the container's user namespace, with its ids."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.rootless import Rootless

pytestmark = pytest.mark.userns


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    """Somebody with a container `box` that waits for lines of input."""
    script = "echo begun; while read line; do echo got $line; done"
    made = rootless.lamina("run", "-di", "--name", "box", "host", "sh", "-c", script)
    assert made.returncode == 0, made.stderr
    yield rootless
    removed = rootless.lamina("rm", "-f", "box")
    assert removed.returncode == 0, removed.stderr


def test_exec(user: Rootless) -> None:
    done = user.lamina(
        "exec", "box", "sh", "-c", "id -u; readlink /proc/self/ns/user /proc/1/ns/user; exit 7"
    )
    assert done.returncode == 7, done.stderr
    uid, *namespaces = done.stdout.split()
    assert uid == "0"
    assert len(set(namespaces)) == 1
    assert namespaces[0] not in user.run("readlink", "/proc/self/ns/user").stdout
    assert user.lamina("exec", "box", "nosuch").returncode == 127
    assert user.lamina("exec", "-i", "box", "cat", input="through").stdout == "through"
    assert user.lamina("exec", "-d", "box", "sleep", "60").returncode == 0
    mounted = user.lamina(
        "exec", "--privileged", "box", "sh", "-c", "mount -t tmpfs x /mnt && grep -c /mnt /proc/mounts"
    )
    assert mounted.returncode == 0, mounted.stderr


@pytest.mark.peer("newuidmap", "newgidmap")
def test_exec_as_somebody_else(user: Rootless) -> None:
    done = user.lamina("exec", "-u", "7:8", "box", "id")
    assert "uid=7" in done.stdout and "gid=8" in done.stdout, done.stderr
    refused = user.lamina("exec", "-u", "2000000", "box", "id")
    assert (refused.returncode, "has no such ids" in refused.stderr) == (125, True)


def test_attach_and_logs(user: Rootless) -> None:
    with user.popen(
        *user_lamina(user, "attach", "--sig-proxy=false", "box"), stdin=-1, stdout=-1, stderr=-1, text=True
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write("one\n")
        client.stdin.flush()
        assert client.stdout.readline() == "got one\n"
        client.terminate()
    end = time.monotonic() + 100
    while (said := user.lamina("logs", "box").stdout) != "begun\ngot one\n":
        assert time.monotonic() < end, said


def user_lamina(user: Rootless, *words: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "lamina", *words]
