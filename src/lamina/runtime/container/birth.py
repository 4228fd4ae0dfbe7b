"""Making a process that outlives its maker: its descriptors, its plan, and the talk with it until it is ready."""

from __future__ import annotations

import os
import stat
from errno import EMFILE, ENAMETOOLONG, ESRCH

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd, owned
from lamina.linux.messages import (
    MSG_DONTWAIT,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    connected,
    have_told,
    received,
    send,
    socketpair,
)
from lamina.runtime.init import init_file, sealed_file
from lamina.runtime.talk import FAILURE, PID, failure
from lamina.runtime.waits import CLONE_VFORK, CLONE_VM, Watch, reap
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import pidfd_send_signal

    from lamina.errors import StepFailed
    from lamina.linux.packed import Child
    from lamina.linux.program import Step
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.container.recipe import Recipe, Shape
    from lamina.runtime.talk import Numbers

    # the steps of a recipe, before lamina-walk and after: to say which of them failed
    Explained = Callable[[], tuple[list[Step], list[Step]]]
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it


# our own copies of what is passed lie above every number that the new process may have for it
ASIDE = 200
# that come with one message, at most
MOST_DESCRIPTORS = 14
# linux/sched.h; a process that is made by a kept recipe does not load `constants`
CLONE_NEWUSER, CLONE_INTO_CGROUP = 0x10000000, 0x200000000
SIGKILL = 9


@value
class Message:
    """One packet of the new process: `what` it says (nothing: it is at its end), descriptors, its pid here, and a pidfd
    of it (None before Linux 6.5).
    """

    what: bytes
    fds: tuple[Fd, ...]
    pid: int
    pidfd: Fd | None = None

    @property
    def fd(self) -> Fd | None:
        """The only descriptor, if there is one."""
        return self.fds[0] if self.fds else None


