"""`lamina.runtime.container`: what the command does, as functions of a program that goes on."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from lamina.errors import CommandNotFound, Conflict, NotFound
from lamina.runtime.container import Container, Joining, Wishes, create, delete, execute, kill, run, start
from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root


@pytest.fixture
def null() -> int:
    return os.open(os.devnull, os.O_RDWR)


def wishes(bundle: Bundle, *streams: int) -> Wishes:
    first, second, third = streams
    return Wishes(bundle=os.fsencode(bundle.write()), streams=(first, second, third))


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def test_a_container_with_streams_of_its_own(runtime: Runtime, null: int) -> None:
    reader, writer = os.pipe()
    given, ours = os.pipe()
    os.write(ours, b"hello\n")
    os.close(ours)
    gc.collect()  # what an earlier test let go of in a circle is not to go meanwhile
    before = set(os.listdir("/proc/self/fd"))
    bundle = runtime.shell("cat; echo problem >&2; ls /proc/self/fd; exit 7")
    status = run(os.fsencode(runtime.root), "box", wishes(bundle, given, writer, writer))
    assert status == 7
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(writer)
    # 3 is the directory that ls reads
    assert read_all(reader) == b"hello\nproblem\n0\n1\n2\n3\n"
    os.close(given)
    os.close(null)
    assert not (runtime.root / "box").exists()


def test_create_start_execute_kill_delete(runtime: Runtime, null: int) -> None:
    root = os.fsencode(runtime.root)
    made = create(root, "box", wishes(runtime.bundle("sleep", "600"), null, null, null))
    assert made.status() == "created"
    start(made)
    with pytest.raises(Conflict):
        start(made)
    found = Container.find(root, "box")
    assert found.status() == "running"
    for code in (0, 9):
        reader, writer = os.pipe()
        process = {
            "args": ["/bin/sh", "-c", f"echo $0 here; exit {code}"],
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
        }
        joined = execute(found, process, Joining(streams=(null, writer, null)))
        os.close(writer)
        assert read_all(reader) == b"/bin/sh here\n"
        assert joined.wait() == code
    kill(found, 9)
    assert os.waitpid(made.pid, 0)[1] == 9
    delete(found)
    with pytest.raises(NotFound):
        Container.find(root, "box")
    os.close(null)


def test_what_fails_leaves_nothing(runtime: Runtime, null: int) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(CommandNotFound):
            run(os.fsencode(runtime.root), "box", wishes(runtime.bundle("no-such-command"), null, null, null))
    assert set(os.listdir("/proc/self/fd")) == before
    assert not (runtime.root / "box").exists()
    os.close(null)


def test_many_at_once_from_threads(runtime: Runtime, null: int) -> None:
    bundles = [runtime.shell(f"exit {number}") for number in range(8)]
    found: dict[int, list[int]] = {}

    def several(number: int) -> None:
        asked = wishes(bundles[number], null, null, null)
        found[number] = [run(os.fsencode(runtime.root), f"box{number}", asked) for _ in range(3)]

    threads = [threading.Thread(target=several, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number] * 3 for number in range(8)}
    os.close(null)
