"""What is kept of a container, and which state follows from it.

    <root>/                  0700; /run/lamina-runtime, or $XDG_RUNTIME_DIR/lamina-runtime
    ├── .seccomp/, .plans/   compiled filters and plans by content (recipe.py)
    └── <id>/                0700
        ├── lock             flock: somebody creates, starts or deletes it
        ├── config.json      the specification it was made from
        ├── state.json       who its first process is, where its cgroups are; staged and renamed
        └── start            the socket on which its first process waits for its start; gone afterwards

Nothing says "running": what a container is doing is asked of the kernel, every time (`Container.status`).
"""

from __future__ import annotations

import os
import stat
import time
from errno import ECONNREFUSED, EINVAL, ENOENT, ENOTEMPTY

from lamina.document import decode, encode
from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.linux.descriptors import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, exchange, flock
from lamina.linux.fd import Fd, owned
from lamina.linux.messages import SOCK_DGRAM, bound, connected
from lamina.runtime.identity import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Record = dict[str, Any]
    Spec = dict[str, Any]

OCI_VERSION = "1.2.1"
CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
LONGEST_ID = 255
LARGEST = 64 << 20
# seconds that one transition waits for another
PATIENCE = 10.0
REMOVALS = 100
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_FURTHER = _LETTERS | frozenset(b"+-.")


def checked_id(text: str) -> str:
    """*text* if it can be a container's id: [A-Za-z0-9_][A-Za-z0-9_+.-]*, at most 255 of them. Raises InvalidInput."""
    data = text.encode("utf-8", "surrogateescape")
    if not data or len(data) > LONGEST_ID or data[0] not in _LETTERS or not _FURTHER.issuperset(data):
        raise InvalidInput(
            f"container id {text!r}: invalid",
            remedy="letters, digits and _ + - . are possible, a letter, digit or _ comes first",
        )
    return text


