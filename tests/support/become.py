"""Run a command as an ordinary user who has subordinate ids, on a machine that need not have such a user.

    python become.py '{"uid": …, "gid": …, "binds": [[source, target], …], "reach": [path, …]}' command…

Everything happens in a private mount namespace, so that the machine's /etc is never touched and nothing is left
behind however this ends. `binds` puts the extended passwd, group, subuid and subgid over the machine's; `reach`
lists paths the user must be able to read even where a directory above them is closed to him (an interpreter below
/root, say): such a directory is covered with an empty one in which only these paths appear.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: bytes, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None) -> None:
    if _libc.mount(source, target, fstype, ctypes.c_ulong(flags), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source!r} on {target!r}: {os.strerror(code)}")


def _closed_ancestor(path: str) -> str | None:
    """The topmost directory above *path* that other users may not walk through."""
    above = "/"
    for name in path.strip("/").split("/"):
        if not os.stat(above).st_mode & stat.S_IXOTH:
            return above
        above = os.path.join(above, name)
    return None


def _open_a_way(paths: list[str]) -> None:
    """Make *paths* reachable: cover closed directories above them, and show only *paths* in the cover."""
    closed: dict[str, list[tuple[str, int]]] = {}
    for path in paths:
        real = os.path.realpath(path)
        above = _closed_ancestor(real)
        if above is not None and os.path.exists(real):
            closed.setdefault(above, []).append((real, os.open(real, os.O_PATH | os.O_CLOEXEC)))
    for above, inside in closed.items():
        _mount(b"tmpfs", above.encode(), b"tmpfs", 0, b"mode=0755,size=1m")
        for path, descriptor in sorted(inside):  # what contains others comes first
            if os.path.exists(path):  # below one that is already there
                continue
            os.makedirs(path, mode=0o755)
            _mount(b"/proc/self/fd/%d" % descriptor, path.encode(), None, MS_BIND | MS_REC)


def main() -> None:
    """See the module's text."""
    asked, command = json.loads(sys.argv[1]), sys.argv[2:]
    os.umask(0o022)
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare CLONE_NEWNS")
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    for source, target in asked["binds"]:
        _mount(source.encode(), target.encode(), None, MS_BIND)
    directory = os.getcwd()
    _open_a_way(asked["reach"])
    os.setgroups([])
    os.setresgid(asked["gid"], asked["gid"], asked["gid"])
    os.setresuid(asked["uid"], asked["uid"], asked["uid"])
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.exit(127)


if __name__ == "__main__":
    main()
