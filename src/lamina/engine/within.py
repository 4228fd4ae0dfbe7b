"""Doing what takes the ids of a container without root: in a process of ours in a new user namespace.

A container of an ordinary user leaves files of his subordinate ids, and files of his own that he may not even read
(mode 0000: root of a container may do anything). Nobody but root of a user namespace with those ids gets at them. In
the namespace made here every id is itself, so that what is seen there is what is seen outside, and nothing has to be
translated (of files of everybody else, such as root's, the owner is shown as 65534). The caller's own process is
never changed. Sources: user_namespaces(7), capabilities(7) (CAP_DAC_OVERRIDE).

    reach(maps, changes_of, overlays)       # here if possible, else in the namespace
    for line in reach_each(maps, diff_changes, changes): ...
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from errno import EACCES, EPERM, ESRCH
from fcntl import F_DUPFD_CLOEXEC, fcntl

from lamina.errors import Corrupt, KernelError, LaminaError, Unsupported
from lamina.linux.fd import Fd
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.supervisor.signals import Undisturbed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Maps = dict[str, list[dict[str, int]]]

SIGINT, SIGKILL = 2, 9
FIRST_FILE = 3  # the number of the first descriptor that is handed to the process in the namespace
HEADER = 8  # bytes of a frame's length
ITEM, PROGRESS, RESULT, FAILURE = "item", "progress", "result", "failure"
MAIN = """
import os, sys
paths = [os.fsencode(path).decode('utf-8', 'surrogateescape') for path in sys.argv[1:]]
sys.path[:0] = paths[:1]
sys.path += paths[1:]
from lamina.engine import within
within.{begin}
"""


def reach(
    maps: Callable[[], Maps | None],
    work: Callable[..., Any],
    *args: Any,
    progress: Callable[..., None] | None = None,
    **keywords: Any,
) -> Any:
    """`work(*args, **keywords)`: here, or, where that is not permitted, in a user namespace with *maps*.

    *work* is a function of a module; arguments and result can be pickled. *maps* gives `uidMappings` and `gidMappings`
    of the specification, None if there is nothing to be had from a namespace. *progress* is handed to *work*.
    Raises whatever *work* raises, Unsupported where this host lets nobody make such a namespace.
    """
    if progress is not None:
        keywords["progress"] = progress
    try:
        return work(*args, **keywords)
    except OSError as refused:
        if refused.errno not in (EACCES, EPERM) or (found := maps()) is None:
            raise
    keywords.pop("progress", None)
    result = None
    for kind, content in _Within(found, work, args, keywords, progress is not None).frames():
        if kind == PROGRESS and progress is not None:
            progress(*content)
        elif kind == RESULT:
            result = content
    return result


def inside(
    maps: Maps,
    work: Callable[..., Any],
    *args: Any,
    progress: Callable[..., object] | None = None,
    files: tuple[int, ...] = (),
    **keywords: Any,
) -> Any:
    """`work(*args, **keywords)` in a user namespace with *maps*, without trying it here first. Raises as `reach`.

    The descriptors *files* are there too, as FIRST_FILE and the numbers after it. *progress* is handed to *work*, if
    there is one; what it raises here ends the work there.
    """
    result = None
    for kind, content in _Within(maps, work, args, keywords, progress is not None, files).frames():
        if kind == PROGRESS and progress is not None:
            progress(*content)
        elif kind == RESULT:
            result = content
    return result


def reach_each(
    maps: Callable[[], Maps | None], work: Callable[..., Iterator[Any]], *args: Any
) -> Iterator[Any]:
    """What `work(*args)` yields, as in `reach`: what was yielded here before it was not permitted is not repeated."""
    done = 0
    try:
        for item in work(*args):
            yield item
            done += 1
        return
    except OSError as refused:
        if refused.errno not in (EACCES, EPERM) or (found := maps()) is None:
            raise
    for kind, content in _Within(found, work, args, {}, False).frames():
        if kind == ITEM:
            if done:
                done -= 1
            else:
                yield content


def maps_of(asked: dict[str, Any] | None) -> Maps | None:
    """The id maps with which the files of the container whose record is *asked* are reached: its own, or what they
    would be today where that is not known, or where it has ids other than the user's.
    """
    if os.geteuid() == 0:
        return None
    if asked is not None and asked.get("id_maps") and not asked.get("own_ids"):
        kept: Maps = asked["id_maps"]
        return kept
    from lamina.engine.id_maps import id_maps

    maps = id_maps()
    return None if maps is None else maps.spec()


def owners_of(asked: dict[str, Any]) -> Maps | None:
    """By which maps the owners of the container's files, as they are on the disk, are its users; None: they are the
    same, as with all of root's (runtime/stacks).
    """
    if os.geteuid() == 0:
        return None
    kept: Maps | None = asked.get("id_maps")
    return kept or maps_of(asked)


def _themselves(maps: Maps) -> Maps:
    return {
        key: [{**line, "containerID": line["hostID"]} for line in maps[key]]
        for key in ("uidMappings", "gidMappings")
    }


class _Within:
    """One process in a namespace, from its start to its end."""

    def __init__(
        self,
        maps: Maps,
        work: Callable[..., Any],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        progress: bool,
        files: tuple[int, ...] = (),
    ) -> None:
        self.maps = _themselves(maps)
        self.files = files
        self.request = (work, args, keywords, progress)
        self.asked = False  # whether the process may have heard it

    def frames(self) -> Iterator[tuple[str, Any]]:
        """What the process says, until its end. Raises what its work raised."""
        answers, theirs = map(Fd, os.pipe2(os.O_CLOEXEC))
        told, telling = map(Fd, os.pipe2(os.O_CLOEXEC))
        failure, process = None, 0
        try:
            with theirs, told, Undisturbed():
                process = _spawn(told, theirs, self.files)
            with pidfd_open(process) as held:
                try:
                    for kind, content in self._conversation(process, held, telling, answers):
                        if kind == FAILURE:
                            failure = content
                            break
                        yield kind, content
                except BaseException:
                    # an interrupted apply takes back what it did, in its own time, and has nobody to tell; who has
                    # not heard yet what to do has nothing to take back, and would complain of the interrupt
                    with suppress(OSError):  # it may be gone already
                        pidfd_send_signal(held, SIGINT if self.asked else SIGKILL)
                    raise
        finally:
            telling.close()
            answers.close()
            if process:
                _wait(process)
        if failure is not None:
            raise failure

    def _conversation(self, process: int, alive: Fd, telling: Fd, answers: Fd) -> Iterator[tuple[str, Any]]:
        self.begin(process, alive, telling, answers)
        kind = ITEM
        while kind in (ITEM, PROGRESS):
            kind, content = receive(answers, alive)
            yield kind, content

    def begin(self, process: int, alive: Fd, telling: Fd, answers: Fd) -> None:
        """The process is in its namespace: give that its ids, and say what to do. Raises Unsupported, KernelError."""
        from lamina.runtime.id_maps import write_id_maps

        kind, content = receive(answers, alive)
        if kind == FAILURE:
            raise _refused(content)
        with Undisturbed():  # others may do that for us
            write_id_maps(process, self.maps)
        self.asked = True
        send(telling, *self.request)


def apart(maps: Maps, work: Callable[..., Any], *args: Any, files: tuple[int, ...] = ()) -> None:
    """Have `work(*args)` done in a user namespace with *maps* by a process that is nobody's child: nobody who waits for
    any child in this program meets it. Returns when it is about to begin; what comes of it nobody hears, so it says so
    by *files*, which are there as with `inside`. The kernel ends it when this program ends.

    Raises Unsupported where this host lets nobody make such a namespace, Corrupt, OSError.
    """
    wanted = _Within(maps, work, args, {}, False)
    answers, theirs = map(Fd, os.pipe2(os.O_CLOEXEC))
    told, telling = map(Fd, os.pipe2(os.O_CLOEXEC))
    with answers, telling:
        with theirs, told, pidfd_open(os.getpid()) as owner:
            begin = f"serve_apart({FIRST_FILE + len(files)})"
            first = _spawn(told, theirs, (*files, owner), begin)
        try:
            process = _said_by(first, answers)
        finally:
            _wait(first)
        with pidfd_open(process) as held:
            wanted.begin(process, held, telling, answers)


def _said_by(first: int, answers: Fd) -> int:
    """Which process serves, as the *first* one says before it leaves."""
    try:
        held = pidfd_open(first)
    except KernelError as error:
        if error.errno != ESRCH:
            raise
        return int(receive(answers)[1])  # it left, and somebody else in this program has reaped it
    with held:
        return int(receive(answers, held)[1])


def _spawn(stdin: int, stdout: int, files: tuple[int, ...] = (), begin: str = "serve()") -> int:
    from lamina.supervisor.interpreter import interpreter

    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # out of the way of the numbers that they get there
    high = [Fd(fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FILE + len(files))) for fd in files]
    handed = [(os.POSIX_SPAWN_DUP2, int(fd), FIRST_FILE + number) for number, fd in enumerate(high)]
    try:
        return os.posix_spawn(
            interpreter(),
            [interpreter(), "-I", "-S", "-B", "-c", MAIN.format(begin=begin), here, *_libraries()],
            {"PATH": "/usr/bin:/bin"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                *handed,
            ],
            setpgroup=0,  # a Ctrl-C on the terminal reaches it once, through us
            setsigmask=(),
            setsigdef=(SIGINT,),
        )
    finally:
        for fd in high:
            fd.close()


def _libraries() -> list[str]:
    """Where the libraries are that Lamina uses; none of the other places where this program may look for modules."""
    known = ("site-packages", "dist-packages")
    return [path for path in sys.path if path.startswith("/") and os.path.basename(path) in known]


def _wait(process: int) -> None:
    try:
        os.waitpid(process, 0)
    except ChildProcessError:
        pass  # somebody in this program waits for any child
    except BaseException:
        os.kill(process, SIGKILL)
        os.waitpid(process, 0)
        raise


def _refused(error: BaseException) -> LaminaError:
    cause = getattr(error, "strerror", None) or str(error)
    return Unsupported(
        f"enter a user namespace for the container's ids: {cause}",
        remedy="'lamina doctor' names what forbids it on this host and the remedy",
    )


def send(descriptor: int, *content: Any) -> None:
    """One frame. Raises OSError."""
    import pickle

    data = pickle.dumps(content)
    data = len(data).to_bytes(HEADER, "little") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, alive: int = -1) -> tuple[Any, ...]:
    """The next frame. Raises Corrupt when there is none: the other side died. *alive* is a pidfd of that, if known."""
    return frame(lambda size: _read(descriptor, size, alive))


def frame(read: Callable[[int], bytes]) -> tuple[Any, ...]:
    """The next one of what *read* gives, which raises Corrupt where there is not so much. It does what is in it, so
    who has sent it has to be known.
    """
    import pickle

    size = int.from_bytes(read(HEADER), "little")
    content: tuple[Any, ...] = pickle.loads(read(size))
    return content


def _read(descriptor: int, size: int, alive: int) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if alive >= 0:
        # the end of the pipe alone says nothing: a process that another thread forks meanwhile has its other end too
        poll.register(alive, select.POLLIN)
    pieces = []
    while size:
        ready = dict(poll.poll())
        if descriptor not in ready:
            # the kernel looks at one after the other: in between it may have answered, and ended
            ready = dict(poll.poll(0))
        piece = os.read(descriptor, min(size, 1 << 20)) if descriptor in ready else b""
        if not piece:
            raise Corrupt("work in a user namespace: the process there ended without an answer")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


# -- in the namespace


def serve_apart(owner: int) -> None:
    """As `serve`, by nobody's child. Three processes: the first leaves when the third has said who it is. The second
    stays until the third has ended, or the program whose pidfd is *owner*: then the kernel ends the third with it.
    """
    try:
        said, saying = os.pipe()
        if os.fork():
            os.close(saying)
            os.read(said, 1)
            return
        keeper = os.getpid()
        serving = os.fork()
        if serving:
            os.close(saying)
            _keep(serving, owner)
        else:
            send(1, ITEM, os.getpid())
            for descriptor in (said, saying, owner):
                os.close(descriptor)
            serve(keeper)
    finally:
        os._exit(0)  # whoever could not go on says nothing, and is taken for one that ended


def _keep(serving: int, owner: int) -> None:
    """Stay until one of them has ended: the child *serving*, or the program behind the descriptor *owner*."""
    with pidfd_open(serving) as served:
        poll = select.poll()
        for descriptor in (owner, int(served)):
            poll.register(descriptor, select.POLLIN)
        if owner not in dict(poll.poll()):
            os.waitpid(serving, 0)


def serve(keeper: int = 0) -> None:
    """The life of the process: enter the namespace, hear what to do, do it, say what came of it. *keeper* is the
    process that it is to end with, where that may have ended already.
    """
    from lamina.linux.constants import CLONE_NEWUSER, PR_SET_PDEATHSIG
    from lamina.linux.namespaces import unshare
    from lamina.linux.process import prctl

    answers = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC), 1)  # a stray print is no frame
    try:
        unshare(CLONE_NEWUSER)
    except KernelError as error:
        send(answers, FAILURE, Carried(error))
        return
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    if keeper and os.getppid() != keeper:
        return
    try:
        send(answers, RESULT, None)
    except BrokenPipeError:  # who asked has ended just now
        return
    try:
        work, args, keywords, progress = receive(0)
    except (Corrupt, KeyboardInterrupt):
        return  # nothing came of it outside: no maps
    try:
        if progress:
            keywords["progress"] = lambda *said: _answer(answers, PROGRESS, said)
        result = work(*args, **keywords)
        if hasattr(result, "__next__"):
            for item in result:
                send(answers, ITEM, item)
            result = None
        send(answers, RESULT, result)
    except BaseException as error:
        try:
            _answer(answers, FAILURE, Carried(error))
        except KeyboardInterrupt:  # it is over already, and who interrupts us does not listen any more
            pass


def _answer(descriptor: int, *content: Any) -> None:
    """Say something that nobody may want to know any more: that must not keep us from cleaning up."""
    try:
        send(descriptor, *content)
    except BrokenPipeError:
        pass


class Carried:
    """An error on its way: Lamina's take other arguments than `args`, and OSError keeps some of its own elsewhere."""

    FIELDS = ("errno", "strerror", "filename")

    def __init__(self, error: BaseException) -> None:
        self.kind: type[BaseException] = type(error)
        self.args, self.fields = error.args, dict(vars(error))
        if not isinstance(error, (LaminaError, OSError, KeyboardInterrupt, ValueError, MemoryError)):
            said = f"{type(error).__name__}: {error}"
            self.kind, self.args, self.fields = LaminaError, (said,), {"message": said, "remedy": ""}
        elif isinstance(error, OSError):
            self.fields.update({name: getattr(error, name) for name in self.FIELDS})

    def __reduce__(self) -> Any:
        return _arrived, (self.kind, self.args, self.fields)


def _arrived(kind: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, content in fields.items():
        if name == "__notes__":
            for note in content:
                error.add_note(note)
        else:
            setattr(error, name, content)
    return error