def default_root() -> bytes:
    """Where containers are kept if nobody says otherwise. Root of a user namespace, as podman is without root, is a
    user who has a directory of his own (runc and crun ask the same).
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and not (runtime and _in_user_namespace()):
        return b"/run/lamina-runtime"
    return os.fsencode(runtime or f"/run/user/{os.geteuid()}") + b"/lamina-runtime"


def _in_user_namespace() -> bool:
    from lamina.linux.procfs import in_first_user_namespace

    return not in_first_user_namespace()


class Container:
    """A container's directory. `id` and `path`; everything else is read when it is asked for."""

    def __init__(self, root: bytes, identity: str) -> None:
        self.root, self.id = root, checked_id(identity)
        self.path = root + b"/" + identity.encode()
        self.pid = 0  # of the first process, for whoever created it
        self.notes: list[str] = []  # what differs from what was asked, said by whoever created it
        self._lock: Fd | None = None

    @staticmethod
    def make(root: bytes, identity: str) -> Container:
        """A new directory, locked. Raises Conflict when there is one of that id."""
        container = Container(root, identity)
        os.makedirs(root, 0o700, exist_ok=True)
        check_owner(root, os.stat(root))
        try:
            os.mkdir(container.path, 0o700)
        except FileExistsError:
            raise Conflict(
                f"create container {identity}: a container of that id already exists",
                remedy="delete it, or take another id",
            ) from None
        try:
            container.lock()
        except OSError:  # no descriptor or no room is left; who removes it meanwhile says NotFound
            container.remove()
            raise
        return container

    @staticmethod
    def find(root: bytes, identity: str) -> Container:
        """The container of that id. Raises NotFound; InvalidInput where its record is not ours."""
        container = Container(root, identity)
        try:
            check_owner(root, os.stat(root))
            found = os.lstat(container.path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"container {identity} does not exist") from None
        check_owner(container.path, found)
        return container

    # -- the lock

    def lock(self, patience: float = PATIENCE) -> None:
        """Be the only one who changes it. Raises Conflict when somebody else is busy with it for so many seconds,
        NotFound when it is gone.
        """
        name = self.path + b"/lock"
        try:
            lock = Fd(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except FileNotFoundError:
            raise NotFound(f"container {self.id} does not exist") from None
        end = time.monotonic() + patience
        pause = 0.001
        while True:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    lock.close()
                    raise Conflict(
                        f"container {self.id}: another lamina-runtime is busy with it",
                        remedy="wait for it, or end it",
                    ) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        try:
            same = os.stat(name).st_ino == os.fstat(lock).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            lock.close()
            raise NotFound(f"container {self.id} does not exist")
        self._lock = lock

    def unlock(self) -> None:
        """Let others."""
        if self._lock is not None:
            flock(self._lock, LOCK_UN)
            self._lock.close()
            self._lock = None

    def busy(self) -> bool:
        """Whether somebody else is changing it."""
        try:
            with Fd(os.open(self.path + b"/lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)) as lock:
                flock(lock, LOCK_SH | LOCK_NB)
                flock(lock, LOCK_UN)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    # -- what is written down

    def record(self) -> Record:
        """What state.json says; empty where there is none (a creation that was killed early). Raises Corrupt."""
        data = self._read(b"state.json")
        if data is None:
            return {}
        try:
            return decode(data, os.fsdecode(self.path + b"/state.json"))
        except InvalidInput as error:
            raise Corrupt(error.message) from None

    def spec(self) -> Spec:
        """The specification it was made from."""
        data = self._read(b"config.json")
        if data is None:
            raise Corrupt(f"container {self.id}: its config.json is gone", remedy="delete --force it")
        return decode(data, os.fsdecode(self.path + b"/config.json"))

    def write(self, record: Record) -> None:
        """Write state.json: readers see the old one or the new one, whole."""
        self.write_file(b"state.json", (encode(record) + "\n").encode())

    def write_file(self, name: bytes, data: bytes) -> None:
        """Write a file of the directory at once or not at all."""
        path = self.path + b"/" + name
        stage = _stage(path, data, 0o600)
        try:
            exchange(stage, path)
        except OSError as error:  # the first one; or a file system that cannot do this
            if error.errno not in (ENOENT, EINVAL):
                raise
            os.rename(stage, path)
        else:
            # ext4 writes a file that takes another one's place to the disk at once (auto_da_alloc), and what is on the
            # disk takes time to be removed; nobody reads these files after a crash
            os.unlink(stage)

    def _read(self, name: bytes) -> bytes | None:
        try:
            with open(self.path + b"/" + name, "rb", buffering=0) as file:
                # room that is made and not needed is a mapping of memory: several times what reading such a file costs
                return file.read(min(LARGEST, max(os.fstat(file.fileno()).st_size + 1, 1 << 16)))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Remove the directory; what was removed before is no error, so an interrupted removal can be repeated."""
        names = (b"start", b"state.json.new", b"config.json.new", b"config.json", b"state.json", b"lock")
        for left in reversed(range(REMOVALS)):
            for name in names:
                try:
                    os.unlink(self.path + b"/" + name)
                except FileNotFoundError:
                    pass
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError as error:  # somebody who is late has made a lock for himself
                if error.errno != ENOTEMPTY or not left:
                    raise

    # -- what it is doing

    def status(self, record: Record | None = None) -> str:
        """`creating`, `created`, `running`, `paused` or `stopped`, as it is now."""
        record = self.record() if record is None else record
        if not record.get("pid"):
            return CREATING if self.busy() else STOPPED
        if not alive(record):
            return STOPPED
        if record.get("cgroup") and _frozen(record):
            return PAUSED
        return CREATED if self._waits() else RUNNING

    def _waits(self) -> bool:
        """Whether the first process still waits for its start: only it has the socket's other end."""
        try:
            self.start_socket().close()
        except OSError as error:
            if error.errno in (ENOENT, ECONNREFUSED):
                return False
            raise
        return True

    def start_socket(self) -> Fd:
        """A socket connected to the one on which the first process waits. OSError: ENOENT or ECONNREFUSED when it does
        not wait any more.
        """
        with Fd(os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            # the path itself may be too long for a socket
            return owned(connected, SOCK_DGRAM, b"/proc/self/fd/%d/start" % directory)

    def listen(self) -> Fd:
        """The socket for the first process to wait on."""
        with Fd(os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            return owned(bound, SOCK_DGRAM, b"/proc/self/fd/%d/start" % directory)

    def no_longer_waits(self) -> None:
        """The start was made: the socket has done its work."""
        try:
            os.unlink(self.path + b"/start")
        except FileNotFoundError:
            pass


def not_running(identity: str) -> Conflict:
    """What callers look for in the text: "container not running"."""
    return Conflict(f"container {identity}: container not running")


def alive(record: Record) -> bool:
    """Whether the first process lives: it is there, it is the same, and it is no zombie (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{record['pid']}/stat", "rb", buffering=0) as file:
            # the name of the program, field 2, may contain anything, also parentheses
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    same = int(fields[19]) == record.get("start_time") and record.get("boot") == boot_id()
    return same and fields[0] not in (b"Z", b"X")


def _frozen(record: Record) -> bool:
    from lamina.runtime.container.groups import reopen

    return bool(reopen(record["cgroup"]).frozen)


def state_document(container: Container, record: Record, status: str, pid: int | None = None) -> Record:
    """The state as the specification writes it (runtime.md#state), for hooks and for `state`."""
    document: Record = {"ociVersion": OCI_VERSION, "id": container.id, "status": status}
    pid = int(record.get("pid") or 0) if pid is None else pid
    if status != STOPPED:
        document["pid"] = pid
    document["bundle"] = record.get("bundle") or ""
    if record.get("annotations"):
        document["annotations"] = record["annotations"]
    return document


def containers(root: bytes) -> Iterator[Container]:
    """Every container below *root*, by id."""
    try:
        check_owner(root, os.stat(root))
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        try:
            container = Container(root, os.fsdecode(name))
        except InvalidInput:
            continue
        if os.path.isdir(container.path):
            yield container


def check_owner(path: bytes, found: os.stat_result) -> None:
    """Whoever may write here decides what we execute, kill and remove. Raises InvalidInput for somebody else's
    directory, or one that is no directory.
    """
    ours = found.st_uid in (0, os.geteuid())
    sticky = found.st_mode & stat.S_ISVTX  # in such a one nobody can take the place of what we have made
    others = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    )
    if stat.S_ISDIR(found.st_mode) and ours and (sticky or not others):
        return
    why = "it is no directory"
    if stat.S_ISDIR(found.st_mode):
        why = "others may write there" if ours else f"it belongs to user {found.st_uid}"
    raise InvalidInput(
        f"keep containers in {os.fsdecode(path)}: {why}, and would decide what is run",
        remedy="name a --root of your own",
    )


def replace_file(path: bytes, data: bytes, mode: int) -> None:
    """Write a file so that readers see nothing, or what was there, or all of it."""
    os.rename(_stage(path, data, mode), path)


def _stage(path: bytes, data: bytes, mode: int) -> bytes:
    """Write a file beside *path*, to be renamed; its path."""
    stage = path + b".new"
    try:
        os.unlink(stage)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with Fd(os.open(stage, flags, mode)) as file:
        os.fchmod(file, mode)  # whatever the caller's umask
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
    return stage
