"""What /dev holds, as steps: the default nodes and links, `linux.devices`, and the terminal.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#devices and #default-devices

In a /dev that is a fresh tmpfs nodes are made. Elsewhere something may be there already, put by the image: then the
node is made aside and mounted over it, found without following links (CVE-2026-41579, CVE-2026-47766). A user namespace
may not make nodes: the host's are bound, which the caller has looked at.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EEXIST, EISDIR, ENOENT, EPERM, EROFS
from os import O_CLOEXEC, O_CREAT, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_PATH, O_RDWR, O_WRONLY, makedev
from stat import S_IFBLK, S_IFCHR, S_IFIFO

from lamina.errors import InvalidInput, LaminaError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOVE_MOUNT_F_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_SYMLINKS,
    TIOCGPTPEER,
    TIOCSPTLCK,
    TIOCSWINSZ,
)
from lamina.linux.program import Reg, Step, Struct
from lamina.runtime.destinations import components
from lamina.runtime.plan.mounts import clone_steps, new_mount_steps
from lamina.runtime.plan.paths import INSIDE, attach_step, open_step, target_steps
from lamina.runtime.plan.waits import hand_over_step
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.runtime.bundle import Spec, Wiring

NODES = (
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
)
LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"pts/ptmx", b"ptmx"),
)
DEV, PTS, MASTER, SLAVE = Reg("dev"), Reg("devpts"), Reg("pty.master"), Reg("pty.slave")
_STRICT = INSIDE | RESOLVE_NO_SYMLINKS
_KINDS = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}
FORGE = Reg("forge")


@value
class Node:
    """A device of the specification: where, and what mknod(2) makes of it."""

    path: bytes
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


def devices_of(spec: Spec) -> tuple[Node, ...]:
    """Read `linux.devices`. Raises InvalidInput."""
    nodes = []
    for device in (spec.get("linux") or {}).get("devices") or []:
        path, kind = str(device["path"]), str(device["type"])
        if kind not in _KINDS:
            raise InvalidInput(f"make device {path}: type {kind!r} is none of {', '.join(_KINDS)}")
        numbers = [device.get(name) for name in ("major", "minor")]
        if kind != "p" and None in numbers:
            raise InvalidInput(f"make device {path}: it has no major and minor number")
        name = path.encode("utf-8", "surrogateescape")
        if not components(name):
            raise InvalidInput(f"make device {path}: that is the root itself")
        major, minor = (int(n or 0) for n in numbers)
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise InvalidInput(f"make device {path}: {major}:{minor} is no device number")
        mode = device.get("fileMode")
        nodes.append(
            Node(
                name,
                "c" if kind == "u" else kind,
                major,
                minor,
                0o666 if mode is None else int(mode) & 0o7777,
                int(device.get("uid") or 0),
                int(device.get("gid") or 0),
            )
        )
    nodes = list(dict.fromkeys(nodes))  # who merges lists may say the same twice
    if len({node.path for node in nodes}) < len(nodes):
        raise InvalidInput("make devices: two of linux.devices have the same path")
    return tuple(nodes)


def bindable(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Those that are of use when the host's own are bound: its ptmx looks for a devpts beside itself, out of the
    container's sight; there the link to the container's stays.
    """
    return tuple(n for n in nodes if (n.path, n.kind, n.major, n.minor) != (b"/dev/ptmx", "c", 5, 2))


def device_notes(nodes: tuple[Node, ...], made: int) -> tuple[str, ...]:
    """What of the devices cannot be as asked for."""
    if not made & CLONE_NEWUSER:
        return ()
    asked = [n for n in nodes if n.kind != "p" and (n.mode, n.uid, n.gid) != (0o666, 0, 0)]
    return tuple(f"{n.path.decode(errors='replace')} is the host's: so are its mode and owner" for n in asked)


def node_steps(*, bind: bool, devices: tuple[Node, ...] = ()) -> list[Step]:
    """Devices and links in a /dev that is a fresh tmpfs; *devices* are names of `linux.devices` directly in it.

    With *bind* (a user namespace may not mknod) the host's own are bound.
    """
    steps = [open_step(b"/dev", DEV, note="default devices")]
    for node in devices:
        steps += _made_steps(node, DEV, _name(node), ())
    own = {_name(node) for node in devices}
    for name, major, minor in NODES:
        if name in own:
            continue
        if bind:
            steps += _bind_node(name)
        else:
            steps.append(
                Step("mknodat", DEV, name, S_IFCHR | 0o666, makedev(major, minor), tolerate=(EEXIST,))
            )
    steps += [
        Step("symlinkat", target, DEV, name, tolerate=(EEXIST,)) for target, name in LINKS if name not in own
    ]
    return steps


