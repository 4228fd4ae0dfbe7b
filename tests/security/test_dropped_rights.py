"""A program that starts containers gives up rights, and is then taken over: what it has left open gives none back."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from lamina import Container, Engine
from lamina.engine import nursery
from lamina.engine.answers import REFUSED
from lamina.linux.capabilities import CapabilitySets, capset
from lamina.linux.fd import Fd
from lamina.linux.messages import send
from lamina.linux.namespaces import CLONE_ARGS
from lamina.linux.numbers import number
from lamina.linux.process import prctl
from support.leaks import Leaks
from support.lives import supervisor_of, until
from support.rootless import Rootless
from support.small_images import import_tiny

pytestmark = pytest.mark.root
NOBODY = 65534
PR_SET_NO_NEW_PRIVS = 38


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    opened = Engine(root=store_root)
    yield opened
    for one in opened.containers():
        one.remove(force=True)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def lose_capabilities() -> None:
    capset(CapabilitySets(0, 0, 0))


def restrict_itself() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def answer_to(request: bytes, drop: Callable[[], None]) -> bytes:
    """What the nursery of this program says to a child of it that has given up rights."""
    assert nursery._current is not None
    channel = nursery._current[0]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            drop()
            send(channel, request, (writer,))
        finally:
            os._exit(0)
    os.close(writer)
    with Fd(reader) as answers:
        os.waitpid(child, 0)
        return os.read(answers, 4096)


def started(engine: Engine) -> Container:
    return engine.create("host", ["sleep", "1000"], stop_timeout=0)


@pytest.mark.parametrize("drop", [become_nobody, lose_capabilities, restrict_itself])
def test_the_nursery_starts_nothing_for_who_has_fewer_rights(
    engine: Engine, tmp_path: Path, drop: Callable[[], None]
) -> None:
    """It is root's still: it would start a container of root's, with variables that this names (docker CVE-2026-34040's
    kind: who may not ask asks somebody who may).
    """
    first, second, other = (started(engine) for _ in range(3))
    nursery.let_go()
    try:
        answers = nursery.start_each(engine.store, [first.id, second.id])
        assert all("started" in answer for answer in answers if isinstance(answer, dict)), answers
        request = nursery.request_for(engine.store, other.id)
        assert request is not None
        written = tmp_path / "by-root"
        answer = answer_to(request + b"\0LAMINA_STORE_TRACE=log:" + os.fsencode(written), drop)
        assert answer == REFUSED
        assert (other.state, written.exists()) == ("created", False)
        other.start()  # for the program itself, which is as it was
        assert other.state == "running"
    finally:
        nursery.let_go()


@pytest.fixture
def begun(engine: Engine) -> Iterator[Container]:
    """One that the nursery of this program has started: that is the parent of its supervisor."""
    first = started(engine)
    nursery.let_go()
    try:
        [answer] = nursery.start_each(engine.store, [first.id])
        assert isinstance(answer, dict), answer
        assert "started" in answer
        yield first
    finally:
        nursery.let_go()


def stat_of(pid: int) -> list[str]:
    """What proc_pid_stat(5) has behind the name: the state, the parent's pid, ..."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return ["X", "0"]


@contextmanager
def standing_still(first: Container) -> Iterator[None]:
    """Nobody of the nursery that has started *first* reads what it is sent."""
    supervisor = supervisor_of(first)
    own = int(stat_of(supervisor)[1])
    stopped: list[int] = []

    def stop(pid: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
            until(lambda: stat_of(pid)[0] in "TZX")

    try:
        stop(own)  # first: it makes no more of them then
        every = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        for pid in every:
            if int(stat_of(pid)[1]) == own and pid != supervisor:
                stop(pid)
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def ask(request: bytes, writer: int) -> None:
    assert nursery._current is not None
    send(nursery._current[0], request, (writer,))


def test_who_executes_a_setuid_program_after_asking_has_asked_without_its_rights(
    engine: Engine, begun: Container, tmp_path: Path
) -> None:
    """The packet's sender is looked at a moment later, and is as the program was by then: sudo makes itself root before
    it asks for a password.
    """
    tmp_path.chmod(0o755)
    program = tmp_path / "setuid"
    shutil.copy(os.path.realpath(sys.executable), program)
    program.chmod(0o4755)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.getuid() and str(above) != "/tmp":
            above.chmod(above.stat().st_mode | 0o011)
    other = started(engine)
    request = nursery.request_for(engine.store, other.id)
    assert request is not None
    reader, writer = os.pipe()
    told, tell = os.pipe()
    with Fd(reader) as answers, Fd(told) as heard:
        with standing_still(begun):
            child = os.fork()
            if not child:
                try:
                    os.setresuid(NOBODY, NOBODY, NOBODY)
                    ask(request, writer)
                    text = "import os, time; os.setresuid(0, 0, 0); os.write(1, b'root'); time.sleep(60)"
                    os.dup2(tell, 1)
                    os.execv(program, [str(program), "-I", "-S", "-c", text])
                finally:
                    os._exit(1)
            os.close(writer)
            os.close(tell)
            assert os.read(heard, 100) == b"root"
        try:
            answer = os.read(answers, 4096)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert (answer, other.state) == (REFUSED, "created")


def become(pid: int) -> None:
    """Fork a child with that pid, which waits to be killed: clone3(2), set_tid. Others may fork meanwhile as they like,
    which they may not where ns_last_pid is written to. Raises FileExistsError.
    """
    pids = (ctypes.c_int * 1)(pid)
    args = CLONE_ARGS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(pids), 1, 0)
    libc = ctypes.PyDLL(None, use_errno=True)  # which keeps the interpreter's lock: the child needs it
    child = libc.syscall(number("clone3"), args, len(args))
    if child == 0:
        while True:
            signal.pause()
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone3")


