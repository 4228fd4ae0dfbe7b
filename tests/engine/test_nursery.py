"""The process that forks supervisors: one for a program that stays as it is, and none when nobody asks any more."""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
import signal
import subprocess
import sys
from collections import UserDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lamina
from lamina import Engine
from lamina.engine import nursery
from lamina.engine.detaching import start_supervised
from lamina.engine.nursery import start_each
from lamina.errors import CommandNotFound, LaminaError
from lamina.store import trace
from support.lives import is_gone, supervisor_of, until

pytestmark = pytest.mark.root


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


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
    monkeypatch.setenv("SOMETHING", "else")  # which is said with each request
    assert started(engine) == {first}
    nursery.let_go()
    [second] = started(engine)
    assert second != first
    until(lambda: is_gone(first))
    waiting = [
        int(entry) for entry in os.listdir("/proc") if entry.isdigit() and parent(int(entry)) == second
    ]
    for pid in set(waiting) - {supervisor_of(one) for one in engine.containers()}:
        with contextlib.suppress(ProcessLookupError):  # one that has handed its work on
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
    # the same one twice, at once: whichever has its turn first
    [started] = [one for one in (answers[0], answers[3]) if isinstance(one, dict) and "started" in one]
    [other] = [one for one in (answers[0], answers[3]) if one is not started]
    assert started["started"]["pid"] and (other == {"already": True} or isinstance(other, LaminaError))
    assert isinstance(answers[1], CommandNotFound)
    assert isinstance(answers[2], LaminaError)
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
        os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    try:
        ours.send(b"too late", socket.MSG_NOSIGNAL)
    except OSError as error:
        print(type(error).__name__)
"""


def test_it_leaves_when_nobody_asks() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200)
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
        [sys.executable, "-c", script, store_root], capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_what_it_imported_is_in_the_archive_of_modules_once_it_has_left(
    engine: Engine, tmp_path: Path
) -> None:
    """What a supervisor needs is imported by no command that ends as commands do."""
    package = tmp_path / "lamina"
    shutil.copytree(Path(lamina.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    script = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from lamina import Engine
        engine = Engine(sys.argv[1])
        for _ in range(3):
            engine.start("host", ["sleep", "1000"], stop_timeout=0)
    """
    argv = [sys.executable, "-I", "-S", "-c", script, os.fsdecode(engine.store.path)]
    subprocess.run(argv, check=True, timeout=100)
    archive = package / "__pycache__" / f"isolated.{sys.implementation.cache_tag}.pyc"

    def kept() -> set[str]:
        if not archive.exists():
            return set()
        data = archive.read_bytes()
        index = marshal.loads(data[64 : 64 + int.from_bytes(data[56:64], "little")])[2]
        return {name.rpartition(".")[2] for name in index}

    until(
        lambda: {"becoming", "beginning", "starting", "supervising"} <= kept()
    )  # others may write one before
    for box in engine.containers():
        box.remove(force=True)


def test_a_start_imports_nothing(engine: Engine, tiny: object, tmp_path: Path) -> None:
    """Whoever is forked has all that a start takes that is like one before, up to its answer."""
    before, made = (
        engine.create("tiny", ["sleep", "1000"], network="none", stop_timeout=0) for _ in range(2)
    )
    before.start()  # how it is started is found out, and kept
    script = """if True:
        import os, sys
        from lamina.engine import nursery
        from lamina.store.root import Store
        root, identity, log = sys.argv[1:]
        request = nursery.request_for(Store(root), identity)
        reader, writer = os.pipe()
        pipe = os.fstat(writer).st_ino
        nursery._load()
        if not os.fork():
            from lamina.engine.detaching import alone
            os.close(reader)
            writer, _ = alone(writer, -1)  # as a nursery is
            if os.fork():
                os._exit(0)
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
            nursery._become(request, writer)
        os.close(writer)
        os.wait()
        print(os.read(reader, 1 << 16).decode())
    """
    log = tmp_path / "imported"
    done = subprocess.run(
        [sys.executable, "-c", script, engine.store.path, made.id, log],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    assert "started" in done.stdout, (done.stdout, done.stderr)
    assert (log.read_text() if log.exists() else "") == ""
    assert made.state == "running"


# a program that starts containers as programs do, and may say in between what is to be another way
STARTS = """if True:
    import os, sys, threading
    from lamina import Engine
    from lamina.engine import nursery

    def parent(pid):
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])

    engine = Engine(sys.argv[1])
    def start(**options):
        box = engine.start("host", ["sleep", "1000"], stop_timeout=0, **options)
        return parent(box._home.read("state")["supervisor"]["pid"])

    def is_nursery(pid):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"\\0nursery\\0" in file.read()
"""


def program(text: str, root: Path, *words: str, **options: object) -> str:
    argv = [sys.executable, "-W", "error", "-c", STARTS + text, str(root), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, **options)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout)


