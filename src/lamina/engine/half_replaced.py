"""What runs on file systems of which some were replaced and others not, or one was half: whoever replaced them was
killed in between, and perhaps whoever would have had the container go on as well.

The mount table says how far it came. Where the two overlays of a place have changed places already, the old one is let
go of; where the new one only lies on the old one, what was moved to it goes back; then every place is one of both.
"""

from __future__ import annotations

import os

from lamina.engine.layers import stacks_of
from lamina.engine.pausing import let_go_on
from lamina.engine.replacing import spawned
from lamina.engine.standstill import Standstill
from lamina.errors import LaminaError
from lamina.linux.constants import (
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_FLAG,
    FSPICK_EMPTY_PATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.linux.mount import fsconfig, fspick
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.program import assemble
from lamina.runtime.holders import table
from lamina.runtime.swapping import Half, mending_steps
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from lamina.linux.mountinfo import Mount
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home

    Stacks = Sequence[tuple[bytes, MountSpec]]

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Found:
    """What is mounted at a place that was to be replaced: the *old* overlay, the *new* one, or both."""

    at: bytes
    old: Mount | None
    new: Mount | None

    @property
    def is_half(self) -> bool:
        """Whether one lies on the other."""
        return self.old is not None and self.new is not None

    @property
    def swapped(self) -> bool:
        """Whether what runs is in the new one."""
        if self.old is None or self.new is None:
            return self.new is not None
        return self.old.parent == self.new.id


def found_at(home: Home, pid: int, after: Stacks, places: Container[bytes]) -> list[Found]:
    """How far the replacing by the stacks *after* has come at each of *places* where something is written, of the
    container with the first process *pid*: half done nowhere. Raises ProcessLookupError, LaminaError, OSError.
    """
    let_go_on(home)
    found = _look(home, pid, after, places)
    if any(one.is_half or _is_closed(home, one) for one in found):
        with Standstill(home, f"finish what was begun with container {home.short_id}") as still:
            still.stop()
            _mend(still, found, table(read_mountinfo, pid))
            _reopen(still, [one for one in _look(home, pid, after, places) if _is_closed(home, one)])
            still.go_on()
        found = _look(home, pid, after, places)
    return found


def _look(home: Home, pid: int, after: Stacks, places: Container[bytes]) -> list[Found]:
    # by name: which number an upper has is the container's own, and where it is seen is not always where it is
    mounted = {
        (mount.mount_point, _upper_of(mount)): mount
        for mount in table(read_mountinfo, pid)
        if mount.fstype == b"overlay"
    }
    before = dict(stacks_of(home.asked().get("overlays") or [], home.path))
    found = []
    for at, spec in after:
        if spec.upperdir is not None and at in places:
            old = before[at].upperdir if at in before else None
            here = [
                None if upper is None else mounted.get((at, os.path.basename(upper)))
                for upper in (old, spec.upperdir)
            ]
            found.append(Found(at, *here))
    return found


def _upper_of(mount: Mount) -> bytes:
    for option in mount.super_options:
        if option.startswith(b"upperdir="):
            return os.path.basename(option)
    return b""


def _is_closed(home: Home, one: Found) -> bool:
    """Whether it was made read-only to be replaced, and then was not."""
    if one.old is None or one.swapped or not one.old.read_only:
        return False
    return one.at != b"/" or not ((home.read("spec") or {}).get("root") or {}).get("readonly")


def _mend(still: Standstill, found: Sequence[Found], mounts: Sequence[Mount]) -> None:
    halves = []
    for one in found:
        if one.new is not None and one.is_half:
            top = one.at.rstrip(b"/")
            moved = [
                mount.mount_point[len(top) :].lstrip(b"/") for mount in mounts if mount.parent == one.new.id
            ]
            halves.append(Half(one.at.lstrip(b"/"), one.swapped, tuple(filter(None, moved))))
    if halves:
        _walk(still, halves, ())


def _reopen(still: Standstill, closed: Sequence[Found]) -> None:
    for one in closed:
        if one.old is not None and b"ro" in one.old.super_options:
            path = one.at.lstrip(b"/") or b"."
            with (
                openat2(still.root, path, _PLACE, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS) as old,
                fspick(old, b"", FSPICK_EMPTY_PATH) as context,
            ):
                fsconfig(context, FSCONFIG_SET_FLAG, b"rw", None)
                fsconfig(context, FSCONFIG_CMD_RECONFIGURE, None, None)
    if closed:
        _walk(still, (), [one.at.lstrip(b"/") for one in closed])


def _walk(still: Standstill, halves: Sequence[Half], closed: Sequence[bytes]) -> None:
    with Fd(os.open(f"/proc/{still.first.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
        steps = mending_steps(int(namespace), int(still.root), halves, closed)
        results = spawned(assemble(steps), still.first.pid)
    failed = next((index for index, result in enumerate(results[: len(steps)]) if result < 0), None)
    if failed is not None:
        raise LaminaError(
            f"{still.said}: who replaced its file systems was killed in between, and {steps[failed].call} to mend "
            f"that: {os.strerror(-results[failed])}",
            remedy="nothing is lost: stop it, and start it again",
        )