def test_who_asks_and_ends_is_not_taken_for_who_has_its_number_then(engine: Engine, begun: Container) -> None:
    other = started(engine)
    request = nursery.request_for(engine.store, other.id)
    assert request is not None
    reader, writer = os.pipe()
    with Fd(reader) as answers:
        with standing_still(begun):
            while True:
                child = os.fork()
                if not child:
                    try:
                        become_nobody()
                        os.kill(os.getpid(), signal.SIGSTOP)
                        ask(request, writer)
                    finally:
                        os._exit(0)
                os.waitpid(child, os.WUNTRACED)
                os.kill(child, signal.SIGCONT)
                os.waitpid(child, 0)
                with suppress(FileExistsError):  # somebody else has got the number
                    become(child)
                    break
            os.close(writer)
        try:
            answer = os.read(answers, 4096)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert (set(answer), other.state) == (set(REFUSED), "created")


@pytest.mark.parametrize("count", [1, 3])
def test_who_does_not_listen_to_a_refusal_holds_nobody_up(
    engine: Engine, begun: Container, count: int
) -> None:
    other = started(engine)
    request = nursery.request_for(engine.store, other.id)
    assert request is not None
    reader, writer = os.pipe()
    with Fd(reader), Fd(writer):
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        child = os.fork()
        if not child:
            try:
                become_nobody()
                for _ in range(count):
                    ask(request, writer)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        thread = Thread(target=nursery.start_each, args=(engine.store, [other.id]), daemon=True)
        thread.start()
        thread.join(100)
        assert not thread.is_alive()
    assert other.state == "running"


def test_who_cannot_be_seen_to_be_the_same_gets_a_process_of_its_own(engine: Engine) -> None:
    """The program's first thread has given something up, and the one that starts containers has not."""
    first, second = started(engine), started(engine)
    nursery.let_go()

    def start_both() -> None:
        first.start()
        second.start()
        first.stop()
        first.start()

    def inner() -> None:
        restrict_itself()
        thread = Thread(target=start_both)
        thread.start()
        thread.join()

    child = os.fork()
    if not child:
        try:
            inner()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (first.state, second.state) == ("running", "running")


TAKEN_OVER = """if True:
    import os, sys
    from lamina import Engine
    from lamina.engine import file_service
    from lamina.errors import Unsupported
    from lamina.linux.fd import Fd
    from lamina.linux.process import prctl

    class Trap:
        def __reduce__(self):
            return os.open, (sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)

    box = Engine().container("box")
    (box.files / "here").write_text("x")
    [service] = file_service._services.values()
    if sys.argv[2] == "restricted":
        prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    if sys.argv[2] == "forked":
        if child := os.fork():  # which has the socket, since somebody was just about to use it
            os.waitpid(child, 0)
            print((box.files / "here").read_text())
            sys.exit()
        prctl(38, 1)
        service._pid = os.getpid()
    with Fd(os.open("/", os.O_PATH)) as root:
        try:
            service.ask((Trap(), (), (0, 0)), root, write=False)
        except TypeError:  # what the trap became is nothing to call
            pass
    try:
        print((box.files / "here").read_text())
    except Unsupported:
        print("refused")  # newuidmap gives nobody anything who may not get more
"""


@pytest.mark.userns
@pytest.mark.peer("busybox", "newuidmap")
def test_who_works_on_files_does_nothing_for_who_has_fewer_rights(rootless: Rootless) -> None:
    """It does whatever it is told, and a program that has restricted itself may not make such a namespace."""
    import_tiny(rootless)
    rootless.ok("run", "-d", "--name", "box", "--network", "none", "tiny", "sleep", "600")
    try:
        for how, wanted in (
            ("whole", (True, "x\n")),
            ("restricted", (False, "refused\n")),
            ("forked", (False, "refused\nx\n")),
        ):
            place = rootless.home / how
            done = rootless.python(TAKEN_OVER, str(place), how)
            assert (place.exists(), done.stdout) == wanted, done.stderr
    finally:
        rootless.remove_all()