def test_a_program_that_starts_a_second_container_has_one_from_then_on(engine: Engine) -> None:
    said = program(
        """
    first, second, third = start(), start(), start()
    assert not is_nursery(first) and is_nursery(second), (first, second)
    assert third == second
    os.environ["SOMETHING"], os.environ["TZ"] = "else", "Asia/Tokyo"
    box = engine.start("host", ["true"], name="one", restart="on-failure:1", stop_timeout=0)
    box.wait()
    box.restart()  # by whom ever
    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(os.listdir("/proc/self/fd")) == before
    os.environ["MUCH"] = "x" * nursery.LONGEST_REQUEST  # more than it can be told
    assert not is_nursery(start())
    del os.environ["MUCH"]
    nursery.LONGEST_REQUEST <<= 8
    much = {f"MUCH{number}": "x" * 100_000 for number in range(3)}  # more than a socket takes
    os.environ.update(much)
    assert not is_nursery(start())
    for name in much: del os.environ[name]
    assert start() == second
    print(second)
    """,
        Path(os.fsdecode(engine.store.path)),
    )
    until(lambda: is_gone(int(said)))  # with the program
    assert [one.state for one in engine.containers(all=True) if one.name != "one"] == ["running"] * 10


def test_what_a_supervisor_has_of_the_environment_is_what_the_program_has_now(engine: Engine) -> None:
    program(
        """
    start(), start()
    os.environ["SOMETHING"] = "else"
    del os.environ["OTHER"]
    os.environ["LAMINA_STORE_TRACE"] = "log:" + sys.argv[2]
    start()
    """,
        Path(os.fsdecode(engine.store.path)),
        os.path.join(os.fsdecode(engine.store.path), "../steps"),
        env={**os.environ, "OTHER": "1", "LAMINA_SUPERVISOR_IDLE": "0.01"},
    )
    steps = Path(os.fsdecode(engine.store.path), "../steps").read_text().splitlines()
    assert steps.count("start: held") == 1
    newest = supervisor_of(max(engine.containers(), key=lambda one: one.created))
    # what it executes when it goes to sleep has it from then on
    until(lambda: "lamina-idle" in Path(f"/proc/{newest}/cmdline").read_text())
    variables = Path(f"/proc/{newest}/environ").read_bytes().split(b"\0")
    assert b"SOMETHING=else" in variables and b"OTHER=1" not in variables


def test_a_program_that_closes_what_is_open_or_forks_has_its_own_again(engine: Engine) -> None:
    """Its number may be another file's by then: that is neither asked nor closed."""
    program(
        """
    start(), start()
    number = int(nursery._current[0])
    os.close(number)
    before = start()
    number = int(nursery._current[0])
    reader, writer = os.pipe()
    os.dup2(writer, number)
    assert start() != before
    os.fstat(number)
    os.close(number)
    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody wrote to it
    own = start()
    child = os.fork()
    if not child:
        os._exit(0 if start() == own else 1)  # it lives as its parent does
    assert os.waitpid(child, 0)[1] == 0
    assert start() == own
    """,
        Path(os.fsdecode(engine.store.path)),
    )


def test_who_is_attached_from_the_beginning_is_so_by_a_nursery_too(engine: Engine) -> None:
    """The client's end of the pair of sockets goes with the request."""
    said = program(
        """
    assert is_nursery((start(), start())[1])
    box = engine.create("host", ["cat"], interactive=True, stdin_once=True, stop_timeout=0)
    box.start_attached()
    """,
        Path(os.fsdecode(engine.store.path)),
        input="data\n",
    )
    assert said == "data\n"


CHANGES = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)

    def did(result):
        assert result != -1, os.strerror(ctypes.get_errno())

    def write(name, text):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)

    changes = {
        "policy": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
        "ioprio": lambda: did(libc.syscall(sys.argv[2] == "x86_64" and 251 or 30, 1, 0, 2 << 13 | 7)),
        "personality": lambda: did(libc.personality(0x0040000)),
        "securebits": lambda: did(libc.prctl(28, 0x40, 0, 0, 0)),
        "timer slack": lambda: did(libc.prctl(29, 60_000, 0, 0, 0)),
        "huge pages": lambda: did(libc.prctl(41, 1, 0, 0, 0)),
        "dumps": lambda: write("coredump_filter", "0x1"),
        "out of memory": lambda: write("oom_score_adj", "100"),
        "subreaper": lambda: did(libc.prctl(36, 1, 0, 0, 0)),
        "no new privileges": lambda: did(libc.prctl(38, 1, 0, 0, 0)),
        "processors": lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]),
        "malloc": lambda: os.environ.update(MALLOC_ARENA_MAX="1"),
    }
