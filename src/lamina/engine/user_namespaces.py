"""`--userns`, `--uidmap` and `--gidmap`: which ids of this machine the ids of a container are; with podman's meaning.

An ordinary user's own ids are numbered as in podman: 0 is the user, 1 and up are the subordinate ids, in their order.
These numbers are what a map of his says behind its first colon; root's says ids of this machine.
"""

from __future__ import annotations

import os

from lamina.engine.id_maps import IdMaps, allotted, id_maps, subordinate
from lamina.errors import InvalidInput, Unsupported
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.engine.design import Design
    from lamina.store.root import Store

    Line = tuple[int, int, int]
    Lines = tuple[Line, ...]

HOST, KEEP_ID, AUTO, NOMAP, PRIVATE = "host", "keep-id", "auto", "nomap", "private"
MODES = (HOST, KEEP_ID, AUTO, NOMAP, PRIVATE)
_OPTIONS = {KEEP_ID: ("uid", "gid", "size"), AUTO: ("size", "uidmapping", "gidmapping")}
LARGEST = 0xFFFFFFFE
MOST_LINES = 340  # the kernel's limit since 4.15
# podman's user whose subordinate ids are for containers of root's
POOL_OWNER = b"containers"
# ids that systemd and its like set aside for containers (systemd.io, UIDS-GIDS): root's where nobody is called so
POOL = (0x80000, 0x70000000 - 0x80000)
# how many ids `auto` takes: of root's there are many, of a user's few
AUTO_SIZE, AUTO_SIZE_OF_USERS = 65536, 1024
_SUBORDINATE = "give the user subordinate ids (usermod --add-subuids and --add-subgids), see 'lamina doctor'"


@value
class UserNs:
    """What was asked: a mode, and of its options those that were given. The lines are of `auto`'s own mappings."""

    mode: str = ""
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    uids: Lines = ()
    gids: Lines = ()


def read_mode(given: Any) -> str:
    """The text of `--userns`, "" for what is usual. Raises InvalidInput, Unsupported."""
    text = "" if given is None else str(given)
    asked = parse(text)
    return "" if asked.mode in ("", HOST) else text


def parse(text: str) -> UserNs:
    """Read `--userns`. Raises InvalidInput, and Unsupported for what podman has besides."""
    mode, colon, rest = text.partition(":")
    if mode in ("container", "ns"):
        raise Unsupported(
            f"run: userns {text}: joining one that is there is not supported", remedy=", ".join(MODES)
        )
    if mode not in ("", *MODES) or (colon and mode not in _OPTIONS):
        raise InvalidInput(f"run: userns {text}: there is no such mode", remedy=", ".join(MODES))
    found: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, _, said = part.partition("=")
        if key not in _OPTIONS[mode]:
            known = ", ".join(f"{key}=" for key in _OPTIONS[mode])
            raise InvalidInput(f"run: userns {text}: {mode} has no option {key!r}", remedy=known)
        if key in ("uidmapping", "gidmapping"):
            name = key[0] + "ids"
            found[name] = (*found.get(name, ()), read_line(said, f"userns {text}"))
        elif not _is_number(said) or int(said) > LARGEST or (key == "size" and not int(said)):
            raise InvalidInput(f"run: userns {text}: {key} is not a number from 0 to {LARGEST}")
        else:
            found[key] = int(said)
    return UserNs(mode, **found)


def read_line(text: str, what: str) -> Line:
    """One map `CONTAINER:HOST:SIZE`. Raises InvalidInput."""
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("1")
    if len(parts) != 3 or not all(map(_is_number, parts)):
        raise InvalidInput(
            f"run: {what}: {text!r} is not CONTAINER:HOST:SIZE", remedy="such as 0:100000:65536"
        )
    inside, outside, size = map(int, parts)
    if not size or max(inside, outside) + size - 1 > LARGEST:
        raise InvalidInput(f"run: {what}: {text}: goes beyond the last id, {LARGEST}, or has no size")
    return inside, outside, size


