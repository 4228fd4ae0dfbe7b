"""From a bundle's config.json to what a plan is compiled from.

https://github.com/opencontainers/runtime-spec/blob/main/bundle.md
"""

from __future__ import annotations

import os

from lamina.document import decode
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.bundle import Bundle
from lamina.runtime.container.recipe import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

LARGEST = 16 << 20


def read_configuration(directory: bytes, identity: str, root: bytes) -> tuple[bytes, Spec]:
    """`config.json` of the bundle in *directory*, as it is and as a dict. Raises NotFound, InvalidInput.

    A document that was found good before, for the container *identity* or one like it, is not checked again: *root* is
    where that is kept.
    """
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
    checked(_alike(spec), spec, identity, root, lambda document: _check(document, name))
    return data, spec


def _alike(spec: Spec) -> Spec:
    """The document with one path for every path of a root and of a namespace: they are strings without a NUL, and that
    is all that is checked.
    """
    root, linux = spec.get("root"), spec.get("linux")
    alike = {**spec}
    if isinstance(root, dict):
        alike["root"] = _with_any_path(root)
    if isinstance(linux, dict) and isinstance(linux.get("namespaces"), list):
        alike["linux"] = {**linux, "namespaces": [_with_any_path(n) for n in linux["namespaces"]]}
    return alike


def _with_any_path(item: Any) -> Any:
    path = item.get("path") if isinstance(item, dict) else None
    return {**item, "path": "/"} if isinstance(path, str) and path and "\0" not in path else item


def _check(spec: Spec, name: str) -> None:
    """What this room itself relies on; the plan checks what it compiles."""
    version = spec.get("ociVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise InvalidInput(f"read {name}: ociVersion {version!r} is not 1.x")
    for foreign in ("windows", "solaris", "vm", "zos", "freebsd"):
        if spec.get(foreign):
            raise Unsupported(f"read {name}: {foreign!r} is not for Linux containers")
    root = spec.get("root")
    if not isinstance(root, dict) or not isinstance(root.get("path"), str) or not root["path"]:
        raise InvalidInput(f"read {name}: root.path is missing")
    from lamina.runtime import hooks
    from lamina.runtime.spec import check

    check_process(spec.get("process"), f"{name}: process")
    hooks.check(spec)
    check(spec, name, planned=False)  # it is compiled soon enough


def check_further(process: Any, identity: str, root: bytes) -> None:
    """`check_process` for a further process of the container *identity*, unless one like it was found good before."""
    checked(process, process, identity, root, lambda document: check_process(document, "process"))


def check_process(process: Any, name: str) -> None:
    """Whether *process* has the form of the specification's `process`. Raises InvalidInput."""
    if not isinstance(process, dict):
        raise InvalidInput(f"read {name}: there is none")
    args = process.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(a, str) for a in args):
        raise InvalidInput(f"read {name}: args {args!r} is not a list of at least one string")
    if not all(isinstance(e, str) for e in process.get("env") or []):
        raise InvalidInput(f"read {name}: env is not a list of strings")
    cwd = process.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/"):
        raise InvalidInput(f"read {name}: cwd {cwd!r} is not an absolute path")
    from lamina.runtime.spec import PROCESS, check_shape

    check_shape(process, PROCESS, "", name)


def bundle_of(spec: Spec, directory: bytes) -> Bundle:
    """What a plan is compiled from. The root file system is mounted on itself, in the container's namespace only."""
    root = os.path.join(directory, os.fsencode(spec["root"]["path"]))
    if not os.path.isdir(root):
        raise NotFound(f"open root file system {os.fsdecode(root)}: no such directory")
    real = os.path.realpath(root)
    return Bundle(spec=spec, rootfs=real, merged=real)


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
