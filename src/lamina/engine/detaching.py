"""How a supervisor comes to be: a process of its own for one container, that answers once and then is nobody's child.

A command of ours is small and has one thread: it is forked, twice. Anybody else's program (with threads, gigabytes, and
descriptors that must not leak) is never forked: a fresh interpreter is executed, by posix_spawn(3). If that program
starts another container soon, the interpreter that is executed for that stays, and forks (nursery.py).
"""

from __future__ import annotations

import os
import sys
from errno import EMFILE
from time import monotonic, sleep

from lamina.engine.answers import REFUSED, decode, encode, error_record
from lamina.errors import KernelError, LaminaError, Unsupported
from lamina.linux.fd import Fd
from lamina.linux.process import close_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from lamina.store.root import Store
else:  # the module `signal` is enumerations around it
    import _signal as s

START, ADOPT = "start", "adopt"
NURSERY = "nursery"  # no container's: it makes supervisors of several (nursery.py)
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_LONGEST_ANSWER = 1 << 20
_NSIG = 65
# above the numbers that a child gets its descriptors under, and below any limit of them that a program can live with
HIGH = 10
# seconds: a program that starts two containers within them may well start more
SOON = 30.0
# seconds that somebody who was killed may take to let go of what he held, or somebody else to take that over
DYING = 2.0
# when this program last started one
_last: float | None = None


def start_supervised(store: Store, identity: str, *, mode: str = START, attached: int = -1) -> dict[str, Any]:
    """Have a supervisor of its own start the container *identity* of *store*, or (*mode* ADOPT) look after it.

    Returns once the command runs: {"started": the state record, "warnings": [...]}, or {"already": True} where it runs
    with a supervisor. *attached* is a descriptor that the supervisor gets: the end of a socket pair of a first client.
    Raises what the start raised, in its own class; KernelError where there can be no process.
    """
    if is_small():
        return decode(_said(lambda answer: _fork(store, identity, mode, answer, attached)))
    if mode == START and _is_one_of_many():
        line = _by_nursery(store, identity, attached)
        if line == b"":
            return after_killed(store, identity, attached)
        if line is not None and line != REFUSED:
            return decode(line)
    return decode(_said(lambda answer: _spawn(store, identity, mode, answer, attached)))


def after_killed(store: Store, identity: str, attached: int = -1) -> dict[str, Any]:
    """As `start_supervised`, where somebody has killed the nursery, or what it had forked. A start that had begun is
    not done again: its command may have run. Raises as that does.
    """
    from lamina.engine.recover import recover
    from lamina.engine.settling import state_of
    from lamina.store.containers import LIVING, Home

    home = Home(store, identity)
    begun = home.marked_name() is not None
    end = monotonic() + DYING
    while home.is_looked_after() and monotonic() < end:  # its descriptors are closed one after another
        sleep(0.002)
    recover(store)  # as any command would
    if not begun and home.exists():
        return decode(_said(lambda answer: _spawn(store, identity, START, answer, attached)))
    if home.exists() and state_of(home) in LIVING:
        return {"already": True}
    return decode(b"")


def _said(make: Callable[[int], None]) -> bytes:
    """What is answered by the supervisor that *make* makes, given where to answer. Raises KernelError."""
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with Fd(reader) as answers:
            with Fd(writer) as answer:
                make(answer)
            return _line(answers)
    except KernelError:
        raise
    except OSError as error:  # there is no descriptor left
        raise KernelError("start a supervisor", error.errno or 0) from None


def _is_one_of_many() -> bool:
    """Whether this program, which starts a container now, has started another one a moment ago."""
    global _last
    before, _last = _last, monotonic()
    return before is not None and _last - before < SOON


def _by_nursery(store: Store, identity: str, attached: int) -> bytes | None:
    """Have the program's nursery make the supervisor, and what that answers: REFUSED, or None where it cannot be asked:
    nothing was begun then.
    """
    from lamina.engine import nursery

    request = nursery.request_for(store, identity)
    if request is None:
        return None
    try:
        return _said(lambda answer: nursery.start(request, answer, attached))
    # net.core.wmem_default lets less into a socket than is usual, or there is no descriptor for one
    except OSError:
        return None


def make_nursery(channel: int) -> None:
    """Have a process that makes supervisors, for whoever has the other end of the socket *channel* (nursery.py).

    Raises KernelError where there can be no process.
    """
    if not is_small():
        _execute(["", "", NURSERY, ""], channel, -1)
        return
    try:
        child = os.fork()
    except OSError as error:
        raise KernelError("fork a process for supervisors", error.errno or 0) from None
    if child:
        reap(child)
        return
    try:
        if os.fork() == 0:
            from lamina.engine.nursery import nurse

            channel, _ = alone(channel, -1)
            nurse(channel)
    finally:
        os._exit(0)  # without one, nobody answers


