"""Writing a user namespace's id maps (user_namespaces(7))."""

from __future__ import annotations

import os
from errno import EINVAL

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.constants import CLONE_NEWUSER
from lamina.linux.fd import Fd
from lamina.linux.program import Out, Step, assemble
from lamina.runtime.waits import dismiss

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Mapping = dict[str, int]

MOST_MAPPINGS = 340  # the kernel's limit since 4.15
LARGEST_ID = 0xFFFFFFFE


def write_id_maps(pid: int, linux: dict[str, Any]) -> None:
    """Write `uidMappings` and `gidMappings` of the specification for the namespace of *pid*, our own waiting child.

    Directly where that is permitted (root, or a single own id), through newuidmap(1) and newgidmap(1) otherwise.
    Raises InvalidInput for impossible maps, Unsupported when the host does not permit them.
    """
    uids, gids = (_checked(linux.get(k) or [], k) for k in ("uidMappings", "gidMappings"))
    if os.geteuid() == 0:
        _write(pid, "uid_map", _lines(uids))
        _write(pid, "gid_map", _lines(gids))
    elif _is_own(uids, os.geteuid()) and _is_own(gids, os.getegid()):
        # an ordinary user may map its own group only after giving up setgroups(2)
        _write(pid, "setgroups", "deny")
        _write(pid, "uid_map", _lines(uids))
        _write(pid, "gid_map", _lines(gids))
    else:
        _helper("newuidmap", pid, uids)
        _helper("newgidmap", pid, gids)


def mapped_namespace(uids: list[Mapping], gids: list[Mapping]) -> Fd:
    """A user namespace with these maps and nobody in it, for id-mapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP).

    There, `hostID` is what a file's owner is seen as and `containerID` what is on disk. Raises what write_id_maps does.
    """
    # it has a copy of both ends, so nothing ever comes, and it waits until it is ended
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = assemble([Step("read", reader, Out(8), 1)]).spawn(CLONE_NEWUSER)
    finally:
        os.close(reader)
        os.close(writer)
    try:
        write_id_maps(child.pid, {"uidMappings": uids, "gidMappings": gids})
        return Fd(os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        dismiss(child)


def _checked(mappings: list[Mapping], name: str) -> list[Mapping]:
    if not mappings or len(mappings) > MOST_MAPPINGS:
        raise InvalidInput(f"map ids: {name} has {len(mappings)} entries, 1 to {MOST_MAPPINGS} are possible")
    for mapping in mappings:
        numbers = [mapping[k] for k in ("containerID", "hostID", "size")]
        if any(not isinstance(n, int) or n < 0 or n > LARGEST_ID + 1 for n in numbers) or not mapping["size"]:
            raise InvalidInput(f"map ids: {mapping} in {name} is out of range")
        if max(numbers[:2]) + mapping["size"] - 1 > LARGEST_ID:
            raise InvalidInput(f"map ids: {mapping} in {name} goes beyond the last id, {LARGEST_ID}")
    for key in ("containerID", "hostID"):
        end = 0
        for first, size in sorted((mapping[key], mapping["size"]) for mapping in mappings):
            if first < end:
                raise InvalidInput(f"map ids: {key} {first} is in two ranges of {name}")
            end = first + size
    return mappings


def _is_own(mappings: list[Mapping], id_: int) -> bool:
    return len(mappings) == 1 and mappings[0]["size"] == 1 and mappings[0]["hostID"] == id_


def _lines(mappings: list[Mapping]) -> str:
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def _write(pid: int, file: str, text: str) -> None:
    try:
        with open(f"/proc/{pid}/{file}", "wb", buffering=0) as target:
            target.write(text.encode())
    except OSError as error:
        raise KernelError(
            f"write {file} of the new user namespace", error.errno or EINVAL,
            remedy="see `lamina doctor`",
        ) from error  # fmt: skip


def _helper(program: str, pid: int, mappings: list[Mapping]) -> None:
    path = next(
        (f"{d}/{program}" for d in ("/usr/bin", "/bin", "/usr/sbin") if os.path.exists(f"{d}/{program}")),
        None,
    )
    if path is None:
        raise Unsupported(
            f"map subordinate ids: {program} is not installed",
            remedy="apt install uidmap, or see `lamina doctor`",
        )
    numbers = [str(m[k]) for m in mappings for k in ("containerID", "hostID", "size")]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        helper = os.posix_spawn(
            path, [program, str(pid), *numbers], {"PATH": "/usr/bin:/bin"},
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 2)],
        )  # fmt: skip
        os.close(writer)
        writer = -1
        complaint = os.read(reader, 4096)
        try:
            _, status = os.waitpid(helper, 0)
        except ChildProcessError:  # somebody waits for any child, or ignores SIGCHLD: what it said must do
            status = len(complaint)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status:
        raise Unsupported(
            f"map subordinate ids: {program}: {complaint.decode(errors='replace').strip() or f'status {status}'}",
            remedy="give the user subordinate ids (usermod --add-subuids and --add-subgids), see `lamina doctor`",
        )
