"""From a bundle's config.json to what a plan is compiled from.

https://github.com/opencontainers/runtime-spec/blob/main/bundle.md
"""

from __future__ import annotations

import os

from lamina.document import decode
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime import hooks
from lamina.runtime.bundle import Bundle
from lamina.runtime.spec import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

LARGEST = 16 << 20


def read_configuration(directory: bytes) -> tuple[bytes, Spec]:
    """`config.json` of the bundle in *directory*, as it is and as a dict. Raises NotFound, InvalidInput."""
    path = directory + b"/config.json"
    name = os.fsdecode(path)
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotFound(f"read bundle {os.fsdecode(directory)}: there is no config.json") from None
    except OSError as error:
        raise InvalidInput(f"read {name}: {os.strerror(error.errno or 0)}") from error
    if len(data) > LARGEST:
        raise InvalidInput(f"read {name}: more than {LARGEST} bytes are no specification")
    spec = decode(data, name)
    _check(spec, name)
    return data, spec


def _check(spec: Spec, name: str) -> None:
    check(spec, name, planned=False)  # it is compiled soon enough
    for foreign in ("windows", "solaris", "vm", "zos", "freebsd"):
        if spec.get(foreign):
            raise Unsupported(f"read {name}: {foreign!r} is not for Linux containers")
    if not spec.get("process"):
        raise InvalidInput(f"read {name}: process is missing")
    hooks.check(spec)


def bundle_of(spec: Spec, directory: bytes) -> Bundle:
    """What a plan is compiled from. The root file system is mounted on itself, in the container's namespace only."""
    root = os.path.join(directory, os.fsencode(spec["root"]["path"]))
    if not os.path.isdir(root):
        raise NotFound(f"open root file system {os.fsdecode(root)}: no such directory")
    return Bundle(spec=spec, rootfs=os.path.realpath(root), merged=os.path.realpath(root))


def with_home(process: dict[str, Any], root: int) -> None:
    """Add HOME to the environment where it is missing, as every runtime does: from /etc/passwd below *root*."""
    env = process.setdefault("env", [])
    if any(entry.startswith("HOME=") and len(entry) > 5 for entry in env):
        return
    from lamina.runtime.users import file_reader, resolve_user

    user = process.get("user") or {}
    try:
        home = resolve_user(f"{int(user.get('uid', 0))}:{int(user.get('gid', 0))}", file_reader(root)).home
    except InvalidInput:  # a number that no passwd file can have
        home = "/"
    process["env"] = [entry for entry in env if entry != "HOME="] + [f"HOME={home}"]


def with_home_below(process: dict[str, Any], path: bytes) -> None:
    """`with_home` for a root file system that is a directory of the host."""
    with Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        with_home(process, root)
