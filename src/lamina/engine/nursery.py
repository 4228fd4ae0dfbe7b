"""Where the supervisors of many containers come from: a process that has imported what they need, and forks.

A program that starts one container executes a fresh interpreter (`detaching`), which is most of what that start costs.
Who starts many does that once:

    the program                          the nursery: a fresh interpreter, nobody's child
      a pair of sockets, posix_spawn ─▶  imports, and waits
      root, id; the end of a pipe    ─▶  a child becomes a supervisor, which answers through that pipe as any other
      is gone, or closes             ─▶  leaves; and after IDLE seconds in which nobody asked

What it forks lives as the nursery does, and that as the program did when it executed it. So a program that has changed
about itself what a child inherits (user, namespaces, control groups, limits, environment) gets another nursery.
"""

from __future__ import annotations

import os
import socket
import sys

from lamina.linux.descriptors import POLLIN, poll, socketpair
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from lamina.errors import LaminaError
    from lamina.store.root import Store
else:
    import _signal as s

IDLE = 30.0  # seconds: who forks one by one, and looks at each, is served as well
LONGEST_REQUEST = 1 << 14
# what a child says that waits for a request
_TAKEN, _ENDED = b"t", b"e"
# how many may be starting at once: each waits for the kernel more than it computes
AT_ONCE = 16
# what tells two processes apart that were started by the same one: proc_pid_status(5), namespaces(7)
_STATUS = (
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"Cap",
    b"NoNewPrivs:",
    b"Seccomp:",
    b"Cpus_allowed:",
    b"Mems_allowed:",
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts")
_FILES = ("cgroup", "limits", "oom_score_adj", "attr/current")

# the socket, what the program's surroundings were, and its pid; replaced whole, so threads may share it
_current: tuple[Fd, tuple[Any, ...], int] | None = None


def start_each(store: Store, identities: Sequence[str]) -> list[dict[str, Any] | LaminaError]:
    """Have a supervisor of its own start each of the containers, some at once; what each came to, in their order: as
    `detaching.start_supervised` returns or raises it. Raises KernelError where there can be no process.
    """
    from lamina.engine.answers import decode
    from lamina.errors import LaminaError as Failed

    found: dict[int, dict[str, Any] | LaminaError] = {}
    waiting: dict[int, tuple[int, Fd, bytes]] = {}
    if not identities:
        return []
    left = iter(enumerate(identities))
    channel = _channel()
    try:
        while len(found) < len(identities):
            while len(waiting) < AT_ONCE and (following := next(left, None)) is not None:
                number, identity = following
                answer, channel = _ask(channel, store.path + b"\0" + identity.encode())
                waiting[int(answer)] = (number, answer, b"")
            for ready, _ in poll([(fd, POLLIN) for fd in waiting], -1):
                number, answer, line = waiting[ready]
                data = os.read(answer, 1 << 16)
                waiting[ready] = (number, answer, line + data)
                if data and not data.endswith(b"\n"):
                    continue
                del waiting[ready]
                answer.close()
                try:
                    found[number] = decode(line + data)
                except Failed as error:
                    found[number] = error
    finally:
        for _, answer, _ in waiting.values():
            answer.close()
    return [found[number] for number in range(len(identities))]


def let_go() -> None:
    """Have the nursery of this program leave now, if there is one; the next start makes another. A thread that was just
    about to ask it asks that one.
    """
    global _current
    kept, _current = _current, None
    if kept is None or kept[2] != os.getpid():  # a child of the program that has it
        return
    end = socket.socket(fileno=int(kept[0]))
    try:
        end.shutdown(socket.SHUT_WR)
    except OSError:  # it has left
        pass
    finally:
        end.detach()


def _ask(channel: Fd, request: bytes) -> tuple[Fd, Fd]:
    """Have a supervisor made: where it answers, and the socket to ask the next time. *channel* may be that of a nursery
    that has left.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with Fd(writer) as answer:
        answers = Fd(reader)
        try:
            _send(channel, request, answer)
        except (BrokenPipeError, ConnectionResetError):
            channel = _channel(fresh=True)
            _send(channel, request, answer)
        return answers, channel


def _send(channel: Fd, request: bytes, answer: Fd) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, int(answer).to_bytes(4, sys.byteorder))]
    end = socket.socket(fileno=int(channel))
    try:
        end.sendmsg([request], rights, socket.MSG_NOSIGNAL)
    finally:
        end.detach()


def _channel(*, fresh: bool = False) -> Fd:
    """To the nursery of this program, or to a *fresh* one where that has left. Raises KernelError."""
    global _current
    kept, around = _current, _surroundings()
    if kept is not None and not fresh and kept[1] == around:
        return kept[0]
    from lamina.engine.detaching import make_nursery

    let_go()
    ours, theirs = map(Fd, socketpair(socket.SOCK_SEQPACKET))
    with theirs:
        make_nursery(theirs)
    _current = (ours, around, os.getpid())
    return ours


def _surroundings() -> tuple[Any, ...]:
    """What a child of this thread would inherit, and keep as a supervisor."""
    at = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = [line for line in _read(at, "status").splitlines() if line.startswith(_STATUS)]
        root = os.stat("root", dir_fd=at)
        return (
            *status,
            *(_read(at, name) for name in _FILES),
            *(_link(at, f"ns/{name}") for name in _NAMESPACES),
            (root.st_dev, root.st_ino),
            os.getpriority(os.PRIO_PROCESS, 0),
            dict(os.environ),
        )
    finally:
        os.close(at)


def _read(at: int, name: str) -> bytes:
    try:
        with Fd(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)) as file:
            return os.read(file, 1 << 14)
    except OSError:  # no security module labels processes here
        return b""


def _link(at: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=at)
    except FileNotFoundError:  # older kernels have no time namespaces
        return ""


# -- in the nursery


def nurse(descriptor: int) -> NoReturn:
    """The life of the nursery, whose socket *descriptor* is. It is alone already (`detaching.alone`).

    A child that is forked already waits for the next request; when it has one it says so, and another one is forked
    while it works.
    """
    try:
        _load()
        s.signal(s.SIGCHLD, s.SIG_IGN)  # nobody waits for those who leave before it does
        channel = socket.socket(fileno=descriptor)
        while True:
            with _parked(channel) as told:
                if not poll([(told, POLLIN)], int(IDLE * 1000)):
                    channel.shutdown(socket.SHUT_RD)  # from here on nobody can ask; who has asked is served
                    while (asked := _receive(channel)) is not None:
                        _bear(*asked)
                    break
                if os.read(told, 1) == _ENDED:  # nothing at all where somebody killed it
                    break
    finally:
        os._exit(0)


def _parked(channel: socket.socket) -> Fd:
    """Fork a child that takes the next request: where it says that it has one, or that there are none any more."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    told = Fd(reader)
    with Fd(writer) as telling:
        try:
            child = os.fork()
        except OSError as error:  # the limit of processes: whoever asks next hears of it
            if (asked := _receive(channel)) is not None:
                _refuse(asked[1], error)
            os.write(telling, _ENDED if asked is None else _TAKEN)
            return told
        if child:
            return told
        try:
            asked = _receive(channel)
            os.write(telling, _ENDED if asked is None else _TAKEN)
            if asked is not None:
                _become(*asked)
        finally:
            os._exit(0)


def _receive(channel: socket.socket) -> tuple[bytes, int] | None:
    """The next request, and the descriptor to answer on; None when there will be none any more."""
    while True:
        request, rights, _, _ = channel.recvmsg(
            LONGEST_REQUEST, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not request:
            return None
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                return request, int.from_bytes(data[:4], sys.byteorder)


def _load() -> None:
    """What a supervisor and a start need: what is imported here, nobody who is forked has to import."""
    import _json  # noqa: F401
    import contextlib  # noqa: F401
    import gc

    import lamina.engine.accounts
    import lamina.engine.base
    import lamina.engine.becoming
    import lamina.engine.discard
    import lamina.engine.logging
    import lamina.engine.own_files
    import lamina.engine.starting
    import lamina.runtime.cgroups.making
    import lamina.runtime.cgroups.making_v2
    import lamina.runtime.cgroups.resources
    import lamina.store.images
    import lamina.supervisor.logs.frames
    import lamina.supervisor.logs.rotation  # noqa: F401

    gc.set_threshold(100_000)
    gc.freeze()  # what lives now is everybody's: looking through it would copy it


def _bear(request: bytes, answer: int) -> None:
    """Fork the supervisor that *request* is about. It answers on *answer*, whatever becomes of it."""
    try:
        child = os.fork()
    except OSError as error:
        _refuse(answer, error)
        return
    if child:
        os.close(answer)
        return
    _become(request, answer)


def _refuse(answer: int, error: OSError) -> None:
    from lamina.engine.answers import encode, error_record
    from lamina.errors import KernelError

    failure = KernelError("fork a supervisor", error.errno or 0)
    try:
        os.write(answer, encode({"error": error_record(failure)}))
    except BrokenPipeError:
        pass  # who asked is gone
    os.close(answer)


def _become(request: bytes, answer: int) -> NoReturn:
    """In a child: the supervisor that *request* is about."""
    try:
        from lamina.engine.becoming import supervise
        from lamina.engine.detaching import START, alone
        from lamina.store.root import Store as Opened

        root, _, identity = request.partition(b"\0")
        answer, _ = alone(answer, -1)
        supervise(Opened(root), identity.decode(), START, answer, -1)
    finally:
        os._exit(0)
