"""Where the supervisors of many containers come from: a process that has imported what they need, and forks.

A program that starts one container executes a fresh interpreter (`detaching`), which is most of what that start costs.
Who starts many does that once (decisions 0063 and 0076):

    the program                          the nursery: a fresh interpreter, nobody's child
      a pair of sockets, posix_spawn ─▶  imports, and waits
      root, id, environment;         ─▶  a child becomes a supervisor, which answers through that pipe as any other
      the end of a pipe
      is gone, or closes             ─▶  leaves; and after IDLE seconds in which nobody asked

What it forks lives as the nursery does, and that as the program did when it executed it. So a program that has changed
about itself what a child inherits (user, namespaces, control groups, limits, filters) gets another nursery. Whoever
takes over a program that has given rights up finds the socket of the old one all the same: so that one does not
believe who asks, but looks (decision 0083).
"""

from __future__ import annotations

import os
import socket
from stat import S_ISSOCK

from lamina.engine.inherited import inherited, rights
from lamina.linux.descriptors import POLLIN, fcntl, poll
from lamina.linux.fd import Fd
from lamina.linux.messages import SOCK_SEQPACKET, have_told, received, send, socketpair

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from lamina.errors import LaminaError
    from lamina.linux.messages import Sent
    from lamina.store.root import Store
else:
    import _signal as s

IDLE = 30.0  # seconds: who forks one by one, and looks at each, is served as well
# in one packet; a program with a larger environment does without. unix(7): what a socket may have in it is 208 KiB
LONGEST_REQUEST = 1 << 16
# what a child says that waits for a request
_TAKEN, _ENDED = b"t", b"e"
# how many may be starting at once: each waits for the kernel more than it computes
AT_ONCE = 16
# fcntl(2): what is no pipe has no size
_F_GETPIPE_SZ = 1032

# the socket and its inode, what the program's surroundings were, and its pid; replaced whole, so threads may share it
_current: tuple[Fd, int, tuple[Any, ...], int] | None = None
# in the nursery: its own variables, which are those of the program when that made it
_inherited: bytes | None = None


def start(request: bytes, answer: int, attached: int) -> None:
    """Have a supervisor do the *request*, made by `request_for`, and answer on the descriptor *answer*, or REFUSED;
    *attached* is the end of a socket pair of a first client, or -1. Raises KernelError where there can be no process.
    """
    given = (answer,) if attached < 0 else (answer, attached)
    try:
        send(_channel(), request, given)
    except (BrokenPipeError, ConnectionResetError):
        send(_channel(fresh=True), request, given)


def request_for(store: Store, identity: str) -> bytes | None:
    """What to ask for, to have the container *identity* started; None where that is more than a packet takes."""
    request = b"\0".join((store.path, identity.encode(), _environment()))
    return request if len(request) <= LONGEST_REQUEST else None


def _environment() -> bytes:
    """The variables of this process, as they are in a request."""
    from lamina.engine.detaching import environment

    return b"\0".join([name + b"=" + text for name, text in environment().items()])


def start_each(store: Store, identities: Sequence[str]) -> list[dict[str, Any] | LaminaError]:
    """Have a supervisor of its own start each of the containers, some at once; what each came to, in their order: as
    `detaching.start_supervised` returns or raises it. Raises KernelError where there can be no process.
    """
    from lamina.errors import LaminaError as Failed

    requests = [request_for(store, identity) for identity in identities]
    if not all(requests):
        return [_started(store, identity) for identity in identities]
    found: dict[int, dict[str, Any] | LaminaError] = {}
    waiting: dict[int, tuple[int, Fd, bytes]] = {}
    if not identities:
        return []
    left = iter(enumerate(requests))
    channel = _channel()
    try:
        while len(found) < len(identities):
            while len(waiting) < AT_ONCE and (following := next(left, None)) is not None:
                number, request = following
                answer, channel = _ask(channel, request or b"")
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
                    found[number] = _came_to(store, identities[number], line + data)
                except Failed as error:
                    found[number] = error
    finally:
        for _, answer, _ in waiting.values():
            answer.close()
    return [found[number] for number in range(len(identities))]


