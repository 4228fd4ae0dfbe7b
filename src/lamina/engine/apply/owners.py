"""Whose new files an apply could make: an ordinary user's are his own, and his groups'."""

from __future__ import annotations

import os

from lamina.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.engine.apply.values import HostChange

SHOWN = 3


def check_owners(changes: Iterable[HostChange]) -> None:
    """Raises Unsupported, naming them, for changes after which an entry of the host would be somebody else's.

    Without root nobody can give files away (chown(2)). What a container's other users own are subordinate ids here:
    nobody of this machine is meant by them, and whoever applied such a file could not remove it again himself.
    """
    user = os.geteuid()
    if user == 0:
        return
    groups = {os.getegid(), *os.getgroups()}
    foreign = [
        change
        for change in changes
        if change.after is not None
        and (change.kind != "changed" or change.what - {"times"})
        and (change.after.uid != user or change.after.gid not in groups)
    ]
    if not foreign:
        return
    after = foreign[0].after
    assert after is not None
    more = f", and so do {len(foreign) - 1} more" if len(foreign) > 1 else ""
    raise Unsupported(
        f"apply {os.fsdecode(foreign[0].path)}: it belongs to {after.uid}:{after.gid}{more}: "
        "without root nobody can give files to other users or groups",
        remedy="exclude these paths, or change their owner in the container (chown 0:0 is you)",
    )