def read_lines(what: str, given: Any) -> Lines:
    """`--uidmap` or `--gidmap`, as often as it was given. Raises InvalidInput."""
    from lamina.engine.notation import listed

    lines = tuple(read_line(str(entry), what) for entry in listed(given, what))
    _check(lines, what)
    return lines


def _check(lines: Lines, what: str) -> None:
    if len(lines) > MOST_LINES:
        raise InvalidInput(f"run: {what}: {len(lines)} maps, the kernel takes {MOST_LINES}")
    for side in (0, 1):
        end = 0
        for first, size in sorted((line[side], line[2]) for line in lines):
            if first < end:
                raise InvalidInput(
                    f"run: {what}: {('the container', 'the host')[side]}'s id {first} is in two maps"
                )
            end = first + size


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


# -- the maps of one container


def choose(store: Store, identity: str, asked: UserNs, uids: Lines, gids: Lines) -> IdMaps | None:
    """The maps of the container *identity*; None for what is usual: the host's ids for root, else the user's.

    Where a range is chosen it is claimed in the store. Raises InvalidInput, Unsupported for
    what this host or this user cannot have, Conflict where no range is free.
    """
    if uids or gids:
        if asked.mode not in ("", PRIVATE):
            raise InvalidInput(
                f"run: userns {asked.mode} and uidmap or gidmap contradict each other",
                remedy="give one of them",
            )
        return _mapped(uids or gids, gids or uids)
    own = id_maps()
    if asked.mode in ("", HOST) or (asked.mode == PRIVATE and own is not None):
        return None
    if asked.mode == PRIVATE:
        raise InvalidInput(
            "run: userns private: it is not said which ids it has", remedy="give --uidmap, or --userns auto"
        )
    if asked.mode == AUTO:
        return _auto(store, identity, asked, own)
    if own is None:
        return _of_root(asked)
    return _of_user(asked, own)


def _mapped(uids: Lines, gids: Lines) -> IdMaps:
    own = id_maps()
    return IdMaps(uids, gids) if own is None else _of_numbers(uids, gids, own)


def _of_numbers(uids: Lines, gids: Lines, own: IdMaps) -> IdMaps:
    """Maps to a user's own numbers as maps to ids of this machine. Raises Unsupported for those that he has not."""
    found = IdMaps(_through(uids, own.uids), _through(gids, own.gids))
    for what, lines, through in (("uidmap", uids, found.uids), ("gidmap", gids, found.gids)):
        if _count(lines) != _count(through):
            raise Unsupported(
                f"run: {what}: more than this user has: 0 is the user, 1 and up are the subordinate ids",
                remedy=_SUBORDINATE,
            )
    return found


def _of_root(asked: UserNs) -> IdMaps:
    """keep-id: every id is itself, in a namespace whose privileges end with it."""
    if asked.mode == NOMAP or (asked.uid, asked.gid, asked.size) != (None, None, None):
        raise InvalidInput(
            f"run: userns {asked.mode}: of root's containers there is no user to map, or to leave out",
            remedy="--userns auto, or --uidmap",
        )
    every = ((0, 0, LARGEST + 1),)
    return IdMaps(every, every)


def _of_user(asked: UserNs, own: IdMaps) -> IdMaps | None:
    if asked.mode == NOMAP:
        if not own.whole:
            raise Unsupported("run: userns nomap: this user has no subordinate ids", remedy=_SUBORDINATE)
        return IdMaps(_from_zero(own.uids), _from_zero(own.gids))
    uid = os.geteuid() if asked.uid is None else asked.uid
    gid = os.getegid() if asked.gid is None else asked.gid
    found = IdMaps(_kept(uid, own.uids, asked.size), _kept(gid, own.gids, asked.size))
    return None if found == own else found


def entrust(drawn: Design) -> None:
    """Of an ordinary user's container with other ids than the user's usual ones: give the tops of what it writes into
    to its root, but where they look like what is not the container's anyway (this machine's). Raises OSError.
    """
    from lamina.engine.within import reach

    assert drawn.maps is not None and drawn.reach is not None
    if not drawn.base.id and drawn.maps.inside(os.geteuid()) >= 0:
        return
    maps = drawn.reach.spec()
    for _, stack in drawn.layers.stacks:
        if stack.upperdir is not None:
            reach(lambda: maps, os.chown, stack.upperdir, *drawn.maps.root)


