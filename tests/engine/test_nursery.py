"""The process that forks supervisors: one for a program that stays as it is, and none when nobody asks any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import nursery
from lamina.engine.nursery import start_each
from lamina.errors import CommandNotFound, LaminaError
from support.lives import is_gone, supervisor_of, until

pytestmark = pytest.mark.root


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def parent(pid: int) -> int:
    """0 for one that is gone."""
    try:
        return parent_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def started(engine: Engine, count: int = 1) -> set[int]:
    """The nurseries of so many new containers."""
    made = [engine.create("host", ["sleep", "1000"], stop_timeout=0) for _ in range(count)]
    answers = start_each(engine.store, [one.id for one in made])
    assert all("started" in answer for answer in answers if isinstance(answer, dict)), answers
    assert not [answer for answer in answers if isinstance(answer, LaminaError)], answers
    assert [one.state for one in made] == ["running"] * count
    return {parent_of(supervisor_of(one)) for one in made}


def test_one_serves_a_program_until_that_changes_or_it_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = started(engine, 3)
    assert first not in (os.getpid(), 1)
    assert started(engine) == {first}
    monkeypatch.setenv("SOMETHING", "else")
    [second] = started(engine)
    assert second != first
    until(lambda: is_gone(first))
    waiting = [
        int(entry) for entry in os.listdir("/proc") if entry.isdigit() and parent(int(entry)) == second
    ]
    for pid in set(waiting) - {supervisor_of(one) for one in engine.containers()}:
        os.kill(pid, signal.SIGKILL)  # who waits for the next request: another one does then
        until(partial(is_gone, pid))  # or it takes one more, and dies with it
    assert started(engine) == {second}
    os.kill(second, signal.SIGKILL)
    until(lambda: is_gone(second))
    started(engine)  # by who was waiting
    [third] = started(engine)
    assert third not in (first, second)
    nursery.let_go()
    until(lambda: is_gone(third))
    assert {one.state for one in engine.containers()} == {"running"}  # they need it no more


def test_what_each_came_to(engine: Engine) -> None:
    good = engine.create("host", ["sleep", "1000"], stop_timeout=0)
    bad = engine.create("host", ["no-such-program"])
    gone = engine.create("host", ["true"])
    gone.remove()
    answers = start_each(engine.store, [good.id, bad.id, gone.id, good.id])
    assert isinstance(answers[0], dict) and answers[0]["started"]["pid"]
    assert isinstance(answers[1], CommandNotFound)
    assert isinstance(answers[2], LaminaError)
    assert answers[3] == {"already": True} or isinstance(
        answers[3], LaminaError
    )  # the same one twice, at once
    assert good.state == "running"
    assert start_each(engine.store, []) == []


SCRIPT = """if True:
    import os, socket
    from lamina.engine import nursery
    nursery.IDLE = 0.05
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        ours.close()
        nursery.nurse(theirs.detach())
    theirs.close()
    os.waitpid(child, 0)
    try:
        ours.send(b"too late", socket.MSG_NOSIGNAL)
    except OSError as error:
        print(type(error).__name__)
"""


def test_it_leaves_when_nobody_asks() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout in ("BrokenPipeError\n", "ConnectionResetError\n"), done.stderr


def test_what_it_inherits_is_what_the_program_has_now(engine: Engine, store_root: Path) -> None:
    """A program that gave up what it may do: what is started for it may not either."""
    script = """if True:
        import os, sys
        from lamina import Engine
        engine = Engine(sys.argv[1])
        for niceness in (0, 3):
            os.nice(niceness)
            made = engine.create("host", ["sleep", "1000"], stop_timeout=0)
            from lamina.engine.nursery import start_each
            [answer] = start_each(engine.store, [made.id])
            print(os.getpriority(os.PRIO_PROCESS, answer["started"]["pid"]) - os.nice(0))
    """
    done = subprocess.run(
        [sys.executable, "-c", script, store_root], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_a_start_imports_nothing(engine: Engine, tiny: object, tmp_path: Path) -> None:
    """Whoever is forked has all that a start takes that is like one before, up to its answer."""
    before, made = (
        engine.create("tiny", ["sleep", "1000"], network="none", stop_timeout=0) for _ in range(2)
    )
    before.start()  # how it is started is found out, and kept
    script = """if True:
        import os, sys
        from lamina.engine import nursery
        root, identity, log = sys.argv[1:]
        reader, writer = os.pipe()
        pipe = os.fstat(writer).st_ino
        nursery._load()
        if not os.fork():
            os.close(reader)
            write, answered = os.write, []
            def watched(fd, data):
                if os.fstat(fd).st_ino == pipe:
                    answered.append(fd)
                return write(fd, data)
            def hook(event, args):
                if event == "import" and not answered:
                    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                    write(fd, args[0].encode() + b"\\n")
                    os.close(fd)
            os.write = watched
            sys.addaudithook(hook)
            nursery._become(os.fsencode(root) + b"\\0" + identity.encode(), writer)
        os.close(writer)
        print(os.read(reader, 1 << 16).decode())
    """
    log = tmp_path / "imported"
    done = subprocess.run(
        [sys.executable, "-c", script, engine.store.path, made.id, log],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "started" in done.stdout, (done.stdout, done.stderr)
    assert (log.read_text() if log.exists() else "") == ""
    assert made.state == "running"
