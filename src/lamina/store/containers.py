"""The directories of containers: made, found, held, judged and moved away (burial.py removes them).

Whoever looks after a container (the engine that runs it, somebody who removes or applies it) holds an exclusive
flock on its `lock`. The kernel gives it up with the holder's life, so the state of a container is derived and cannot
be stale:

    exit.json is there                          exited
    the same, "restarting" in it, lock held     restarting: whoever looks after it starts it again in a moment
    state.json there, lock held                 running; or paused, where the file `paused` is there
    state.json there                            running, if its process lives (only the engine can tell): what
                                                looked after it was killed; else dead
    none of these                               created

The marks `paused`, `stopped`, `carried`, `again` and `kept` say something by being there. `paused` is made before the
freezing and goes after the thawing. `stopped`: somebody wants it to stay stopped; made before the signal is sent, gone
with the next start. `stopped` and `carried` tell of the signal whose default action is carried out by a SIGKILL.
`again`: it is being ended to be started again, whatever its policy says (health checks). `kept` names the process that
will start it again in a moment, so that its end does not remove it.

Lock order: a container's lock first, then the turn on its states (snapshots.py), `joining` (lock.py), the turn on its
directory, and last that on names (names.py) or on images (images.py); nobody ever waits for two containers.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.linux.fd import Fd
from lamina.store import lock, names, record
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.tree import empty, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from lamina.store.durable import Batch
    from lamina.store.root import Store
    from lamina.store.tree import Remove

CREATED, RUNNING, EXITED, DEAD = "created", "running", "exited", "dead"
PAUSED, RESTARTING = "paused", "restarting"
# those in which something of it runs, or will in a moment
LIVING = (RUNNING, PAUSED, RESTARTING)
# markers
PAUSED_MARK, STOPPED_MARK, CARRIED_MARK = "paused", "stopped", "carried"
KEPT_MARK, AGAIN_MARK = "kept", "again"
GROUPED_MARK = "grouped"  # control groups were made for it while it ran
_LOCK = b"/lock"

# the types of fields, and those without which nobody can do anything: what is something else was damaged, or means
# something else to a newer version
_FIELDS: dict[str, tuple[dict[str, type | tuple[type, ...]], tuple[str, ...]]] = {
    "container": (
        {
            **dict.fromkeys(("id", "name", "image", "image_id", "cgroup", "snapshot"), str),
            **dict.fromkeys(("created", "moment"), int),
            **dict.fromkeys(("command", "overlays", "warnings", "volumes", "made"), list),
            **dict.fromkeys(("layers", "base_layers", "left"), list),
            **dict.fromkeys(("labels", "options", "config", "health", "owner", "made_by"), dict),
            **dict.fromkeys(("freezing", "rewinding"), dict),
            "stop_timeout": (int, float),
            "stop_signal": (int, str),
        },
        ("id", "name", "image", "command", "created"),
    ),
    "state": (
        {
            **dict.fromkeys(("pid", "start_time", "started", "restarts"), int),
            **dict.fromkeys(("supervisor", "joining", "cgroup"), dict),
            "boot": str,
            "pause": (int, float),
            "notes": list,
        },
        ("pid",),
    ),
    "exit": (dict.fromkeys(("status", "finished", "oom_kills", "restarts"), int), ("status",)),
    "failed": ({"status": int, "message": str}, ("status",)),
}


class Home:
    """The directory of one container. `path` is absolute bytes."""

    __slots__ = ("_lock", "id", "path", "store")

    def __init__(self, store: Store, identity: str) -> None:
        self.store: Store = store
        self.id: str = identity
        self.path: bytes = store.containers + b"/" + identity.encode()
        self._lock: lock.Lock | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the container's lock."""
        return self._lock is not None and self._lock.held

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id, as people read it."""
        return self.id[:12]

    @property
    def shown(self) -> str:
        """How messages call it, so that people know it again: its name, or `short_id` where no record has it."""
        try:
            return str((self.read("container") or {}).get("name") or self.short_id)
        except (Corrupt, OSError):
            return self.short_id

    def exists(self) -> bool:
        """Whether the container is there at all."""
        return os.path.lexists(self.path)

    # -- records

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace the record *name* ("container", "state", "exit", "spec"). Needs the lock. Raises KernelError."""
        try:
            record.write(self.path, name.encode() + b".json", content)
        except OSError as error:
            raise_storage_error(error, "write record", self.path)

    def read(self, name: str) -> dict[str, Any] | None:
        """The record *name*, None where there is none. Raises Corrupt."""
        try:
            found = record.read_light(self.path, name.encode() + b".json")
            if found is not None:
                kinds, needed = _FIELDS.get(name, ({}, ()))
                record.check(found, kinds, needed, f"{os.fsdecode(self.path)}/{name}.json")
        except Corrupt as error:
            error.remedy = f"'lamina rm -f {self.short_id}' removes the container"
            raise
        return found

    def has(self, name: str) -> bool:
        """Whether there is such a record."""
        return os.path.lexists(self.path + b"/" + name.encode() + b".json")

    def drop_record(self, name: str) -> None:
        """Remove the record *name*, if it is there. Needs the lock."""
        _unlink(self.path + b"/" + name.encode() + b".json")

    def asked(self) -> dict[str, Any]:
        """The record of what was asked. Raises NotFound when the container is gone or was never finished."""
        found = self.read("container")
        if found is None:
            raise no_such(self.short_id)
        if found.get("id") != self.id:
            raise Corrupt(f"container {self.short_id}: its record is that of {str(found.get('id'))[:12]}")
        return found

    def make_durable(self) -> None:
        """Wait until the records and the log are on the disk."""
        logs = (b"log", b"ctr.log", self.id.encode() + b"-json.log")  # of the log drivers
        record.make_durable(self.path, b"container.json", b"state.json", b"exit.json", *logs)

    def turn(self) -> lock.Lock:
        """The right to change what is kept of it, waited for: a lock on the directory. Raises NotFound."""
        try:
            return lock.turn(self.path, lock.LOCK_EX)
        except FileNotFoundError:
            raise no_such(self.short_id) from None

    def change_asked(
        self,
        change: Callable[[dict[str, Any]], dict[str, Any] | None],
        batch: Batch | None = None,
        lasting: bool = True,
    ) -> dict[str, Any]:
        """Replace the record of what was asked by what *change* makes of it (None: leave it); returns the one that is
        there now. It is the last record of *batch*, which is published then; for *lasting* see `Batch.write`.

        For whoever: those who do so take turns; the container's lock is not needed. Raises NotFound, Corrupt,
        KernelError.
        """
        with self.turn():
            asked = self.asked()
            changed = change(asked)
            try:
                if batch is None:
                    if changed is not None:
                        self.write("container", changed)
                else:
                    if changed is not None:
                        batch.write(self.path, b"container.json", changed, what="record", lasting=lasting)
                    batch.publish()
            except OSError as error:
                if not self.exists():  # removed while we changed it
                    raise no_such(self.short_id) from None
                raise_storage_error(error, "write record", self.path)
            return asked if changed is None else changed

    # -- the lock

    def hold(self) -> bool:
        """Take the lock if nobody has it. Raises NotFound when the container is gone."""
        try:
            taken = lock.take_from_lookers(self.path + _LOCK)
        except FileNotFoundError:
            raise no_such(self.short_id) from None
        if taken is None:
            return False
        self._lock = taken
        return True

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()

    @property
    def lock_fd(self) -> int:
        """The descriptor of the lock that this object holds, -1 where it holds none."""
        return -1 if self._lock is None else self._lock.fd

    def inherit(self, descriptor: int) -> None:
        """The lock is held by *descriptor*, which this process had open before it executed this program."""
        self._lock = lock.Lock(Fd(descriptor))

    def is_looked_after(self) -> bool:
        """Whether anybody, this process included, holds the lock."""
        if self.held:
            return True
        try:
            return lock.is_held(self.path + _LOCK)
        except FileNotFoundError:
            return False

    def state(self, lives: Callable[[dict[str, Any]], bool] | None = None) -> str:
        """One of the states in the module's text. *lives* says whether the process of a state record is still there;
        without it, whom nobody looks after counts as dead. Raises Corrupt.
        """
        held = self.is_looked_after()  # before the records: the holder writes exit.json before it lets go
        if self.has("exit"):
            end = self.read("exit") if held else {}
            if end is not None:  # else it was started again in this moment
                return RESTARTING if end.get("restarting") else EXITED
        if not self.has("state"):
            return CREATED
        if not held and not (lives is not None and (state := self.read("state")) and lives(state)):
            if self.is_looked_after() or self.has("exit"):  # started since the first look, and over perhaps
                return self.state(lives)
            return DEAD
        return PAUSED if self.is_marked(PAUSED_MARK) else RUNNING

    # -- markers: files that say something by being there; anybody may make them

    def set_mark(self, marker: str, text: str = "") -> None:
        """Make *marker*, whole with its *text*. Raises NotFound when the container is gone, KernelError.

        A text is where a symbolic link leads: that takes no block of a disk, so it can be said on one that is full.
        """
        place = self.path + b"/" + marker.encode()
        stage = place + b".%s" % os.urandom(4).hex().encode()
        try:
            if text:
                os.symlink(text.encode(), stage)
            else:
                os.close(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.rename(stage, place)
        except FileNotFoundError:
            raise no_such(self.short_id) from None
        except OSError as error:
            error.filename = stage  # of a link it is what it leads to
            raise_storage_error(error, "mark container", self.path)

    def drop_mark(self, marker: str) -> None:
        """Remove the file *marker*, if it is there."""
        _unlink(self.path + b"/" + marker.encode())

    def is_marked(self, marker: str) -> bool:
        """Whether the file *marker* is there."""
        return os.path.lexists(self.path + b"/" + marker.encode())

    def mark_text(self, marker: str) -> str:
        """What *marker* says, "" where that is nothing, or it is not there."""
        try:
            return os.readlink(self.path + b"/" + marker.encode()).decode(errors="replace")
        except OSError as error:
            if error.errno not in (ENOENT, EINVAL):  # there is none, or it is a file: it says nothing
                raise
            return ""

    # -- the marks of those who are looked after

    def mark(self, name: str) -> None:
        """Have the container found by `abandoned` if its holder dies; *name* is the one it is about to take.

        Needs the lock. The mark is a symbolic link for the same reason as a name is one: made and filled at once.
        """
        place = os.fsdecode(self.store.running) + "/" + self.id
        try:
            os.symlink(name, place)
        except FileExistsError:  # of a holder that died
            os.unlink(place)
            os.symlink(name, place)

    def remark(self, name: str) -> None:
        """The container is called *name* from now on. Nobody need look after it."""
        place = os.fsdecode(self.store.running) + "/" + self.id
        if os.path.lexists(place):
            stage = os.fsdecode(self.path) + "/mark." + os.urandom(4).hex()
            os.symlink(name, stage)
            os.rename(stage, place)

    def unmark(self) -> None:
        """There is nothing left to clean up."""
        _unlink(self.store.running + b"/" + self.id.encode())

    def is_in_hand(self) -> bool:
        """Whether it has the mark: somebody looks after it, or did, and has not cleaned up."""
        return os.path.lexists(self.store.running + b"/" + self.id.encode())

    def marked_name(self) -> str | None:
        """The name in the mark: all that is known of a container that was never written down."""
        try:
            name = os.readlink(os.fsdecode(self.store.running) + "/" + self.id)
        except OSError:
            return None
        return name if names.is_name(name) else None

    # -- the end

    def discard(self, name: str | None, remove: Remove = remove_tree) -> None:
        """Remove the container, whose *name* is free afterwards. Needs the lock, which is given up.

        *remove* removes one tree. When it raises (PermissionError for files of a container's subordinate users),
        the container is gone already, and what is left of it waits in `store.tmp` for `burial.bury_all`.
        """
        try:
            os.rename(self.path, self.grave)
        except FileNotFoundError:
            return
        # the name not before: killed here, we leave a name without a container, not a container without its name
        if name := name or self.marked_name():
            names.drop_stale(self.store.names, name, self.store.containers)
        else:  # its record is damaged
            names.drop_all(self.store.names, self.id)
        self.unmark()
        try:
            empty(self.grave, remove)
        finally:
            self.release()

    @property
    def grave(self) -> bytes:
        """Where the directory is while it is being removed."""
        return self.store.tmp + b"/" + self.id.encode()


def create(store: Store, name: str | None) -> tuple[Home, str]:
    """A new container, held and marked, under *name* or a random one; there is nothing but the lock in it.

    Raises InvalidInput, Conflict (the name is taken) or KernelError.
    """
    if name is not None:
        names.check_name(name)
    try:
        home = _make(store)
    except OSError as error:
        raise_storage_error(error, "create container", store.containers)
    try:
        return home, _name(home, name)
    except BaseException as error:
        home.discard(None)
        if isinstance(error, OSError):
            raise_storage_error(error, "create container", store.containers)
        raise


def _make(store: Store) -> Home:
    for attempt in range(100):
        home = Home(store, names.new_id())
        try:
            make_directory(home.path, 0o700)
            # waits for who is just looking, or cleaning up
            home._lock = lock.take(home.path + _LOCK, lock.LOCK_EX, create=True)
            return home
        except FileNotFoundError:
            # somebody who cleans up took the directory without a lock for a left-over; or the store itself is gone
            if attempt == 99 or not os.path.isdir(store.containers):
                raise
        except OSError:
            if os.path.lexists(home.path):
                remove_tree(home.path)
            raise
    raise Conflict("create container: others remove it again and again")


def _name(home: Home, asked: str | None) -> str:
    store = home.store
    for attempt in range(64):
        name = names.random_name(attempt) if asked is None else asked
        home.mark(name)
        try:
            names.take(store.names, name, home.id, store.containers)
            return name
        except Conflict:
            if asked is not None:
                raise
            home.unmark()
    raise Conflict("create container: no free random name found", remedy="choose one with --name")


def identities(store: Store) -> list[str]:
    """The ids of all containers, those just being made included, in no order."""
    return names.ids(os.listdir(os.fsdecode(store.containers)))


def find(store: Store, reference: str) -> Home:
    """The container with the id, the name, or the only one whose id begins with *reference*, in this order (docker's).

    A `/` before it is none of it: docker's `inspect` shows names so, and takes them so.
    Raises NotFound, or InvalidInput when several ids begin so. *reference* is never used as a path unchecked.
    """
    home = _find(store, reference.removeprefix("/"))
    if home is None:
        raise no_such(reference)
    return home


def no_such(reference: str) -> NotFound:
    """The error for a *reference* to a container that is not there, or not any more."""
    return NotFound(f"container {reference}: no such container", remedy="'lamina ps -a' lists what there is")


def _find(store: Store, reference: str) -> Home | None:
    if names.is_id(reference) and (home := Home(store, reference)).exists():
        return home
    try:
        owner = names.holder(store.names, names.check_name(reference))
    except InvalidInput:
        return None
    if owner is not None and (home := Home(store, owner)).exists():
        return home
    if names.is_id(reference) or not names.is_id_prefix(reference):
        return None
    alike = [one for one in os.listdir(os.fsdecode(store.containers)) if one.startswith(reference)]
    identity = names.only_one("container", reference, [*filter(names.is_id, alike)])
    return None if identity is None else Home(store, identity)


def abandoned(store: Store, looked_after: set[str] | None = None) -> Iterator[Home]:
    """Containers whose holder died, each held for the caller, who cleans up and then calls `unmark` or `discard`. The
    ids of the others are added to *looked_after*.

    Costs one attempt to lock for each container that is looked after, nothing for those that rest.
    """
    others = set() if looked_after is None else looked_after
    marked = names.ids(os.listdir(os.fsdecode(store.running)))
    every = lock.are_held(store.containers, [one.encode() for one in marked], _LOCK[1:])
    for identity, is_held in zip(marked, every, strict=True):
        if is_held:
            others.add(identity)
            continue
        home = Home(store, identity)
        try:
            if home.hold():
                yield home
        except (FileNotFoundError, NotFound):
            if not home.exists():  # killed between removing the container and its mark
                name = home.marked_name()
                if name is not None:
                    names.drop_stale(store.names, name, store.containers)
                home.unmark()


def unfinished(store: Store, among: Iterable[str] | None = None) -> Iterator[Home]:
    """Containers, *among* those ids or all, that were never written down because their maker died, each held."""
    for identity in identities(store) if among is None else among:
        home = Home(store, identity)
        if os.path.lexists(home.path + b"/container.json"):
            continue
        try:
            if home.hold():
                if os.path.lexists(home.path + b"/container.json"):
                    home.release()
                else:
                    yield home
        except NotFound:
            try:
                os.rmdir(home.path)  # its maker died, or finds out and takes another id
            except OSError:
                pass


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
