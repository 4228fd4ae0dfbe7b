"""Destinations of bind mounts that are symbolic links of the root file system, or lie behind one.

Where such a link leads nowhere yet, it is to be made there (an image's /etc/resolv.conf that leads to systemd's, say,
or its /var/run), which no single call of the kernel does. So these are named by where they lead, and found and made as
others are: below the root, by the kernel, whatever has become of the link meanwhile.
"""

from __future__ import annotations

import os
from os import O_CLOEXEC, O_DIRECTORY, O_PATH

from lamina.linux.constants import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.runtime.container.configuration import is_bind
from lamina.runtime.destinations import components, destination_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

MOST_LINKS = 40  # path_resolution(7)


def with_links_followed(spec: Spec, root: bytes) -> Spec:
    """The document with these destinations named by where they lead. Raises OSError, InvalidInput."""
    mounts: list[Any] = [*(spec.get("mounts") or ())]
    covered: list[list[bytes]] = []  # there the root is not what is seen
    with Fd(os.open(root, O_PATH | O_DIRECTORY | O_CLOEXEC)) as top:
        for index, mount in enumerate(mounts):
            names = components(os.fsencode(destination_of(mount)))
            seen = not any(names[: len(above)] == above for above in covered)
            if seen and is_bind(mount):
                there = _led_to(top, names)
                if there != names:
                    mounts[index] = {**mount, "destination": os.fsdecode(b"/" + b"/".join(there))}
                    names = there
            covered.append(names)
    return {**spec, "mounts": mounts}


def _led_to(top: int, names: list[bytes]) -> list[bytes]:
    """Where the last of *names* is, or would be; they themselves where there is no end of it."""
    found: list[bytes] = []
    rest, links = names[::-1], 0
    while rest:
        name = rest.pop()
        if name == b"..":
            del found[-1:]
        elif name not in (b"", b"."):
            target = _link(top, found, name)
            links += bool(target)
            if links > MOST_LINKS:
                return names
            if target.startswith(b"/"):
                found = []
            rest += target.split(b"/")[::-1]
            if not target:
                found.append(name)
    return found


def _link(top: int, above: list[bytes], name: bytes) -> bytes:
    """What the symbolic link says; b"" where there is none."""
    flags, straight = O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
    try:
        with openat2(top, b"/".join(above) or b".", flags, resolve=straight) as directory:
            return os.readlink(name, dir_fd=directory)
    except OSError:
        return b""
