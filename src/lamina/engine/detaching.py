"""How a supervisor comes to be: a process of its own for one container, that answers once and then is nobody's child.

A command of ours is small and has one thread: it is forked, twice. Anybody else's program (with threads, gigabytes, and
descriptors that must not leak) is never forked: a fresh interpreter is executed, by posix_spawn(3).
"""

from __future__ import annotations

import os
import sys

from lamina.engine.answers import decode, encode, error_record
from lamina.errors import KernelError
from lamina.linux.fd import Fd
from lamina.linux.process import close_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from typing import Any, NoReturn

    from lamina.store.root import Store
else:  # the module `signal` is enumerations around it
    import _signal as s

START, ADOPT = "start", "adopt"
NURSERY = "nursery"  # no container's: it makes supervisors of several (nursery.py)
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_LONGEST_ANSWER = 1 << 20
_NSIG = 65


def start_supervised(store: Store, identity: str, *, mode: str = START, attached: int = -1) -> dict[str, Any]:
    """Have a supervisor of its own start the container *identity* of *store*, or (*mode* ADOPT) look after it.

    Returns once the command runs: {"started": the state record, "warnings": [...]}, or {"already": True} where it runs
    with a supervisor. *attached* is a descriptor that the supervisor gets: the end of a socket pair of a first client.
    Raises what the start raised, in its own class; KernelError where there can be no process.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with Fd(reader) as answers:
        with Fd(writer) as answer:
            if is_small():
                _fork(store, identity, mode, answer, attached)
            else:
                _spawn(store, identity, mode, answer, attached)
        return decode(_line(answers))


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
    if os.path.dirname(os.path.abspath(program)) != _PACKAGE:
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


def reap(child: int) -> None:
    """Wait for a child that leaves at once."""
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # this program lets the kernel reap, or waits for any child


def _spawn(store: Store, identity: str, mode: str, answer: int, attached: int) -> None:
    _execute([os.fsdecode(store.path), identity, mode, "attached" if attached >= 0 else ""], answer, attached)


def _execute(asked: list[str], answer: int, attached: int) -> None:
    """posix_spawn of what entry.py does with these words: no copy of this process's memory, whatever its size."""
    program = os.path.join(_PACKAGE, "isolated.py")
    words = [sys.executable, "-I", "-S", program, "engine", *asked]
    null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    # numbers that nothing else has: none of them is overwritten before it has been copied
    with null, Fd(_high(answer)) as high, Fd(_high(attached) if attached >= 0 else _high(null)) as client:
        actions = [(os.POSIX_SPAWN_DUP2, int(null), number) for number in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, int(high), 3), (os.POSIX_SPAWN_DUP2, int(client), 4)]
        try:
            child = os.posix_spawn(
                sys.executable,
                words,
                os.environ,
                file_actions=actions,
                setsigmask=(),
                setsigdef=[number for number in range(1, _NSIG) if number not in (9, 19, 32, 33)],
            )
        except OSError as error:
            raise KernelError("start a supervisor", error.errno or 0, sys.executable) from None
    reap(child)  # it forks at once, and leaves


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
    """As `leave`, for any program: a fresh interpreter does *mode* (entry.py) of the container. Raises KernelError."""
    program = os.path.join(_PACKAGE, "isolated.py")
    with Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
        try:
            child = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", program, "engine", os.fsdecode(store.path), identity, mode, ""],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, int(null), number) for number in (0, 1, 2)],
                setsigmask=(),
                setsigdef=[number for number in range(1, _NSIG) if number not in (9, 19, 32, 33)],
            )
        except OSError as error:
            raise KernelError("start a process", error.errno or 0, sys.executable) from None
    reap(child)  # it forks at once, and leaves


def _high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)


def _supervise(store: Store, identity: str, mode: str, answer: int, attached: int) -> NoReturn:
    """In the forked process: become a supervisor. Never returns into what was forked."""
    try:
        answer, attached = alone(answer, attached)
        from lamina.engine.becoming import supervise

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
    first = 3
    for fd in sorted(fd for fd in kept if fd >= 0):
        if fd > first:
            close_range(first, fd - 1, 0)
        first = fd + 1
    close_range(first, 0xFFFFFFFF, 0)
    return kept[0], kept[1]
