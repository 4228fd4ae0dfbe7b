"""Which ranges of ids the containers of a store have, so that no two have an id in common (`--userns auto`).

A range is claimed by an empty file `ids/<first>-<count>-<id of the container>`, made before it is used. There is no
lock: whoever made his claim then reads all of them, and takes it back if another one overlaps, to try elsewhere. Two
who make theirs at the same moment may both do so; two who both stay is impossible, for the second to be made is read by
whoever made it after the first was there. A claim counts as long as its container's directory is there, so it is given
up by the same rename that removes the container, whatever is killed when; the file is cleared away by the next who
looks. user_namespaces(7), subuid(5).
"""

from __future__ import annotations

import os
import random

from lamina.errors import Conflict
from lamina.store import names
from lamina.store.root import make_directory, raise_storage_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.store.root import Store

    Range = tuple[int, int]

TRIES = 200


def take(store: Store, identity: str, pool: Iterable[Range], count: int) -> int:
    """Claim *count* ids for the container *identity* out of *pool*, ranges of (first id, how many); the first of them.

    They are this container's until its directory is gone, however often it is started. Raises Conflict when none are
    left, KernelError.
    """
    pool = tuple(pool)
    for attempt in range(TRIES):
        gaps = _gaps(pool, [taken for taken, _ in _claims(store)], count)
        if not gaps:
            raise Conflict(
                f"run: userns auto: of the ids that containers may have, no {count} in a row are free",
                remedy="remove containers, ask for fewer (auto:size=), or allot more in /etc/subuid and /etc/subgid",
            )
        # those who were in each other's way look for different places
        first = gaps[0][0] if not attempt else _anywhere(gaps, count)
        if _claim(store, identity, first, count):
            return first
    raise Conflict(
        "run: userns auto: others take each range of ids at the same moment", remedy="try it again"
    )


def drop(store: Store, identity: str) -> None:
    """Clear the claims of a container away that is gone."""
    for entry in _entries(store):
        if entry.endswith(f"-{identity}"):
            _clear(store, entry)


def _gaps(pool: tuple[Range, ...], taken: list[Range], count: int) -> list[Range]:
    """What is free, as far as *count* ids fit: (first id, how many)."""
    found = []
    for first, size in pool:
        at, end = first, first + size
        for begin, after in [*sorted((a, a + n) for a, n in taken if a < end and a + n > first), (end, end)]:
            if begin - at >= count:
                found.append((at, begin - at))
            at = max(at, after)
    return found


def _anywhere(gaps: list[Range], count: int) -> int:
    """One of the places where *count* ids fit, one behind the other from the beginning of each gap."""
    place = random.randrange(sum(size // count for _, size in gaps))
    for first, size in gaps:
        if place < size // count:
            return first + place * count
        place -= size // count
    raise AssertionError("there are as many places as were counted")


def _claim(store: Store, identity: str, first: int, count: int) -> bool:
    """Make a claim, and keep it if nobody else has an id of it."""
    place = store.ids + b"/%d-%d-%s" % (first, count, identity.encode())
    try:
        make_directory(store.ids, 0o700, exist_ok=True)
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise_storage_error(error, "claim ids", store.ids)
    others = (taken for taken, owner in _claims(store) if owner != identity)
    if any(begin < first + count and first < begin + size for begin, size in others):
        os.unlink(place)
        return False
    return True


def _claims(store: Store) -> list[tuple[Range, str]]:
    """Each range with the container whose it is; those of containers that are gone are cleared away."""
    found = []
    for entry in _entries(store):
        first, _, rest = entry.partition("-")
        count, _, identity = rest.partition("-")
        if not (first.isdigit() and count.isdigit() and names.is_id(identity)):
            continue
        if os.path.isdir(store.containers + b"/" + identity.encode()):
            found.append(((int(first), int(count)), identity))
        else:
            _clear(store, entry)
    return found


def _entries(store: Store) -> list[str]:
    try:
        return os.listdir(os.fsdecode(store.ids))
    except FileNotFoundError:
        return []


def _clear(store: Store, entry: str) -> None:
    try:
        os.unlink(store.ids + b"/" + os.fsencode(entry))
    except FileNotFoundError:
        pass