def _came_to(store: Store, identity: str, line: bytes) -> dict[str, Any]:
    """What the start came to that was answered by *line*. Raises as `start_supervised`."""
    from lamina.engine.answers import REFUSED, decode
    from lamina.engine.detaching import after_killed, start_supervised

    if not line:
        return after_killed(store, identity)
    return start_supervised(store, identity) if line == REFUSED else decode(line)


def _started(store: Store, identity: str) -> dict[str, Any] | LaminaError:
    """As one of `start_each`, without a nursery."""
    from lamina.engine.detaching import start_supervised
    from lamina.errors import LaminaError as Failed

    try:
        return start_supervised(store, identity)
    except Failed as error:
        return error


def let_go() -> None:
    """Have the nursery of this program leave now, if there is one; the next start makes another. A thread that was just
    about to ask it asks that one.
    """
    global _current
    kept, _current = _current, None
    if (
        kept is None or not _is_still(kept[0], kept[1]) or kept[3] != os.getpid()
    ):  # or of a child of the program
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
            send(channel, request, (answer,))
        except (BrokenPipeError, ConnectionResetError):
            channel = _channel(fresh=True)
            send(channel, request, (answer,))
        return answers, channel


def _channel(*, fresh: bool = False) -> Fd:
    """To the nursery of this program, or to a *fresh* one where that has left. Raises KernelError."""
    global _current
    kept, around = _current, inherited()
    if kept is not None and _is_still(kept[0], kept[1]) and not fresh and kept[2] == around:
        return kept[0]
    from lamina.engine.detaching import make_nursery

    let_go()
    ours, theirs = map(Fd, socketpair(SOCK_SEQPACKET))
    with theirs:
        # a program that gave its rights up has this socket still, and a nursery has them still
        have_told(theirs)
        make_nursery(theirs)
    send(ours, _said(around))  # the first packet, which nobody else can have sent
    _current = (ours, os.fstat(ours).st_ino, around, os.getpid())
    return ours


def _is_still(channel: Fd, inode: int) -> bool:
    """Whether the descriptor is that socket still. Who closes all that is open, as daemons do when they begin, closes
    it too, and its number may be anybody's by now: then it is nothing of ours any more.
    """
    try:
        found = os.fstat(channel)
    except OSError:
        found = None
    if found is not None and S_ISSOCK(found.st_mode) and found.st_ino == inode:
        return True
    channel.disown()
    return False


def _said(around: tuple[Any, ...]) -> bytes:
    return repr(around[0]).encode()


# -- in the nursery


def nurse(descriptor: int) -> None:
    """The life of the nursery, whose socket *descriptor* is. It is alone already (`detaching.alone`). Raises OSError.

    A child that is forked already waits for the next request; when it has one it says so, and another one is forked
    while it works. So nothing that comes with a request keeps anybody but who has got it.
    """
    global _inherited
    _inherited = _environment()
    _load()
    s.signal(s.SIGCHLD, s.SIG_IGN)  # nobody waits for those who leave before it does
    channel = socket.socket(fileno=descriptor)
    patience = int(IDLE * 1000)
    first = received(channel.fileno(), LONGEST_REQUEST, 0) if poll([(descriptor, POLLIN)], patience) else None
    if first is not None and first.pidfd is not None:
        first.pidfd.close()
    while True:
        with _parked(channel, first) as told:
            if not poll([(told, POLLIN)], patience):
                channel.shutdown(socket.SHUT_RD)  # from here on nobody can ask; who has asked is served
                patience = -1
            if os.read(told, 1) == _ENDED:  # nothing at all where somebody killed it
                break
    channel.close()


