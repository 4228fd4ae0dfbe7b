"""The directory in which Lamina keeps everything.

    /var/lib/lamina  (root)   or   $XDG_DATA_HOME/lamina  (anybody else)       mode 0700, owned by its user
    ├── version               the schema of what follows
    ├── marks                 "user" where overlayfs' marks in layers are of that family, and not there where they are
    │                         `trusted.`, as root of the machine has them
    ├── containers/<id>/      one directory a container; who holds the flock on its `lock` looks after it
    │   ├── lock
    │   ├── container.json    what was asked, and of which overlays the root consists
    │   ├── state.json        its first process, once it was started
    │   ├── exit.json         how it ended
    │   ├── spec.json         the OCI runtime specification
    │   ├── log               what it wrote
    │   ├── upper-N work-N    the writable layer of overlay N, and the kernel's scratch space beside it
    │   ├── apply/            the journal of what was applied to the host, and the originals
    │   └── skeleton/N        mount points standing in for a directory that has mounts below it (rootless)
    ├── names/<name>          → id, a symbolic link: taken with one exclusive create
    ├── running/<id>          → name, one for each container that somebody looks after, or should: what to clean up
    │                         after a killed engine is found without reading every container
    ├── blobs/sha256/<hex>    content by its digest: manifests, configs, compressed layers; see blobs.py
    ├── layers/<id>/          an immutable layer: fs/ and layer.json; see layers.py
    ├── images/               records, their names, pins; see images.py
    ├── volumes/<name>/       _data/ and volume.json; see volumes.py
    ├── networks/<name>/      network.json and who has which address; made by the first one, see networks.py
    ├── leases/<id>           what somebody is about to use; see leases.py
    ├── claims/<key>          who is making what others want as well; see claims.py
    ├── events/               what happened; made by the first event, see events.py
    ├── ids/                   which containers have ids of their own, and which; made by the first, see ranges.py
    ├── empty/                an empty directory: the second layer of what is read-only
    ├── merged/               another one: where every container's root is attached, in its own mount namespace
    ├── cache/                what can be made anew, such as compiled seccomp filters
    └── tmp/                  what is being made or removed; emptied when nobody holds it

No global lock, no database. Records are staged and renamed; see record.py.
"""

from __future__ import annotations

import os
from errno import EDQUOT, EEXIST, ENOENT, ENOSPC, ENOTDIR
from stat import S_IMODE, S_ISDIR

from lamina.errors import Corrupt, InvalidInput, KernelError, Unsupported
from lamina.linux.procfs import has_trusted_attributes
from lamina.store.way import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from typing import NoReturn

SCHEMA = 2
_OF_CONTAINERS = (b"containers", b"names", b"running", b"empty", b"merged", b"cache", b"tmp")
_OF_IMAGES = (  # since schema 2
    *(b"blobs", b"blobs/sha256", b"blobs/sha512", b"blobs/partial", b"layers"),
    *(b"images", b"images/records", b"images/names", b"images/pinned", b"images/removed"),
    *(b"volumes", b"leases", b"claims"),
)
# every directory with its mode, parents first; `empty` is seen inside containers, by any user of theirs
DIRECTORIES = {name: 0o755 if name == b"empty" else 0o700 for name in (*_OF_CONTAINERS, *_OF_IMAGES)}
_KNOWN = frozenset((b"version", b"marks", b"events", b"networks", b"ids", *DIRECTORIES))
_ELSEWHERE = "name a writable directory with --root or LAMINA_ROOT"


def default_root() -> bytes:
    """Where containers are kept when nobody says: $LAMINA_ROOT, else the system's place or the user's."""
    if asked := os.environb.get(b"LAMINA_ROOT"):
        return asked
    if os.geteuid() == 0:
        return b"/var/lib/lamina"
    data = os.environb.get(b"XDG_DATA_HOME", b"")
    if not data.startswith(b"/"):  # the XDG specification: a relative one counts as none
        home = os.environb.get(b"HOME", b"")
        if not home.startswith(b"/"):
            import pwd

            home = os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
        data = home + b"/.local/share"
    return data + b"/lamina"


