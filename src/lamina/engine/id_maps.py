"""Which ids of the host a user namespace of ours has; user_namespaces(7), subuid(5)."""

from __future__ import annotations

import os

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Mapping = dict[str, int]

HELPERS = ("newuidmap", "newgidmap")
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/sbin")
# the kernel takes 340 lines; nobody has so many ranges
MOST_RANGES = 100


@value
class IdMaps:
    """(id inside, id here, how many). `whole`: the user's subordinate range is mapped, not the own id alone."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]

    @property
    def whole(self) -> bool:
        """Whether there is more than the one own id."""
        return len(self.uids) > 1

    def outside(self, uid: int) -> int:
        """Which user here the user *uid* there is; -1 for none."""
        for first, outside, size in self.uids:
            if first <= uid < first + size:
                return outside + uid - first
        return -1

    def inside(self, uid: int) -> int:
        """The way back."""
        for first, outside, size in self.uids:
            if outside <= uid < outside + size:
                return first + uid - outside
        return -1

    @property
    def root(self) -> tuple[int, int]:
        """Which user and group here are 0 there, or the first that there is."""
        return min(self.uids)[1], min(self.gids)[1]

    def has(self, uid: int, gid: int) -> bool:
        """Whether both ids exist in the namespace."""
        return _covers(self.uids, uid) and _covers(self.gids, gid)

    def spec(self) -> dict[str, list[Mapping]]:
        """`uidMappings` and `gidMappings` of the specification."""
        return {"uidMappings": _mappings(self.uids), "gidMappings": _mappings(self.gids)}


def _mappings(lines: tuple[tuple[int, int, int], ...]) -> list[Mapping]:
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in lines]


def _covers(lines: tuple[tuple[int, int, int], ...], number: int) -> bool:
    return any(first <= number < first + size for first, _, size in lines)


def id_maps() -> IdMaps | None:
    """The maps for a container of this user: None for root, who needs no user namespace.

    Id 0 inside is the user; 1 and up are the user's subordinate ids where the host has newuidmap(1) and
    newgidmap(1), and nothing where it has not.
    """
    uid = os.geteuid()
    return None if uid == 0 else maps_for(uid, os.getegid(), _read, _has_helpers())


def subordinate(name: bytes) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
    """The ranges of the user *name*, who need not exist, in /etc/subuid and /etc/subgid: (1 and up, first, count)."""
    uids, gids = (_ranges(_read(path), name, -1) for path in ("/etc/subuid", "/etc/subgid"))
    return tuple(uids), tuple(gids)


def allotted() -> list[tuple[int, int]]:
    """Every range (first id, how many) that /etc/subuid and /etc/subgid give to anybody."""
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        for line in _read(path).split(b"\n"):
            fields = line.strip().split(b":")
            if len(fields) == 3 and all(field.isdigit() and len(field) <= 10 for field in fields[1:]):
                found.append((int(fields[1]), int(fields[2])))
    return found


def maps_for(uid: int, gid: int, read: Callable[[str], bytes], helpers: bool) -> IdMaps:
    """The maps of user *uid*; *read* reads /etc/passwd, /etc/subuid and /etc/subgid."""
    own = IdMaps(((0, uid, 1),), ((0, gid, 1),))
    if not helpers:
        return own
    name = _user_name(uid, read("/etc/passwd"))
    uids = _ranges(read("/etc/subuid"), name, uid)
    gids = _ranges(read("/etc/subgid"), name, uid)
    if not uids or not gids:
        return own
    return IdMaps((*own.uids, *uids), (*own.gids, *gids))


def _user_name(uid: int, passwd: bytes) -> bytes:
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 2 and fields[2] == b"%d" % uid:
            return fields[0]
    import pwd  # a user of a directory service, who is in no file

    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return b"%d" % uid


def _ranges(text: bytes, name: bytes, uid: int) -> list[tuple[int, int, int]]:
    """The ranges of a user, one after the other from id 1 on."""
    lines: list[tuple[int, int, int]] = []
    first = 1
    for line in text.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) != 3 or fields[0] not in (name, b"%d" % uid):
            continue
        if not (fields[1].isdigit() and fields[2].isdigit()) or len(fields[1]) > 10 or len(fields[2]) > 10:
            continue
        start, count = int(fields[1]), int(fields[2])
        if count and start + count <= 1 << 32 and len(lines) < MOST_RANGES:
            lines.append((first, start, count))
            first += count
    return lines


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 20) or b""
    except OSError:
        return b""


def _has_helpers() -> bool:
    return all(any(os.access(f"{d}/{helper}", os.X_OK) for d in _DIRECTORIES) for helper in HELPERS)