def _line(answers: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        data = os.read(answers, 1 << 16)
        if not data:
            break
        line += data
    return line


def is_small() -> bool:
    """Whether this process is a command of ours, with nothing in it that a fork would copy or tear."""
    program = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    # ours says where it is; to ask where another is may fail: its working directory may be gone
    if not os.path.isabs(program) or os.path.dirname(os.path.abspath(program)) != _PACKAGE:
        return False
    return len(os.listdir("/proc/self/task")) == 1


def _fork(store: Store, identity: str, mode: str, answer: int, attached: int) -> None:
    try:
        child = os.fork()
    except OSError as error:
        raise KernelError("fork a supervisor", error.errno or 0) from None
    if child:
        reap(child)
        return
    try:
        if os.fork() == 0:
            _supervise(store, identity, mode, answer, attached)
    except OSError as error:  # the first fork went well, the second did not: the limit of processes
        failure = KernelError("fork a supervisor", error.errno or 0)
        os.write(answer, encode({"error": error_record(failure)}))
    finally:
        os._exit(0)


def reap(child: int) -> int:
    """Wait for a child that leaves at once; its exit status, 0 where somebody else was told that."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return 0  # this program lets the kernel reap, or waits for any child


def _spawn(store: Store, identity: str, mode: str, answer: int, attached: int) -> None:
    _execute([os.fsdecode(store.path), identity, mode, "attached" if attached >= 0 else ""], answer, attached)


def _execute(asked: list[str], answer: int, attached: int) -> None:
    """posix_spawn of what entry.py does with these words: no copy of this process's memory, whatever its size. It has
    *answer* and *attached* (-1: nothing) under the numbers of entry.py.
    """
    from lamina.supervisor.interpreter import interpreter

    program = os.path.join(_PACKAGE, "isolated.py")
    python = interpreter()
    words = [python, "-I", "-S", program, "engine", *asked]
    null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    # numbers that nothing else has: none of them is overwritten before it has been copied
    given = [fd if fd >= 0 else null for fd in (answer, attached)]
    with null, Fd(_high(given[0])) as high, Fd(_high(given[1])) as client:
        actions = [(os.POSIX_SPAWN_DUP2, int(null), number) for number in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, int(high), 3), (os.POSIX_SPAWN_DUP2, int(client), 4)]
        try:
            child = os.posix_spawn(
                python,
                words,
                environment(),
                file_actions=actions,
                setsigmask=(),
                setsigdef=[number for number in range(1, _NSIG) if number not in (9, 19, 32, 33)],
            )
        except OSError as error:
            raise KernelError("start a supervisor", error.errno or 0, python) from None
    if (status := reap(child)) > 0:  # it forks at once, and leaves
        if not os.path.exists(program):
            raise Unsupported(
                f"start a supervisor: {program} is no file",
                remedy="install Lamina as files: it is not executed from within an archive",
            )
        raise LaminaError(
            f"start a supervisor: {python} ended with {status} instead of executing {program}",
            remedy="set sys.executable to the path of a Python of the same version",
        )


def leave() -> bool:
    """Fork, twice: True in a process of its own, which is nobody's child, has nothing of the caller's, and must end by
    os._exit. For commands of ours (`is_small`). Raises KernelError.
    """
    try:
        child = os.fork()
    except OSError as error:
        raise KernelError("fork a process", error.errno or 0) from None
    if child:
        reap(child)
        return False
    try:
        if os.fork():
            os._exit(0)
        alone(-1, -1)
    except BaseException:
        os._exit(1)
    return True


def spawn_in_background(store: Store, identity: str, mode: str) -> None:
    """As `leave`, for any program: a fresh interpreter does *mode* (entry.py) of the container. Raises OSError,
    KernelError.
    """
    _execute([os.fsdecode(store.path), identity, mode, ""], -1, -1)


def environment() -> dict[bytes, bytes]:
    """What the program has in its environment now, where its other threads may be about to change that."""
    every = ((name, os.environb.get(name)) for name in os.environb)  # whose names are a copy
    return {name: text for name, text in every if name and text is not None}


def _high(fd: int) -> int:
    from lamina.linux.descriptors import duplicate

    return duplicate(fd, HIGH)


def _supervise(store: Store, identity: str, mode: str, answer: int, attached: int) -> NoReturn:
    """In the forked process: become a supervisor. Never returns into what was forked."""
    try:
        try:
            answer, attached = alone(answer, attached)
            from lamina.engine.becoming import supervise
        except (ImportError, OSError) as error:  # there is no descriptor left, of a limit that is very low
            failure = KernelError("start a supervisor", getattr(error, "errno", None) or EMFILE)
            os.write(answer, encode({"error": error_record(failure)}))
            os._exit(1)
        supervise(store, identity, mode, answer, attached)
    finally:
        os._exit(0)


def alone(answer: int, attached: int) -> tuple[int, int]:
    """Let go of everything that is the caller's: session, directory, streams, descriptors, signals, umask. The two
    descriptors stay, and are returned under other numbers (-1 stays -1).
    """
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    for number in range(1, _NSIG):
        if number in (9, 19, 32, 33):
            continue
        if s.getsignal(number) not in (s.SIG_DFL, None):
            s.signal(number, s.SIG_DFL)
    s.signal(s.SIGPIPE, s.SIG_IGN)  # as Python has it
    s.pthread_sigmask(s.SIG_SETMASK, ())
    kept = [_high(fd) if fd >= 0 else -1 for fd in (answer, attached)]
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    _close_others(kept)
    return kept[0], kept[1]


def alone_too(answer: int, attached: int) -> tuple[int, int]:
    """As `alone`, for a child of a process that is alone, and has changed nothing but what it does with SIGCHLD."""
    os.setsid()
    s.signal(s.SIGCHLD, s.SIG_DFL)
    kept = [_high(fd) if fd >= 0 else -1 for fd in (answer, attached)]
    _close_others(kept)
    return kept[0], kept[1]


def _close_others(kept: Iterable[int]) -> None:
    """Close what is neither a standard stream nor among *kept*, in which -1 is nothing."""
    first = 3
    for fd in sorted(fd for fd in kept if fd >= 0):
        if fd > first:
            close_range(first, fd - 1, 0)
        first = fd + 1
    close_range(first, 0xFFFFFFFF, 0)