def keeper(asked: UserNs) -> str:
    """Who a container of `keep-id` runs as, unless that is said: "uid:gid" of the user who made it; else ""."""
    if asked.mode != KEEP_ID or not os.geteuid():
        return ""
    uid = os.geteuid() if asked.uid is None else asked.uid
    return f"{uid}:{os.getegid() if asked.gid is None else asked.gid}"


def _from_zero(lines: Lines) -> Lines:
    """The subordinate ids alone, from id 0 on."""
    return tuple((inside - 1, outside, size) for inside, outside, size in lines[1:])


def _kept(number: int, own: Lines, size: int | None) -> Lines:
    """The user is *number*; the subordinate ids, as far as *size* goes, are everybody else from 0 on."""
    count = _count(own) if size is None else min(size, _count(own))
    below = min(number, count - 1)
    lines = [(0, 1, below), (number, 0, 1), (number + 1, number + 1, count - number - 1)]
    return _through(tuple(line for line in lines if line[2] > 0), own)


def _through(lines: Iterable[Line], own: Lines) -> Lines:
    """The same, and what the user does not have is left out."""
    found = []
    for inside, number, size in lines:
        for first, outside, count in own:
            begin, end = max(number, first), min(number + size, first + count)
            if begin < end:
                found.append((inside + begin - number, outside + begin - first, end - begin))
    return tuple(sorted(found))


def _count(lines: Iterable[Line]) -> int:
    return sum(size for _, _, size in lines)


# -- auto


def _auto(store: Store, identity: str, asked: UserNs, own: IdMaps | None) -> IdMaps:
    from lamina.store import ranges

    pool = _pool(own)
    size = asked.size or (AUTO_SIZE if own is None else AUTO_SIZE_OF_USERS)
    first = ranges.take(store, identity, pool, size)
    uids, gids = asked.uids, asked.gids
    if own is not None:
        given = _of_numbers(uids, gids, own)
        uids, gids = given.uids, given.gids
    return IdMaps(_around(first, size, uids), _around(first, size, gids))


def _around(first: int, size: int, forced: Lines) -> Lines:
    """Ids from *first* on for 0 to *size*, but where *forced* says otherwise."""
    _check(forced, "userns auto")
    lines, at = [], 0
    for inside, outside, count in sorted(forced):
        if inside > at and at < size:
            lines.append((at, first + at, min(inside, size) - at))
        lines.append((inside, outside, count))
        at = inside + count
    if at < size:
        lines.append((at, first + at, size - at))
    return tuple(lines)


def _pool(own: IdMaps | None) -> tuple[tuple[int, int], ...]:
    """The ranges that both a user's and a group's ids may be from. Raises Unsupported where there are none."""
    if own is not None:
        uids, gids = own.uids[1:], own.gids[1:]
        whose, remedy = "this user", _SUBORDINATE
    else:
        uids, gids = subordinate(POOL_OWNER)
        whose = "the user 'containers'"
        remedy = "write containers:2147483647:2147483648 into both, or nothing of it into either"
        if not uids and not gids:
            return _without(POOL, allotted())
    pool = _common([line[1:] for line in uids], [line[1:] for line in gids])
    if not pool:
        raise Unsupported(
            f"run: userns auto: {whose} has no range that is in /etc/subuid and in /etc/subgid", remedy=remedy
        )
    return pool


def _common(one: Iterable[tuple[int, ...]], other: Iterable[tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    found = set()
    others = tuple(other)
    for first, count in one:
        for second, more in others:
            begin, end = max(first, second), min(first + count, second + more)
            if begin < end:
                found.add((begin, end - begin))
    return tuple(sorted(found))


def _without(whole: tuple[int, int], taken: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """What of the range *whole* nobody has."""
    at, end = whole[0], sum(whole)
    found = []
    for first, count in sorted(taken):
        if first > at:
            found.append((at, min(first, end) - at))
        at = max(at, first + count)
        if at >= end:
            break
    if at < end:
        found.append((at, end - at))
    return tuple(found)