"""


def test_whatever_a_child_inherits_is_what_the_program_has_now(engine: Engine) -> None:
    """Each was inherited when every supervisor was executed by the program itself."""
    said = program(
        CHANGES
        + """
    start()
    before = start()
    for what, change in changes.items():
        change()
        now = start()
        assert is_nursery(now) and now != before, what
        assert start() == now, what
        before = now
    box = max(engine.containers(), key=lambda one: one.created)
    pid = box._home.read("state")["supervisor"]["pid"]
    for one in (pid, box._home.read("state")["pid"]):
        assert os.sched_getscheduler(one) == os.SCHED_BATCH
        for name in ("personality", "coredump_filter", "oom_score_adj"):
            with open(f"/proc/{one}/{name}") as theirs, open(f"/proc/self/{name}") as own:
                assert theirs.read() == own.read(), name
    print("done")
    """,
        Path(os.fsdecode(engine.store.path)),
        os.uname().machine,
    )
    assert said == "done\n"


def test_who_gave_his_rights_up_has_nothing_done_by_the_nursery_that_has_them(
    engine: Engine, tmp_path: Path
) -> None:
    """He has the socket still: what is asked there is for who has the rights."""
    made = engine.create("host", ["sleep", "1000"], stop_timeout=0)
    said = program(
        """
    start(), start()
    request = nursery.request_for(engine.store, sys.argv[2])
    reader, writer = os.pipe()
    channel = nursery._current[0]
    child = os.fork()
    if not child:
        os.setgid(65534)
        os.setuid(65534)
        nursery.send(channel, request, (writer,))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writer)
    from lamina.engine.answers import REFUSED
    print(os.read(reader, 100) == REFUSED)
    """,
        Path(os.fsdecode(engine.store.path)),
        made.id,
    )
    assert said == "True\n"
    assert made.state == "created"


@pytest.mark.parametrize("begin", ["start", "several"])
def test_one_that_is_killed_while_it_is_asked_costs_time_and_nothing_else(engine: Engine, begin: str) -> None:
    """Nobody was there to be killed when each supervisor was executed by the program."""
    program(
        """
    def several():
        box = engine.create("host", ["sleep", "1000"], stop_timeout=0)
        [answer] = nursery.start_each(engine.store, [box.id])
        return answer["started"]["pid"]
    import fcntl, signal, struct, termios
    from concurrent.futures import ThreadPoolExecutor
    start()
    own = start()
    def children():
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and parent(int(name)) == own and is_nursery(int(name)):
                    found.append(int(name))
            except OSError:
                pass
        return found
    supervisors = {one._home.read("state")["supervisor"]["pid"] for one in engine.containers()}
    while len(waits := set(children()) - supervisors) != 1:
        pass  # it has just been forked, or who forked it has not ended so far
    [waiting] = waits
    def is_stopped(pid):
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    for pid in (own, waiting):
        os.kill(pid, signal.SIGSTOP)
        while not is_stopped(pid):
            pass  # it would take what is asked along
    with ThreadPoolExecutor(1) as threads:
        begun = threads.submit(globals()[sys.argv[2]])
        channel = int(nursery._current[0])
        while not struct.unpack("i", fcntl.ioctl(channel, termios.TIOCOUTQ, bytes(4)))[0]:
            pass  # the request is on its way
        for pid in (own, waiting):
            os.kill(pid, signal.SIGKILL)
        assert begun.result() != own
    assert [one.state for one in engine.containers(all=True)] == ["running"] * 3
    """,
        Path(os.fsdecode(engine.store.path)),
        begin,
    )


@pytest.mark.parametrize("step", ["start: launched", "start: drop exit record", "end: write exit record"])
@pytest.mark.parametrize("many", [False, True])
def test_a_command_that_has_run_is_not_run_again_where_its_supervisor_is_killed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str, many: bool
) -> None:
    ran, steps = tmp_path / "ran", tmp_path / "steps"
    volume = [f"{tmp_path}:{tmp_path}"]

    def start(watch: str, script: str = "echo once >>ran") -> list[dict[str, Any] | LaminaError]:
        box = engine.create("host", ["sh", "-c", script], workdir=str(tmp_path), volumes=volume)
        with monkeypatch.context() as context:
            context.setenv(trace.VARIABLE, watch)
            if many:
                return start_each(engine.store, [box.id])
            try:
                return [start_supervised(engine.store, box.id)]
            except LaminaError as error:
                return [error]
        raise AssertionError

    nursery.let_go()
    for watch in ("log:/dev/null", "log:/dev/null", f"log:{steps}"):  # from the second on by a nursery
        [answer] = start(watch, "true")
        assert isinstance(answer, dict), answer
    until(lambda: not [one for one in engine.containers(all=True) if one._home.is_looked_after()])
    names = steps.read_text().splitlines()
    [answer] = start(f"kill:{names.index(step) + 1}")
    until(lambda: not [one for one in engine.containers(all=True) if one._home.is_looked_after()])
    if step.startswith("end"):  # it had answered
        assert isinstance(answer, dict), answer
    elif isinstance(answer, LaminaError):
        assert "supervisor ended" in answer.message
    else:
        assert answer == {"already": True}  # it was running still, and adopted
    assert not ran.exists() or ran.read_text() == "once\n"


def test_a_variable_that_another_thread_takes_away_meanwhile(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Vanishing(UserDict[bytes, bytes]):
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"GONE", *self.data])

    monkeypatch.setattr(os, "environb", Vanishing({b"KEPT": b"1"}))
    request = nursery.request_for(engine.store, "x")
    assert request is not None and request.split(b"\0")[2:] == [b"KEPT=1"]
