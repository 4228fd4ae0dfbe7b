"""Paths of the container as a specification has them: read, not looked up."""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def components(path: bytes, *, upward: bool = False) -> list[bytes]:
    """The names in an absolute path of the container. Raises InvalidInput for NUL, a relative path, and, unless it may
    lead *upward*, for `..`: what may be where is decided by these names, and where that leads only the kernel can say.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise InvalidInput(f"find {_shown(path)} in the container: it is not an absolute path")
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names and not upward:
        raise InvalidInput(
            f"find {_shown(path)} in the container: '..' cannot be part of it",
            remedy="write where it leads",
        )
    return names


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def destination_of(mount: dict[str, Any]) -> str:
    """Where an entry of `mounts` goes; a relative path is meant from the root on (config.md, Mounts). `..` takes the
    name before it away, whatever that is, as with runc and crun: what may be where is decided by what is left.
    """
    destination = str(mount["destination"])
    if ".." in destination.split("/"):
        names: list[str] = []
        for name in destination.split("/"):
            if name == "..":
                del names[-1:]
            elif name not in ("", "."):
                names.append(name)
        destination = "/".join(names)
    return destination if destination.startswith("/") else "/" + destination