def _parked(channel: socket.socket, first: Sent | None) -> Fd:
    """Fork a child that takes the next request: where it says that it has one, or that there are none any more. The
    *first* packet was the program's, as it was then.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    told = Fd(reader)
    with Fd(writer) as telling:
        try:
            child = os.fork()
        except OSError as error:  # the limit of processes: whoever asks next hears of it
            request = _receive(channel)
            os.write(telling, _ENDED if request is None else _TAKEN)
            if request is not None:
                _say(request.descriptors[0], _refusal(error))
            return told
        if child:
            return told
        try:
            request = _receive(channel)
            os.write(telling, _ENDED if request is None else _TAKEN)
            if request is not None:
                _serve(request, first)
        finally:
            os._exit(0)


def _receive(channel: socket.socket) -> Sent | None:
    """The next request, with where to answer, and a client's descriptor, if there is one; None when there will be none
    any more.
    """
    while True:
        request = received(channel.fileno(), LONGEST_REQUEST, 2)
        if not request.data:
            return None
        if request.descriptors:
            return request


def _serve(request: Sent, first: Sent | None) -> None:
    """Become the supervisor that is asked for, or say that who asks is not as the program was."""
    if first is None or not _is_as_it_was(request, first):
        from lamina.engine.answers import REFUSED

        _say(request.descriptors[0], REFUSED)
        return
    answer, *attached = [descriptor.steal() for descriptor in request.descriptors]
    _become(request.data, answer, *attached)


def _is_as_it_was(asked: Sent, first: Sent) -> bool:
    """Whether who has *asked* lives as the program did that sent the *first* packet. The first thread of a process is
    looked at: the others have the same memory, and could do what that can.

    It is looked at now: by then it may have executed a program that has more rights (sudo), whose ids were others when
    it asked; or have ended, and somebody else has its pid.
    """
    if asked.sender is None or first.sender is None or asked.sender[1:] != first.sender[1:]:
        return False
    try:
        if _said((rights(str(asked.sender[0])),)) != first.data:
            return False
    except OSError:
        return False
    if asked.pidfd is None:  # an older kernel
        return True
    with asked.pidfd as pidfd:
        return not poll([(int(pidfd), POLLIN)], 0)


def _say(answer: int, text: bytes) -> None:
    """Say it, if that is a pipe and there is room in it: whoever listens to no answer waits for none."""
    try:
        fcntl(answer, _F_GETPIPE_SZ, 0)
        os.set_blocking(answer, False)
        os.write(answer, text)
    except OSError:
        pass


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


def _refusal(error: OSError) -> bytes:
    from lamina.engine.answers import encode, error_record
    from lamina.errors import KernelError

    return encode({"error": error_record(KernelError("fork a supervisor", error.errno or 0))})


def _become(request: bytes, answer: int, attached: int = -1) -> NoReturn:
    """In a child: the supervisor that *request* is about."""
    try:
        from lamina.engine.becoming import supervise
        from lamina.engine.detaching import START, alone_too
        from lamina.store.root import Store as Opened

        root, identity, environment = request.split(b"\0", 2)
        if environment != _inherited:  # it seldom is another one, and to look at each variable takes long
            _live_in(environment.split(b"\0") if environment else ())
        answer, attached = alone_too(answer, attached)
        supervise(Opened(root), identity.decode(), START, answer, attached)
    finally:
        os._exit(0)


def _live_in(variables: Sequence[bytes]) -> None:
    """The program's environment, *variables*, is ours: it may have changed since the nursery was executed."""
    from lamina.store import trace

    wanted = dict(variable.split(b"=", 1) for variable in variables)
    own, zone = os.environb, os.environb.get(b"TZ")
    for name in own.keys() - wanted.keys():
        del own[name]
    for name in wanted.keys() - own.keys() | {name for name, text in own.items() if wanted[name] != text}:
        own[name] = wanted[name]
    if own.get(b"TZ") != zone:
        from time import tzset

        tzset()
    trace.watch()
