"""How much a layer holds, counted on the disk: where entries replaced directories it is not known otherwise."""

from __future__ import annotations

import os
import stat

from lamina.overlay.lookup import open_beneath


def count(root: int) -> tuple[int, int]:
    """Bytes of all regular files (each hard link's once), and how many inodes, the root's included."""
    size, inodes = 0, 1
    linked: set[int] = set()
    pending = [b""]
    while pending:
        path = pending.pop()
        with open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    name = os.fsencode(entry.name)
                    pending.append(b"%b/%b" % (path, name) if path else name)
                elif status.st_nlink > 1:
                    if status.st_ino in linked:
                        continue
                    linked.add(status.st_ino)
                inodes += 1
                if stat.S_ISREG(status.st_mode):
                    size += status.st_size
    return size, inodes