class Birth:
    """A process in the making. Descriptors are handed over by `give`, then `begin` starts it, then `hear` and `answer`.

    After `begin` its number and descriptor are `pid` and `pidfd`. `abandon` ends it; `close` lets go of our side.
    *about* gives what is to be started, for the words of an error.
    """

    def __init__(self, numbers: Numbers, about: Callable[[], Bundle] | None = None) -> None:
        self.numbers = numbers
        self._about = about
        self._watch = Watch()
        self.pid = -1
        self.pidfd: Fd | None = None
        self._first = False
        self._explained: Explained | None = None
        self._given: list[tuple[int, int]] = []
        self._held: list[Fd] = []
        self._channel, theirs = map(Fd, socketpair(SOCK_SEQPACKET))
        self._next = numbers.more
        try:
            with theirs as end:
                have_told(self._channel)
                self._give_as(end, numbers.channel)
            with init_file() as program:
                self._give_as(program, numbers.launcher)
        except BaseException:  # there may be no descriptor left
            self.close()
            raise

    def give(self, fd: int) -> int:
        """Hand a copy of *fd* over; the number it will have there."""
        number = self._next
        self._next += 1
        self._give_as(fd, number)
        return number

    def give_socket(self, fd: int) -> None:
        """Hand over the socket on which it will wait for its start."""
        self._give_as(fd, self.numbers.socket)

    def _give_as(self, fd: int, number: int) -> None:
        self._given.append((self._aside(fd), number))

    def _aside(self, fd: int) -> int:
        """A copy that nothing is put over while the new process's descriptors are put in order."""
        try:
            self._held.append(Fd(duplicate(fd, ASIDE + self.numbers.preserved)))
        except OSError as error:
            if error.errno != EMFILE:
                raise
            raise KernelError("start a process", EMFILE) from None
        return int(self._held[-1])

    @property
    def shape(self) -> Shape:
        """What a recipe must know of the descriptors: all but the plan have been given."""
        numbers = (*[number for _, number in self._given], self.numbers.program)
        return self.numbers.preserved, numbers, self._next

    def begin(
        self,
        recipe: Recipe,
        explained: Explained,
        *,
        strings: dict[str, list[bytes] | bytes] | None = None,
        stdio: tuple[int, int, int] = (0, 1, 2),
        cgroup: int = -1,
        map_ids: Callable[[int], None] | None = None,
        enter: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Start it as the *recipe* says, with the *strings* that it leaves open and the standard streams *stdio*.

        *cgroup* is a cgroup v2 directory to be born in. With CLONE_NEWUSER *map_ids* is called with its number, and
        `first` waits for one byte. *enter* are namespaces that a helper joins before (Program.spawn).
        """
        self._explained = explained
        plan = recipe.plan.fill({}, strings or {}) if recipe.plan.holes else recipe.plan
        with sealed_file(plan.image(self.numbers.channel)) as image:
            self._give_as(image, self.numbers.program)
        streams = [self._aside(fd) for fd in stdio]
        values = {f"stream{number}": fd for number, fd in enumerate(streams)}
        values.update({f"given{index}": fd for index, (fd, _) in enumerate(self._given)})
        self._spawn(recipe, values, cgroup, map_ids, enter)
        self._first = recipe.elsewhere

    def _spawn(
        self,
        recipe: Recipe,
        values: dict[str, int],
        cgroup: int,
        map_ids: Callable[[int], None] | None,
        enter: tuple[tuple[int, int], ...],
    ) -> None:
        flags = recipe.flags
        # a parent in vfork is stopped until execve: it could not write the maps that the child waits for
        sharing = CLONE_VM if flags & CLONE_NEWUSER else CLONE_VM | CLONE_VFORK
        if enter:
            sharing = 0
        into = CLONE_INTO_CGROUP if cgroup >= 0 else 0
        restore = _dumpable() if recipe.marks else None
        try:
            try:
                child = recipe.first.fill(values, {}).spawn(flags | sharing | into, cgroup, None, enter)
            except OSError as error:
                from lamina.runtime.failure import clone_failure

                raise clone_failure(error, bool(flags & CLONE_NEWUSER)) from error
            self.pid, self.pidfd = child.pid, child.pidfd
            self._release()
            if map_ids is not None:
                map_ids(child.pid)
                self.answer(b"m")
            if not sharing & CLONE_VFORK:
                # until it has executed lamina-walk it runs in our memory; its first packet or its end tells
                self._watch.ready(self.pid, self.pidfd, self._channel)
            self._check(child)
        except BaseException:
            self.abandon()
            raise
        finally:
            if restore is not None:
                restore()

    def _check(self, child: Child) -> None:
        """Whether it came as far as lamina-walk. Raises StepFailed."""
        if (failed := child.failure()) is not None:
            assert self._explained is not None
            raise self._failure(self._explained()[0], *failed)

    def hear(self) -> Message:
        """The next packet. Raises StepFailed when a step failed; an empty one means that it has executed its command
        or is gone. A pid that it says (after `elsewhere`) is taken note of, and not given.
        """
        while True:
            message = self._receive()
            if self._first and message.what == PID:
                self._become(message)
                continue
            if len(message.what) == FAILURE:
                assert self._explained is not None
                raise self._failure(self._explained()[1], *failure(message.what))
            return message

    def _failure(self, steps: list[Step], index: int, errno: int) -> StepFailed:
        from lamina.runtime.failure import step_failure

        return step_failure(steps, index, errno, bundle=self._about() if self._about is not None else None)

    def _become(self, message: Message) -> None:
        """The process that counts is another one; the first has done its work."""
        assert self.pidfd is not None
        first, self._first = self.pidfd, False
        self.pid, found = message.pid, message.pidfd
        if found is None:
            try:
                found = Fd(os.pidfd_open(message.pid))
            except ProcessLookupError:  # a program that waits for any child, or ignores SIGCHLD
                raise KernelError(
                    "pidfd_open",
                    ESRCH,
                    hint="it has ended, and something else in this program took its exit status",
                ) from None
        self.pidfd = found
        reap(first)
        first.close()

    def _receive(self) -> Message:
        assert self.pidfd is not None
        readable = self._watch.ready(self.pid, self.pidfd, self._channel)
        # whoever has ended may have said something before
        flags = 0 if self._channel in readable else MSG_DONTWAIT
        if self._first and self._channel not in readable:
            # the one that counts was born before the first one ended, or never: then the channel is at its end. Who it
            # is only it can say; given up it says so to nobody, and ends
            self._watch.hear_of_another(self._channel)
            flags = 0
        try:
            said = received(self._channel, 64, MOST_DESCRIPTORS, flags)
        except (BlockingIOError, ConnectionResetError):
            return Message(b"", (), 0)
        return Message(said.data, said.descriptors, said.sender[0] if said.sender else 0, said.pidfd)

    def answer(self, what: bytes) -> None:
        """Say something to the new process; that it is gone already is heard next."""
        try:
            send(self._channel, what)
        except OSError:
            pass

    def abandon(self) -> None:
        """End it, if it was begun, and wait for its end; also of another one that was born, and has not said who it is:
        while it is a zombie nobody can end its pid namespace (pid_namespaces(7)).
        """
        self.close()  # the other one finds nobody to say it to, and ends
        if self.pidfd is None:
            return
        try:
            pidfd_send_signal(self.pidfd, SIGKILL)
        except OSError:
            pass
        if self._first:
            self._watch.reap_group(self.pid)
        self._watch.reap(self.pidfd)

    def _release(self) -> None:
        for fd in self._held:
            fd.close()
        self._held.clear()

    def close(self) -> None:
        """Let go of our ends; the process lives on."""
        self._about = self._explained = (
            None  # whoever made us is behind these: a circle, and descriptors would stay
        )
        self._release()
        self._channel.close()


def _dumpable() -> Callable[[], None]:
    """Gives back to our memory what it is now: traceable by others of our user, or not (prctl(2))."""
    from lamina.linux.constants import PR_GET_DUMPABLE, PR_SET_DUMPABLE
    from lamina.linux.process import prctl

    before = prctl(PR_GET_DUMPABLE)

    def restore() -> None:
        if prctl(PR_GET_DUMPABLE) != before:
            prctl(PR_SET_DUMPABLE, before)

    return restore


def own_streams(streams: tuple[int, int, int]) -> tuple[int, ...]:
    """Those of 0, 1 and 2 that become pipes, sockets or terminals: a process's user has to own these to open them by
    name.
    """
    kinds = []
    for number, stream in enumerate(streams):
        try:
            found = os.fstat(stream)
        except OSError as error:
            raise Unsupported(f"pass standard stream {number}: it is closed") from error
        terminal = stat.S_ISCHR(found.st_mode) and os.isatty(stream)
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode) or terminal:
            kinds.append(number)
    return tuple(kinds)


def check_preserved(count: int) -> None:
    """Whether descriptors 3 to *count* + 2 are there to be passed on. Raises InvalidInput."""
    for number in range(3, 3 + count):
        try:
            os.fstat(number)
        except OSError:
            raise InvalidInput(
                f"pass descriptor {number} on: it is not open (--preserve-fds {count})"
            ) from None


def send_descriptor(path: bytes, fd: int, name: bytes) -> None:
    """Send *fd* over the unix socket at *path*, with *name* beside it, as runc does. Raises KernelError."""
    try:
        # the path itself may be too long for a socket
        directory, _, place = path.rpartition(b"/")
        with (
            Fd(os.open(directory + b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as above,
            owned(connected, SOCK_STREAM, b"/proc/self/fd/%d/%s" % (above, place)) as end,
        ):
            send(end, name, (int(fd),))
    except ValueError:
        raise KernelError("send a descriptor to", ENAMETOOLONG, os.fsdecode(path)) from None
    except OSError as error:
        raise KernelError("send a descriptor to", error.errno or 0, os.fsdecode(path)) from error
