"""The warm process: holds its lock, imports what commands need, and parks a worker at its socket, always one.

    python -I -S isolated.py warm FACE DIRECTORY NAME SWITCH [IDLE]       descriptor 3: the lock, held

It reads no request itself: the parked worker takes the next connection, says so through a pipe, and another one is
parked. So it can be killed at any moment: nobody depends on it, and the parked worker dies with it (prctl(2)).
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
from time import monotonic

from lamina.linux.constants import PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_PDEATHSIG
from lamina.linux.process import prctl
from lamina.warm import place
from lamina.warm.copies import Copies
from lamina.warm.groups import is_alone
from lamina.warm.worker import Face, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LOCK = 3
IDLE = 600.0  # seconds without a command until it leaves
LOOK = 10.0  # seconds after which it looks whether it is still wanted
BACKLOG = 128
MOST_FAILURES = 3  # workers in a row that died without having taken a command


def main() -> NoReturn:
    """The whole life of the process."""
    os._exit(run())


def run() -> int:
    """The whole life of the process; its exit status. Silent: there is nobody to speak to."""
    face, directory, name, switch, *more = sys.argv[1:]
    try:
        at = place.opened(directory)
        # held by whoever started us, and from now on by nobody else; raises where we were not given it
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(LOCK, False)
        os.pwrite(LOCK, b"%d\n" % os.getpid(), 0)
        place.sweep(at, but=name)
        prctl(PR_SET_NAME, b"lamina-warm")
        entry = _preload(face)
        if (
            len(os.listdir("/proc/self/task")) > 1
        ):  # something that `site` brought in has threads: not to be forked
            return 1
        server = Server(at, name, entry, switch, float(more[0]) if more else IDLE)
        prctl(PR_SET_DUMPABLE, 0)  # what is in its memory is nobody's to read or change
        server.serve()
    except OSError:
        return 1
    return 0


def _preload(face: str) -> Face:
    """Import what the commands of *face* import most often; the rest each of them imports itself."""
    for part in ("entry", "hot"):
        __import__(f"lamina.{face}.{part}")
    entry, hot = sys.modules[f"lamina.{face}.entry"], sys.modules[f"lamina.{face}.hot"]
    for module in hot.MODULES:
        try:
            __import__(module)
        except ImportError:  # whoever needs it says so, better than we could
            continue
    gc.collect()
    gc.freeze()  # a collection in a worker must not touch, and so copy, what all share
    return Face(entry.run, hot.does_well_without, hot.rehearse, hot.kind, hot.lingering)


class Server:
    """Parks workers of *face*, in the directory *at* under *name*, until nobody wants it any more."""

    def __init__(self, at: int, name: str, face: Face, switch: str, idle: float) -> None:
        self.at, self.name, self.face, self.switch, self.idle = at, name, face, switch, idle
        self.loaded = _loaded()
        # PEP 538: Python has set it by itself where the locale is C
        self.coerced = (b"LC_CTYPE=C.UTF-8",) if _is_coerced() else ()
        self.listener = _listen(at, name)
        self.socket = os.stat(name, dir_fd=at).st_ino
        self.taken, self.taking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.woken, waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self.asked_to_leave = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._leave)
        self.parked = 0
        self.failures = 0
        self.copies = Copies()

    def serve(self) -> None:
        """Keep a worker parked; return when it is time to leave."""
        try:
            poll = select.poll()
            poll.register(self.taken, select.POLLIN)
            poll.register(self.woken, select.POLLIN)
            last = look = monotonic()
            while not self.asked_to_leave and self.failures < MOST_FAILURES:
                if not self.parked:
                    self._park()
                now = monotonic()
                if now - last >= self.idle:
                    return
                if now - look >= LOOK:
                    look = now
                    if not self._is_wanted():
                        return
                ready = {number for number, _ in poll.poll(min(LOOK, self.idle - (now - last)) * 1000 + 1)}
                if self.taken in ready and self._drain(self.taken):
                    last, self.parked, self.failures = monotonic(), 0, 0
                if self.woken in ready:
                    self._drain(self.woken)
                    self._reap()
        finally:
            if self._is_ours():
                place.remove(self.at, self.name)

    def _leave(self, *_: object) -> None:
        self.asked_to_leave = True

    def _park(self) -> None:
        """Fork a worker that takes the next command."""
        ourselves = os.getpid()
        self.copies.learn()
        self.parked = os.fork()
        if self.parked:
            return
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != ourselves:
                os._exit(0)
            os.close(LOCK)  # or it would be held as long as the command takes
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            taking = self.taking
            Worker(
                self.listener,
                self.face,
                begun=lambda: _tell(taking),
                stale=self.is_stale,
                coerced=self.coerced,
                copies=self.copies,
            ).serve()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.parked:
                # it may have told us that it took a command, and be done with it already
                if not self._drain(self.taken):
                    self.failures += 1
                self.parked = 0

    def _drain(self, descriptor: int) -> bytes:
        try:
            return os.read(descriptor, 4096)
        except BlockingIOError:
            return b""

    # -- whether it is still wanted

    def is_stale(self) -> bool:
        """Whether a file of what was imported has changed."""
        try:
            return any(_state(path) != state for path, state in self.loaded)
        except OSError:
            return True

    def _is_wanted(self) -> bool:
        off = bool(self.switch) and os.path.exists(self.switch)
        return (
            not off and self._is_ours() and not self.is_stale() and not is_alone({os.getpid(), self.parked})
        )

    def _is_ours(self) -> bool:
        try:
            return os.stat(self.name, dir_fd=self.at).st_ino == self.socket
        except OSError:
            return False


def _tell(taking: int) -> None:
    try:
        os.write(taking, b"t")
    except OSError:  # nobody is there any more
        pass


def _listen(at: int, name: str) -> socket.socket:
    """The socket; who holds the lock may remove what a killed process left there."""
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"/proc/self/fd/{at}/{name}")
    os.chmod(name, 0o600, dir_fd=at)
    listener.listen(BACKLOG)
    return listener


def _loaded() -> list[tuple[str, tuple[int, int, int]]]:
    """The files that must be what they were. In an installation they all change together, and the client asks at the
    name of another `isolated.py` then; in a working copy each of them may change.
    """
    ours = [
        path
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "lamina" and (path := getattr(module, "__file__", None))
    ]
    if "/site-packages/" in __file__ or "/dist-packages/" in __file__:
        ours = [__file__]
    return [(path, _state(path)) for path in ours]


def _state(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _is_coerced() -> bool:
    """Whether LC_CTYPE is Python's own doing: we were started without it."""
    with open("/proc/self/environ", "rb", buffering=0) as file:
        given = file.read(1 << 16).split(b"\0")
    return "LC_CTYPE" in os.environ and not any(one.startswith(b"LC_CTYPE=") for one in given)
