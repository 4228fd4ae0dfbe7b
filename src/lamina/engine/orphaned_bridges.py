"""What stores that are gone have left in the kernel: bridges, to each of which is written where the record of its
network is, and the tables of rules that go with them.

Anybody may remove a store's directory, and nobody is told. So whoever makes the default network of a store looks, and
so does `system check`. Only a bridge without ports goes. If its store is where this process does not see it (another
mount namespace), that makes it anew when it needs it.
"""

from __future__ import annotations

import os

from lamina.errors import LaminaError, Unsupported
from lamina.network import firewall, links
from lamina.network.model import place_in_note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.rtnetlink import Link


def bridges() -> list[Link]:
    """Those that are left. Raises KernelError."""
    with links.opened() as channel:
        every = links.every(channel)
    masters = {one.master for one in every}
    return [one for one in every if one.kind == "bridge" and one.index not in masters and _is_gone(one.alias)]


def _is_gone(alias: str) -> bool:
    store, network = place_in_note(alias)
    if not store:
        return False
    try:
        os.lstat(f"{store}/networks/{network}/network.json")
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a file system of somebody else's, or one that does not answer: nobody can tell
        pass
    return False


def remove(found: Link) -> bool:
    """Remove it and its tables, unless a container is behind it by now; whether it is gone. Raises KernelError."""
    try:
        if not firewall.delete_idle(found.alias.partition(" ")[0]):
            return False
    except Unsupported:  # then there are no rules
        pass
    with links.opened() as channel:
        links.remove(channel, found)
    return True


def sweep() -> None:
    """Remove those that are left, as far as that can be done: `system check` tells of the rest."""
    try:
        for one in bridges():
            remove(one)
    except LaminaError:
        pass
