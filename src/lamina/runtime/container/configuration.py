"""From a bundle's config.json to what a plan is compiled from.

https://github.com/opencontainers/runtime-spec/blob/main/bundle.md
"""

from __future__ import annotations

import os
from errno import EINVAL

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
            # no more room than it takes: see Container._read
            data = file.read(min(LARGEST + 1, max(os.fstat(file.fileno()).st_size + 1, 1 << 16)))
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
    """The document with one path for every path of a root and of a namespace: they are text without a NUL, and that is
    all that is checked.
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
    # what is not ASCII may be no text either
    plain = isinstance(path, str) and path and path.isascii() and "\0" not in path
    return {**item, "path": "/"} if plain else item


def _check(spec: Spec, name: str) -> None:
    from lamina.runtime import hooks
    from lamina.runtime.plan.scheduling import affinity_steps
    from lamina.runtime.spec import check

    check(spec, name, planned=False)  # it is compiled soon enough
    for foreign in ("windows", "solaris", "vm", "zos", "freebsd"):
        if spec.get(foreign):
            raise Unsupported(f"read {name}: {foreign!r} is not for Linux containers")
    if not spec.get("process"):
        raise InvalidInput(f"read {name}: process is missing")
    hooks.check(spec)
    for when in ("initial", "final"):  # of further processes: no plan of the first one has it
        affinity_steps(spec["process"], when)


def check_further(process: Any, identity: str, root: bytes) -> None:
    """Check a further process of the container *identity*, unless one like it was found good before. Raises
    InvalidInput.
    """

    def check(document: Any) -> None:
        from lamina.runtime.spec import check_process

        check_process(document, "process")

    checked(process, process, identity, root, check)


def bundle_of(spec: Spec, directory: bytes) -> Bundle:
    """What a plan is compiled from. The root file system is mounted on itself, in the container's namespace only."""
    root = os.path.join(directory, os.fsencode(spec["root"]["path"]))
    if not os.path.isdir(root):
        raise NotFound(f"open root file system {os.fsdecode(root)}: no such directory")
    real = os.path.realpath(root)
    if any(_may_have_link(real, mount) for mount in spec.get("mounts") or ()):
        from lamina.runtime.container.placing import with_links_followed

        spec = with_links_followed(spec, real)
    return Bundle(spec=spec, rootfs=real, merged=real)


def _may_have_link(root: bytes, mount: dict[str, Any]) -> bool:
    """Whether there may be a symbolic link on the way of a bind mount. A reason to look, and no more."""
    if not is_bind(mount):
        return False
    path = root
    for name in os.fsencode(mount["destination"]).split(b"/"):
        path += b"/" + name
        try:
            os.readlink(path)
        except OSError as error:
            if error.errno != EINVAL:  # which is what is none
                return name == b".."
        else:
            return True
    return False


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether an entry of `mounts` shows something that is there already."""
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


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
