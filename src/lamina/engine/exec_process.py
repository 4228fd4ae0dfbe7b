"""What a further process of a container is: the container's own `process`, with what is asked of this one."""

from __future__ import annotations

import os
from errno import EMFILE, ENFILE
from stat import S_ISCHR

from lamina.errors import KernelError, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.users import file_reader, resolve_user
from lamina.supervisor.foreground import terminal_size
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lamina.runtime.users import User

    Process = dict[str, Any]


@value
class Asked:
    """The options of one further process, checked; see ExecOptions. `keys` are the bytes that detach from it."""

    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    interactive: bool = False
    privileged: bool = False
    keys: bytes = b""


_FLAGS = ("tty", "interactive", "privileged")


def check(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Asked:
    """The checked form of ExecOptions. Raises InvalidInput, and TypeError for an option that does not exist."""
    checked: dict[str, Any] = {name: bool(options[name]) for name in _FLAGS if name in options}
    for key, given in options.items():
        if key in _FLAGS or (key == "detach_keys" and not checked.get("tty")):
            continue
        if key == "env":
            from lamina.engine.notation import read_env

            checked[key] = read_env(given, os.environ if environ is None else environ)
        elif key in ("workdir", "user"):
            from lamina.engine.notation import READERS

            checked[key] = READERS[key](given)
        elif key == "detach_keys":
            from lamina.supervisor.keys import read_keys

            checked["keys"] = read_keys(given)
        else:
            from lamina.engine.other_words import unexpected

            raise unexpected("exec", key, (*_FLAGS, "env", "workdir", "user", "detach_keys"))
    if checked.get("tty") and "keys" not in checked:
        from lamina.supervisor.keys import read_keys

        checked["keys"] = read_keys(options.get("detach_keys"))
    return Asked(**checked)


def process_of(
    words: tuple[str, ...],
    asked: Asked,
    own: Process,
    linux: dict[str, Any],
    root: Fd,
    terminal: int | None,
) -> Process:
    """The specification's `process`: the container's *own*, with what is asked."""
    process: Process = {**own, "args": list(words), "terminal": asked.tty}
    if asked.workdir is not None:
        process["cwd"] = asked.workdir
    user = _user(asked, process, linux, root)
    process["env"] = _environment(asked, process["env"], user)
    if asked.tty and (size := terminal_size(terminal)) is not None:
        process["consoleSize"] = {"height": size[0], "width": size[1]}
    if asked.privileged:
        _privileged(process, linux)
    if user.uid:
        process["capabilities"] = {**process["capabilities"], "effective": [], "permitted": []}
    elif asked.user is not None and not asked.privileged:  # root, where the container itself is somebody else
        bounding = process["capabilities"]["bounding"]
        process["capabilities"] = {**process["capabilities"], "effective": bounding, "permitted": bounding}
    return process


def _user(asked: Asked, process: Process, linux: dict[str, Any], root: Fd) -> User:
    """Whom it runs as; looked up in the container's own files, which are not trusted. `process` is told."""
    read = file_reader(root)
    own = process["user"]
    if asked.user is None:
        found = resolve_user(f"{own['uid']}:{own['gid']}", read)
        return replace(found, groups=tuple(own.get("additionalGids") or ()))
    user = resolve_user(asked.user, read)
    groups = user.groups
    if linux.get("uidMappings"):
        uids, gids = linux["uidMappings"], linux["gidMappings"]
        if not (_mapped(user.uid, uids) and _mapped(user.gid, gids)):
            raise Unsupported(
                f"exec as user {user.uid}:{user.gid}: the container has no such ids",
                remedy="'lamina doctor' says how containers of this user get more ids",
            )
        whole = sum(line["size"] for line in gids) > 1
        groups = tuple(gid for gid in groups if whole and _mapped(gid, gids))
    process["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(groups)}
    return user


def _mapped(number: int, lines: list[dict[str, int]]) -> bool:
    return any(0 <= number - line["containerID"] < line["size"] for line in lines)


def _environment(asked: Asked, own: list[str], user: User) -> list[str]:
    variables = dict(entry.partition("=")[::2] for entry in own)
    if asked.tty:
        variables.setdefault("TERM", "xterm")
    variables.update(asked.env)
    variables.setdefault("HOME", user.home)
    return [f"{name}={text}" for name, text in variables.items()]


def _privileged(process: Process, linux: dict[str, Any]) -> None:
    """Every capability, with a default profile that goes by that, and no confinement by AppArmor (docker exec)."""
    from lamina.linux.capabilities import CAPABILITIES
    from lamina.linux.procfs import cap_last_cap, effective_capabilities

    most, held = cap_last_cap(), effective_capabilities()
    inside = bool(linux.get("uidMappings"))  # in a user namespace of its own there are all
    names = [name for name, n in CAPABILITIES.items() if n <= most and (inside or held >> n & 1)]
    process["capabilities"] = {
        "bounding": names,
        "effective": names,
        "permitted": names,
        "inheritable": [],
        "ambient": [],
    }
    process.pop("apparmorProfile", None)
    if linux.get("defaultFilter") is not None:
        linux["defaultFilter"] = sorted(names)


def null_of(root: Fd) -> Fd:
    """The container's null device: the host's has a mode that a container must not be able to change."""
    from lamina.linux.constants import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
    from lamina.linux.files import openat2

    inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        with openat2(root, "dev/null", os.O_PATH | os.O_NOFOLLOW, resolve=inside) as found:
            status = os.fstat(found)
            if S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
                return Fd(os.open(f"/proc/self/fd/{int(found)}", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (EMFILE, ENFILE):
            raise KernelError("exec: open /dev/null of the container", error.errno) from None
    raise Unsupported(
        "exec: /dev/null of the container is not the null device, and a standard stream is to be that",
        remedy="give it all three, or repair /dev/null in the container: mknod -m 666 /dev/null c 1 3",
    )
