"""Starts a helper of a container (pasta, slirp4netns) under who keeps it as long as the container's first process
lives, and not longer: `lamina-tether`, a program of a page (tether.c), or Python where there was no compiler.

Neither is a child of ours. Whoever starts a container need not live as long as it does, and whoever looks after it may
be killed: so nobody of these can be the helper's parent, and nobody need look after it.
"""

from __future__ import annotations

import os
from errno import ECHILD

from lamina.errors import KernelError
from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd, ready
from lamina.linux.process import close_range, pidfd_open, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
PROGRAM = os.path.join(_PACKAGE, "supervisor", "lamina-tether")
WORD = "tether"  # of engine/entry.py
LOG, CONTAINER, REPORT, LOG_END, OWN = 2, 3, 4, 5, 6
_LAST = 7
_PR_SET_PDEATHSIG, _SIGKILL, _NSIG = 1, 9, 65
_LONGEST = 1 << 16


def start(words: Sequence[str], container: int, own: Sequence[int] = ()) -> tuple[int, Fd]:
    """Start the program *words*[0], which is to end with the process *container*, a child of ours or somebody who
    cannot end at this moment. At most two descriptors *own* are its 6 and 7.

    Its process id (0 where it could not be started), and the end of the pipe at which it says what goes wrong: at its
    end nobody of them is left. Raises KernelError.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # who does not read it does not hold it up
    with Fd(writer) as said:
        log = Fd(reader)
        from_it, to_us = os.pipe2(os.O_CLOEXEC)
        with Fd(from_it) as report, Fd(to_us) as reported:
            with pidfd_open(container) as pidfd, Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
                # each number of theirs is somebody's: what the caller has there is not theirs
                rest = (null, null)[len(own) :]
                _spawn(words, (null, null, said, pidfd, reported, log, *own, *rest))
            reported.close()
            said.close()
            return int(os.read(report, 32).strip() or 0), log


def text_of(log: int) -> str:
    """What was said so far."""
    found = b""
    try:
        while len(found) < _LONGEST and ready(0, log) and (data := os.read(log, 4096)):
            found += data
    except BlockingIOError:
        pass
    return found.decode(errors="replace").strip()


def _spawn(words: Sequence[str], descriptors: Sequence[int]) -> None:
    """posix_spawn(3): no copy of this process's memory, whatever its size."""
    keeper = [PROGRAM]
    if not os.path.exists(PROGRAM):
        from lamina.supervisor.interpreter import interpreter

        keeper = [
            interpreter(),
            "-I",
            "-S",
            os.path.join(_PACKAGE, "isolated.py"),
            "engine",
            "",
            "",
            WORD,
            "",
        ]
    # numbers that nothing else has: none of them is overwritten before it has been copied
    high = [Fd(duplicate(fd, 10)) for fd in descriptors]
    try:
        child = os.posix_spawn(
            keeper[0],
            [*keeper, *words],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, int(fd), number) for number, fd in enumerate(high)],
            setsigmask=(),
            setsigdef=[number for number in range(1, _NSIG) if number not in (9, 19, 32, 33)],
        )
    except OSError as error:
        raise KernelError("start a helper", error.errno or 0, keeper[0]) from None
    finally:
        for fd in high:
            fd.close()
    try:
        os.waitpid(child, 0)  # it forks at once, and leaves
    except OSError as error:
        if error.errno != ECHILD:  # this program lets the kernel reap, or waits for any child
            raise


def keep(words: Sequence[str]) -> None:
    """What tether.c does, in this process, which is nothing else. Never returns."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    close_range(_LAST + 1, 0xFFFFFFFF, 0)
    self = os.getpid()
    child = os.fork()
    if child == 0:
        _help(self, words)
    for fd in (LOG, OWN, _LAST):
        try:
            os.close(fd)
        except OSError:
            pass
    os.write(REPORT, b"%d\n" % child)
    os.close(REPORT)
    with pidfd_open(child) as helper:
        ready(None, CONTAINER, helper)
        os.kill(child, _SIGKILL)  # not waited for so far: the number is still its own
    os._exit(0)


def _help(parent: int, words: Sequence[str]) -> None:
    try:
        prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != parent:
            os._exit(125)
        for fd in (CONTAINER, REPORT, LOG_END):
            os.close(fd)
        os.execve(words[0], list(words), {})
    except OSError:
        os.write(LOG, b"it cannot be executed\n")
    finally:
        os._exit(127)