class Store:
    """An open store, made if it is not there. All paths are absolute bytes, free of symbolic links.

    Raises InvalidInput for a directory that is something else, Unsupported for a newer store, KernelError.
    """

    def __init__(self, root: str | bytes | PathLike[str] | PathLike[bytes] | None = None) -> None:
        self.limit: int | None = None  # bytes that layers and blobs may take, if whoever opened it said so
        asked = default_root() if root is None else os.fsencode(root)
        if not asked or b"\0" in asked:
            raise InvalidInput(f"open store {asked!r}: not a path")
        try:
            self.path: bytes = resolve(asked)
        except OSError as error:
            raise KernelError(
                "open store", error.errno or ENOENT, os.fsdecode(error.filename or asked), remedy=_ELSEWHERE
            ) from None
        path = self.path
        self.containers: bytes = path + b"/containers"
        self.names: bytes = path + b"/names"
        self.running: bytes = path + b"/running"
        self.blobs: bytes = path + b"/blobs"
        self.layers: bytes = path + b"/layers"
        self.images: bytes = path + b"/images"
        self.volumes: bytes = path + b"/volumes"
        self.networks: bytes = path + b"/networks"
        self.leases: bytes = path + b"/leases"
        self.claims: bytes = path + b"/claims"
        self.events: bytes = path + b"/events"
        self.ids: bytes = path + b"/ids"
        self.empty: bytes = path + b"/empty"
        self.merged: bytes = path + b"/merged"
        self.cache: bytes = path + b"/cache"
        self.tmp: bytes = path + b"/tmp"
        try:
            self._open()
        except OSError as error:
            if isinstance(error, KernelError):
                raise
            where = error.filename if isinstance(error.filename, bytes) else path
            raise KernelError(
                "open store",
                error.errno or ENOENT,
                os.fsdecode(where),
                remedy=_ELSEWHERE,
            ) from None

    def __repr__(self) -> str:
        return f"Store({os.fsdecode(self.path)!r})"

    def _open(self) -> None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = self._make()
        if not S_ISDIR(found.st_mode):
            raise KernelError(
                "open store",
                ENOTDIR,
                os.fsdecode(self.path),
                remedy="name an empty or new directory with --root or LAMINA_ROOT",
            )
        if found.st_uid != os.geteuid():
            raise InvalidInput(
                f"open store {os.fsdecode(self.path)}: it belongs to uid {found.st_uid}, this is uid {os.geteuid()}",
                remedy="every user has a store of their own; name yours with --root or LAMINA_ROOT",
            )
        version = self._version()
        if version is None:
            self._furnish()
        elif version < SCHEMA:
            self._migrate()
        elif version > SCHEMA:
            raise Unsupported(
                f"open store {os.fsdecode(self.path)}: written by a newer Lamina (schema {version})",
                remedy="upgrade Lamina, or name another store with --root",
            )
        if found.st_uid == 0:
            self._check_marks()
        if (
            S_IMODE(found.st_mode) != 0o700
        ):  # CVE-2021-41103: host users must not reach set-uid files in layers
            os.chmod(self.path, 0o700)

    def _make(self) -> os.stat_result:
        _make_above(self.path)
        make_directory(self.path, 0o700, exist_ok=True)
        return os.stat(self.path)

    def _version(self) -> int | None:
        try:
            descriptor = os.open(self.path + b"/version", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            text = os.read(descriptor, 64).strip()
        finally:
            os.close(descriptor)
        if not text.isdigit():
            raise Corrupt(f"open store {os.fsdecode(self.path)}: its version file says {text!r}")
        return int(text)

    def _furnish(self) -> None:
        """Make a new store, or go on with one whose making was interrupted or is going on beside us."""
        foreign = [
            name for name in os.listdir(self.path) if name not in _KNOWN and not name.startswith(b"version.")
        ]
        if foreign:
            raise InvalidInput(
                f"open store {os.fsdecode(self.path)}: not a store of Lamina's, and not empty",
                remedy="name an empty or new directory with --root or LAMINA_ROOT",
            )
        os.chmod(self.path, 0o700)
        for name, mode in DIRECTORIES.items():
            make_directory(self.path + b"/" + name, mode, exist_ok=True)
        spread(self.tmp)
        if not has_trusted_attributes():
            self._write(b"marks", b"user\n")
        self._write_version()

    def _check_marks(self) -> None:
        """Root of the machine and root of another user namespace, who may be the same user, mount with other marks:
        what the one has deleted or replaced would be there again for the other.
        """
        trusted = has_trusted_attributes()
        if os.path.lexists(self.path + b"/marks") is not trusted:
            return
        family, whose = ("user", "a user namespace") if trusted else ("trusted", "the machine")
        raise Unsupported(
            f"open store {os.fsdecode(self.path)}: it was made by root of {whose}, and its layers are marked by "
            f"attributes {family}.overlay.*, which are not those that are used here",
            remedy="use it where it was made, or name another store with --root or LAMINA_ROOT",
        )

    def _migrate(self) -> None:
        """From any older schema to this one: each step may be repeated, and be taken by several at once.

        1 → 2    what images need is added. Containers are as they were, those that run meanwhile as well.
        """
        for name in _OF_IMAGES:
            make_directory(self.path + b"/" + name, 0o700, exist_ok=True)
        spread(self.tmp)
        self._write_version()

    def _write_version(self) -> None:
        """Last of all: who is killed before leaves the older schema, and the next one begins again."""
        self._write(b"version", b"%d\n" % SCHEMA)

    def _write(self, name: bytes, data: bytes) -> None:
        stage = self.path + b"/version.%d.%s" % (os.getpid(), os.urandom(4).hex().encode())
        descriptor = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(stage, self.path + b"/" + name)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_above(path: bytes) -> None:
    """The directories above *path*, those that are missing with a mode that lets nobody exchange what is in them."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        _make_above(above)
        make_directory(above, 0o755, exist_ok=True)


def make_directory(path: bytes, mode: int, *, exist_ok: bool = False) -> None:
    """mkdir(2) with exactly *mode*, whatever the caller's umask, which is not touched."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not exist_ok:
            raise
        return
    os.chmod(path, mode)


def spread(directory: bytes) -> None:
    """Let ext4 give each directory in *directory* a group of blocks of its own (chattr +T, ext4(5), FS_TOPDIR_FL).

    Without a journal ext4 looks long for an inode that was not deleted a moment ago, in the group of the directory
    above: where stages come and go, making a file took ten times as long. Other file systems know no such flag.
    """
    from fcntl import ioctl

    from lamina.linux.constants import FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = bytearray(8)
        ioctl(descriptor, FS_IOC_GETFLAGS, flags)
        wanted = int.from_bytes(flags, "little") | FS_TOPDIR_FL
        ioctl(descriptor, FS_IOC_SETFLAGS, wanted.to_bytes(8, "little"))
    except OSError:
        pass
    finally:
        os.close(descriptor)


def raise_storage_error(error: OSError, doing: str, path: bytes) -> NoReturn:
    """Raise *error*, met while *doing* something in the store at *path*, as one of Lamina's own."""
    if isinstance(error, KernelError):
        raise error
    where = error.filename if isinstance(error.filename, bytes) else path
    raise KernelError(
        doing,
        error.errno or EEXIST,
        os.fsdecode(where),
        remedy={
            ENOSPC: "free some space, or name another store with --root",
            EDQUOT: "free some space within your quota",
        }.get(error.errno or 0, ""),
    ) from error
