"""What /dev holds, as steps: the default nodes, links and the terminal.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices
"""

from __future__ import annotations

from errno import EEXIST
from os import O_CLOEXEC, O_CREAT, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_PATH, O_RDWR, O_WRONLY, makedev
from stat import S_IFCHR

from lamina.linux.constants import (
    MSG_NOSIGNAL,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    SCM_RIGHTS,
    SOL_SOCKET,
    TIOCGPTPEER,
    TIOCSPTLCK,
    TIOCSWINSZ,
)
from lamina.linux.program import Reg, Step, Struct
from lamina.runtime.plan.mounts import clone_steps
from lamina.runtime.plan.paths import attach_step, open_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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


def node_steps(*, bind: bool) -> list[Step]:
    """The default devices and links in /dev. With *bind* (a user namespace may not mknod) the host's own are bound."""
    steps = [open_step(b"/dev", DEV, note="default devices")]
    for name, major, minor in NODES:
        if bind:
            steps += _bind_node(name)
        else:
            mode = S_IFCHR | 0o666
            steps.append(Step("mknodat", DEV, name, mode, makedev(major, minor), tolerate=(EEXIST,)))
    steps += [Step("symlinkat", target, DEV, name, tolerate=(EEXIST,)) for target, name in LINKS]
    return steps


def _bind_node(name: bytes) -> list[Step]:
    text = name.decode()
    return [*_empty_file(name, Reg(f"dev.{text}")), *_bind_on(b"/dev/" + name, Reg(f"dev.{text}"), text)]


def _empty_file(name: bytes, place: Reg) -> list[Step]:
    made = Reg(f"{place}.new")
    flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
    return [
        Step("openat", DEV, name, flags, 0o666, save=made, tolerate=(EEXIST,), skip=1),
        Step("close", made),
        Step("openat", DEV, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, save=place),
    ]


def _bind_on(source: bytes, place: Reg, name: str) -> list[Step]:
    node = Reg(f"{place}.node")
    return [*clone_steps(source, node, 0), attach_step(node, place, note=f"bind {name}")]


def descriptor_message(number: int) -> Struct:
    """A struct msghdr of one byte and one descriptor, whose number must be known (sendmsg(2), cmsg(3), unix(7))."""
    byte = Struct("iovec", "PQ", (b"F", 1))
    rights = Struct("cmsghdr", "QiiiI", (20, SOL_SOCKET, SCM_RIGHTS, number, 0))
    return Struct("msghdr", "PIPQPQi", (0, 0, byte, 1, rights, 24, 0))


def terminal_steps(channel: int | Reg, size: Mapping[str, int] | None = None) -> list[Step]:
    """A new terminal of the container's own devpts: its master goes to the caller, its slave becomes 0, 1 and 2,
    the controlling terminal, and /dev/console. *size* is the specification's `consoleSize`.

    The first terminal of a fresh instance has the number 0, so that its name is known.
    """
    console = Reg("console")
    # before the command can ask for it: whoever draws on the terminal does so first thing
    sized = []
    if size is not None:
        window = Struct("winsize", "HHHH", (size["height"], size["width"], 0, 0))
        sized.append(Step("ioctl", MASTER, TIOCSWINSZ, window))
    return [
        open_step(b"/dev/pts", PTS, note="terminal"),
        Step("openat", PTS, b"ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0, save=MASTER),
        Step("ioctl", MASTER, TIOCSPTLCK, bytes(4)),
        Step("ioctl", MASTER, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC, save=SLAVE),
        *sized,
        *_empty_file(b"console", console),
        Step("open_tree", PTS, b"0", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, save=Reg("console.node")),
        attach_step(Reg("console.node"), console, note="/dev/console"),
        Step("dup3", MASTER, 0, O_CLOEXEC),
        Step("sendmsg", channel, descriptor_message(0), MSG_NOSIGNAL, want=1, note="hand the terminal over"),
    ]