def careful_steps(devices: tuple[Node, ...], *, bind: bool, wiring: Wiring, defaults: bool) -> list[Step]:
    """Devices and links where something may be already: *devices*, and with *defaults* those that everybody has."""
    nodes = list(devices)
    if defaults:
        known = {node.path for node in devices}
        usual = [Node(b"/dev/" + name, "c", major, minor) for name, major, minor in NODES]
        nodes += [node for node in usual if node.path not in known]
    steps: list[Step] = []
    forged = [node for node in nodes if not bind or node.kind == "p"]
    if forged:
        # the only place in which a node that nobody has tampered with can be made
        steps += new_mount_steps(
            "tmpfs", FORGE, attributes=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, data=(("mode", "755"),)
        )
        steps[0].note = "devices"
        # before Linux 6.15 only of what is attached a copy can be made: on top of everything, where no path leads
        steps.append(Step("move_mount", FORGE, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH))
    for number, node in enumerate(nodes):
        steps += _careful_node(node, number, bind and node.kind != "p", wiring)
    if forged:
        steps += [Step("fchdir", FORGE), Step("umount2", b".", MNT_DETACH), Step("chdir", b"/")]
    if defaults:
        steps += target_steps(b"/dev", DEV, directory=True, links=False)
        if b"/dev/ptmx" not in known:
            # terminals are made through it: an image's own would be another one; where it cannot go it stays
            stays = (ENOENT, EISDIR, EBUSY, EROFS, EACCES, EPERM)
            steps.append(Step("unlinkat", DEV, b"ptmx", 0, tolerate=stays))
        steps += [Step("symlinkat", target, DEV, name, tolerate=(EEXIST,)) for target, name in LINKS]
    return steps


def _careful_node(node: Node, number: int, bind: bool, wiring: Wiring) -> list[Step]:
    """Make the node where it belongs; where something is already, cover it with one that was made aside."""
    tree, place = Reg(f"node{number}.tree"), Reg(f"node{number}")
    if bind:
        if (
            node.path.decode("utf-8", "surrogateescape"),
            node.kind,
            node.major,
            node.minor,
        ) not in wiring.nodes:
            raise LaminaError(f"bind device {node.path.decode(errors='replace')}: it was not looked at")
        covered = [*clone_steps(node.path, tree, 0)]
    else:
        name = b"%d" % number
        flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
        covered = [*_made_steps(node, FORGE, name, ()), Step("open_tree", FORGE, name, flags, save=tree)]
    names = components(node.path)
    above = Reg(f"node{number}.in")
    parent = target_steps(b"/" + b"/".join(names[:-1]), above, directory=True, links=False)
    # a link is covered itself: what is mounted over it is found first, and nobody follows it any more
    cover = [
        *covered,
        *_empty_file(above, names[-1], place),
        attach_step(tree, place, note=f"device {node.path.decode(errors='backslashreplace')}"),
    ]
    if bind:
        return [*parent, *cover]
    made = _made_steps(node, above, names[-1], (EEXIST,))
    # done: pass over what covers; there already: pass over the owner's step
    made[0].skip = len(made) - 1
    made[-1].leap = len(cover)
    return [*parent, *made, *cover]


def _made_steps(node: Node, directory: Reg, name: bytes, tolerate: tuple[int, ...]) -> list[Step]:
    kind = _KINDS[node.kind] | node.mode
    number = 0 if node.kind == "p" else makedev(node.major, node.minor)
    made = Step("mknodat", directory, name, kind, number, tolerate=tolerate)
    if not (node.uid or node.gid):
        return [made]
    return [made, Step("fchownat", directory, name, node.uid, node.gid, AT_SYMLINK_NOFOLLOW)]


def _name(node: Node) -> bytes:
    return node.path.rpartition(b"/")[2]


def _bind_node(name: bytes) -> list[Step]:
    text = name.decode()
    return [*_empty_file(DEV, name, Reg(f"dev.{text}")), *_bind_on(b"/dev/" + name, Reg(f"dev.{text}"), text)]


def _empty_file(directory: Reg, name: bytes, place: Reg) -> list[Step]:
    """Something to mount over: what is there by that name, or an empty file."""
    made = Reg(f"{place}.new")
    flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
    return [
        Step("openat", directory, name, flags, 0o666, save=made, tolerate=(EEXIST,), skip=1),
        Step("close", made),
        Step("openat", directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, save=place),
    ]


def _bind_on(source: bytes, place: Reg, name: str) -> list[Step]:
    node = Reg(f"{place}.node")
    return [*clone_steps(source, node, 0), attach_step(node, place, note=f"bind {name}")]


def terminal_steps(channel: int | Reg, size: Mapping[str, int] | None = None) -> list[Step]:
    """A new terminal of the container's own devpts: its master goes to the caller, its slave becomes 0, 1 and 2,
    the controlling terminal, and /dev/console. *size* is the specification's `consoleSize`.

    Its number need not be known, which is 0 in a fresh instance alone: /dev/pts may be bound from the host's.
    """
    console, cloned = Reg("console"), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    # before the command can ask for it: whoever draws on the terminal does so first thing
    sized = []
    if size is not None:
        window = Struct("winsize", "HHHH", (size["height"], size["width"], 0, 0))
        sized.append(Step("ioctl", MASTER, TIOCSWINSZ, window))
    return [
        open_step(b"/dev", DEV, resolve=_STRICT, note="terminal"),
        open_step(b"/dev/pts", PTS),
        Step("openat", PTS, b"ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0, save=MASTER),
        Step("ioctl", MASTER, TIOCSPTLCK, bytes(4)),
        Step("ioctl", MASTER, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC, save=SLAVE),
        *sized,
        *_empty_file(DEV, b"console", console),
        Step("open_tree", SLAVE, b"", cloned, save=Reg("console.node")),
        attach_step(Reg("console.node"), console, note="/dev/console"),
        Step("dup3", MASTER, 0, O_CLOEXEC),
        hand_over_step(channel, 0, note="hand the terminal over"),
    ]
