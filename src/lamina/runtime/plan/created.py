"""The plans of processes that outlive their maker: the first one of a created container, and one that joins it.

Such a process executes lamina-walk (runtime/init) before it does anything else, and that walks the plan: so its memory
holds the plan and nothing of whoever made it, `/proc/<pid>/exe` is a sealed memory file, and its maker neither waits in
vfork nor is needed afterwards. What it says to its maker goes through one socket, a packet each:

    P         I am the process (its pid is in the packet's credentials): after entering an existing pid namespace
    H         the mounts are there, the root is not yet changed: hooks may run; answered by h
    F         the master of the terminal is attached
    R         everything is ready but the command; answered by g, and from then on the container is created
    8 bytes   the index of a step that failed, and its errno
"""

from __future__ import annotations

from errno import EACCES, EBADF, EINVAL, ENOENT, ENOSYS, ENOTDIR, EPERM, EROFS
from os import O_CLOEXEC, O_DIRECTORY, O_NOCTTY, O_NOFOLLOW, O_PATH, O_RDWR, O_WRONLY, X_OK

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_PARENT,
    CLOSE_RANGE_CLOEXEC,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MSG_CMSG_CLOEXEC,
    MSG_NOSIGNAL,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    RLIMIT_NOFILE,
    SIGCHLD,
    TIOCGPTPEER,
    TIOCSCTTY,
    TIOCSPTLCK,
    TIOCSWINSZ,
)
from lamina.linux.program import Out, Reg, Step, Strings, Struct
from lamina.runtime.bundle import NULL
from lamina.runtime.destinations import components
from lamina.runtime.init import INIT_NAME
from lamina.runtime.plan.devices import MASTER, SLAVE
from lamina.runtime.plan.identity import (
    DEFAULT_UMASK,
    has_listener,
    identity_steps,
    keyring_step,
    name_step,
    seccomp_steps,
)
from lamina.runtime.plan.namespaces import network_steps
from lamina.runtime.plan.paths import INSIDE, ROOT, how
from lamina.runtime.plan.process import (
    DEFAULT_PATH,
    ENOUGH_FILES,
    EVERY,
    EVERY_64,
    command_steps,
    directory_steps,
    limit_steps,
    oom_steps,
    open_command_steps,
)
from lamina.runtime.plan.rootfs import readonly_root_steps
from lamina.runtime.plan.stage import kernel_steps, stage_steps
from lamina.runtime.plan.waits import descriptor_message
from lamina.runtime.talk import HOOKS, PID, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring
    from lamina.runtime.plan.identity import Capabilities
    from lamina.runtime.plan.namespaces import Namespaces
    from lamina.runtime.talk import Manner, Numbers
    from lamina.runtime.waits import Wait

    Process = dict[str, Any]


def created_steps(
    bundle: Bundle,
    wiring: Wiring,
    numbers: Numbers,
    manner: Manner,
    namespaces: Namespaces,
    held: Capabilities,
) -> tuple[list[Step], list[Wait]]:
    """The first process of a container, up to the wait for `start`, and from there to its command; and what it needs of
    its maker on the way.

    It begins in its namespaces, in its cgroups, with its ids mapped.
    """
    spec = bundle.spec
    linux, process = spec.get("linux") or {}, spec["process"]
    terminal = bool(process.get("terminal"))
    asked = ask_steps(numbers, HOOKS, "hooks before the root is changed") if manner.hooks else []
    network, devices = network_steps(spec, namespaces, wiring)
    stage, copies = stage_steps(bundle, wiring, namespaces, held.bounding, asked)
    steps = [
        # while it can still be traced its files in procfs are its own
        *oom_steps(process, wiring.proc),
        *alone_steps(numbers),
        *_file_room_steps(wiring),
        *network,
        *stage,
        *(slave_steps(process) if terminal else owner_steps(process, manner.owned)),
        *directory_steps(process),
        *(readonly_root_steps() if (spec.get("root") or {}).get("readonly") else ()),
        *limit_steps(wiring),
        *kernel_steps(process, linux),
        *([] if manner.init else [Step("close", numbers.launcher)]),
        *close_steps(numbers.more),
        *dropped_steps(process, held, wiring, numbers, keyring=bundle.new_keyring),
        *lookup_steps(process),
        *waiting_steps(numbers, manner),
        *last_steps(process, wiring, numbers, init=manner.init),
    ]
    return steps, [*devices, *copies]


def joined_steps(
    process: Process,
    linux: dict[str, Any],
    held: Capabilities,
    wiring: Wiring,
    numbers: Numbers,
    pidfd: int,
    flags: int,
    tasks: tuple[int, ...],
    owned: tuple[int, ...] = (),
    root: int = NULL,
    places: int = 0,
    asks: bool = False,
) -> list[Step]:
    """A further process of a container, from the host's namespaces to its command.

    Everything is given up before it becomes a process of the container's pid namespace, where others could trace it
    (CVE-2016-9962): from its first instruction on it has no more than the container has. *flags* are the namespaces to
    join, *tasks* the cgroup files to write itself into, *root* the container's root where its mount namespace, which is
    others' as well, has another. With *places* the command is left open but for how many there are to look at. With
    *asks* it waits for its maker before the command.
    """
    terminal = bool(process.get("terminal"))
    return [
        *alone_steps(numbers),
        *host_oom_steps(process),
        *_label_steps(process, wiring),
        *_affinity_steps(process, "initial"),
        *[Step("write", file, b"0\n", 2, want=2, note="join the container's cgroup") for file in tasks],
        *_affinity_steps(process, "final"),
        *join_steps(pidfd, flags, wiring),
        *(enter_root_steps(root) if root != NULL else ()),
        *(container_terminal_steps(numbers, process) if terminal else owner_steps(process, owned)),
        *entered_directory_steps(process),
        *limit_steps(wiring),
        *kernel_steps(process, linux),
        *close_steps(numbers.program),
        *dropped_steps(process, held, wiring, numbers, keyring=True),
        *(birth_steps(numbers) if flags & (CLONE_NEWPID | CLONE_NEWTIME) else ()),
        Step("setsid"),
        *([Step("ioctl", 0, TIOCSCTTY, 0)] if terminal else ()),
        *(ask_steps(numbers, READY, "may the command begin?") if asks else ()),
        *last_steps(process, wiring, numbers, places=places),
    ]


def _label_steps(process: Process, wiring: Wiring) -> list[Step]:
    if not (process.get("apparmorProfile") or process.get("selinuxLabel")):
        return []
    from lamina.runtime.plan.labels import label_steps

    return label_steps(process, wiring)


def _affinity_steps(process: Process, when: str) -> list[Step]:
    if not process.get("execCPUAffinity"):
        return []
    from lamina.runtime.plan.scheduling import affinity_steps

    return affinity_steps(process, when)


def helper_steps(
    path: bytes, args: Strings, env: Strings, numbers: Numbers, pidfd: int, flags: int, directory: bytes
) -> list[Step]:
    """A hook that runs in a container's namespaces with the privileges of whoever makes the container."""
    become_root = [Step("setresgid", 0, 0, 0), Step("setresuid", 0, 0, 0)] if flags & CLONE_NEWUSER else []
    return [
        *alone_steps(numbers),
        Step("setns", pidfd, flags, note="the container's namespaces"),
        *become_root,
        Step("chdir", directory),
        *close_steps(numbers.program),
        *(birth_steps(numbers) if flags & (CLONE_NEWPID | CLONE_NEWTIME) else ()),
        Step("execve", path, args, env),
    ]


def alone_steps(numbers: Numbers) -> list[Step]:
    """Nobody of the same user may trace it or look into /proc/<pid>, and nothing of its maker outlives its execve."""
    return [
        Step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0),
        Step("close_range", numbers.channel, EVERY, CLOSE_RANGE_CLOEXEC),
    ]


def join_steps(pidfd: int, flags: int, wiring: Wiring) -> list[Step]:
    """Enter the namespaces *flags* of the process behind *pidfd*, as root of its user namespace where it has one."""
    steps = [Step("setns", pidfd, flags, note="the container's namespaces")] if flags else []
    if flags & CLONE_NEWUSER:
        if wiring.setgroups:
            steps.append(Step("setgroups", 0, None))
        steps += [Step("setresgid", 0, 0, 0), Step("setresuid", 0, 0, 0)]
        # changed ids make a process traceable or not by a sysctl: make sure
        steps.append(Step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0))
    return steps


def enter_root_steps(root: int) -> list[Step]:
    """Be where the container's first process is by chroot(2): setns(2) leads to the root of the mount namespace."""
    return [Step("fchdir", root, note="the container's root"), Step("chroot", b"."), Step("chdir", b"/")]


def birth_steps(numbers: Numbers) -> list[Step]:
    """Go on as a new process, for only such a one is in the pid and time namespaces that were entered; its parent is
    ours (CLONE_PARENT). The old one sees a number where the new one sees 0, of which mmap(2) makes no mapping. (It must
    not be asked for by that number: it may have ended by then, and been reaped.) The new one may be killed before it
    has said who it is, with all of its pid namespace, whose end waits until it has been reaped: so it begins in the
    process group of the old one, by which it is found (`Birth.abandon`).
    """
    child = Reg("child")
    return [
        Step("setpgid", 0, 0, note="that the maker finds both"),
        Step("clone", CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, save=child, note="into the pid namespace"),
        Step(
            "mmap",
            0,
            child,
            0,
            MAP_PRIVATE | MAP_ANONYMOUS,
            -1,
            0,
            tolerate=(EINVAL,),
            skip=1,
            note="which of the two is it?",
        ),
        Step("exit_group", 0),
        say_step(numbers, PID, "who I am"),
    ]


def say_step(numbers: Numbers, what: bytes, note: str) -> Step:
    """Say something to the maker."""
    return Step("sendto", numbers.channel, what, len(what), MSG_NOSIGNAL, None, 0, want=len(what), note=note)


def ask_steps(numbers: Numbers, what: bytes, note: str) -> list[Step]:
    """Say something to the maker, and wait for one byte. A maker that is gone ends the walk."""
    return [say_step(numbers, what, note), Step("read", numbers.channel, Out(1), 1, want=1)]


def close_steps(first: int) -> list[Step]:
    """Close everything from the number *first* on, really: a command or a directory such as /proc/self/fd/7 must find
    nothing of the host (CVE-2024-21626). Before the filter: profiles older than close_range(2) do not permit it.
    """
    return [Step("close_range", first, EVERY, 0, note="nothing of the host stays open")]


def _file_room_steps(wiring: Wiring) -> list[Step]:
    """Every mount holds descriptors, more than many a caller may open."""
    for number, _, hard in wiring.limits:
        if number == RLIMIT_NOFILE and hard >= ENOUGH_FILES:
            most = Struct("rlimit64", "QQ", (hard & EVERY_64, hard & EVERY_64))
            return [Step("prlimit64", 0, number, most, None, note="room for the start's own descriptors")]
    return []


def owner_steps(process: Process, descriptors: tuple[Reg | int, ...]) -> list[Step]:
    """Give *descriptors* to the process's user, or it could not open /dev/stdout; where that is possible."""
    uid = int((process.get("user") or {}).get("uid", 0))
    refusals = (EPERM, EINVAL, EROFS)
    return [Step("fchown", file, uid, -1, tolerate=refusals) for file in descriptors] if uid else []


def slave_steps(process: Process) -> list[Step]:
    """The terminal becomes 0, 1 and 2, belongs to the user, and is the session's own."""
    dups = [Step("dup3", SLAVE, number, 0) for number in range(3)]
    return [*owner_steps(process, (SLAVE,)), *dups, Step("ioctl", 0, TIOCSCTTY, 0)]


def container_terminal_steps(numbers: Numbers, process: Process) -> list[Step]:
    """A terminal of the running container's devpts. Only a pseudo terminal's master knows TIOCSPTLCK, so a file that
    somebody put in its place is found out.
    """
    size = process.get("consoleSize")
    sized = []
    if size is not None:
        window = Struct("winsize", "HHHH", (size["height"], size["width"], 0, 0))
        sized.append(Step("ioctl", MASTER, TIOCSWINSZ, window))
    devpts = Reg("devpts")
    strict = how(O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    inside = how(O_RDWR | O_NOCTTY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
    return [
        Step("openat", AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, save=ROOT),
        Step("openat2", ROOT, b"dev/pts", strict, 24, save=devpts, note="terminal"),
        Step("openat2", devpts, b"ptmx", inside, 24, save=MASTER),
        Step("ioctl", MASTER, TIOCSPTLCK, bytes(4)),
        Step("ioctl", MASTER, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC, save=SLAVE),
        *sized,
        *owner_steps(process, (SLAVE,)),
        Step("dup3", MASTER, numbers.program, O_CLOEXEC),
        Step("sendmsg", numbers.channel, descriptor_message(numbers.program), MSG_NOSIGNAL, want=1),
        *[Step("dup3", SLAVE, number, 0) for number in range(3)],
    ]


def entered_directory_steps(process: Process) -> list[Step]:
    """Enter the working directory of a running container. Nothing is made, and no magic link is followed: whatever
    /proc/self/fd holds is not a directory of the container (CVE-2024-21626).
    """
    path = str(process.get("cwd") or "/").encode("utf-8", "surrogateescape")
    place, names = Reg("cwd"), b"/".join(components(path, upward=True)) or b"."
    return [
        Step("openat", AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, save=Reg("cwd.root")),
        Step("openat2", Reg("cwd.root"), names, how(O_PATH | O_DIRECTORY, INSIDE), 24, save=place),
        Step("fchdir", place, note="working directory"),
    ]


def host_oom_steps(process: Process) -> list[Step]:
    """Write the OOM score adjustment through the host's procfs: in the container's there is no such process yet."""
    score = process.get("oomScoreAdj")
    if score is None:
        return []
    held, text = Reg("oom"), str(int(score)).encode()
    flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC
    return [
        Step("openat", AT_FDCWD, b"/proc/self/oom_score_adj", flags, 0, save=held, note="OOM score"),
        Step("write", held, text, len(text), want=len(text)),
        Step("close", held),
    ]


def dropped_steps(
    process: Process, held: Capabilities, wiring: Wiring, numbers: Numbers, *, keyring: bool
) -> list[Step]:
    """User, groups, capabilities. A filter that asks somebody is installed here, while whoever takes its listener is
    there; without no_new_privs before the capabilities go, and then all that follows must be permitted by it. Every
    other one comes last (plan/identity.py).
    """
    no_new_privileges = bool(process.get("noNewPrivileges"))
    umask = (process.get("user") or {}).get("umask")
    steps = [keyring_step()] if keyring else []
    if not no_new_privileges and has_listener(wiring):
        steps += _filter_steps(wiring, numbers)
    steps += identity_steps(process, held, wiring)
    steps.append(Step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0))
    if no_new_privileges:
        steps.append(Step("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    steps.append(Step("umask", DEFAULT_UMASK if umask is None else int(umask)))
    if no_new_privileges and has_listener(wiring):
        steps += _filter_steps(wiring, numbers)
    return steps


def _filter_steps(wiring: Wiring, numbers: Numbers) -> list[Step]:
    """The filter; the number of its listener is that of the plan's file, which is in memory by now."""
    clear = Step("close", numbers.program, tolerate=(EBADF,), note="the listener's number is known")
    steps = seccomp_steps(wiring, numbers.channel, numbers.program)
    return [clear, *steps, Step("close", numbers.program)]


def lookup_steps(process: Process) -> list[Step]:
    """See whether there is such a command, so that `create` can say so; a filter may forbid to look."""
    args = [str(a).encode("utf-8", "surrogateescape") for a in process.get("args") or []]
    if not args or not args[0]:
        raise InvalidInput("start: no command is given", remedy="name one in process.args")
    places = [args[0]]
    if b"/" not in args[0]:
        environment = [str(e).encode("utf-8", "surrogateescape") for e in process.get("env") or []]
        path = next((e[5:] for e in environment if e.startswith(b"PATH=")), DEFAULT_PATH.encode())
        places = [(directory or b".") + b"/" + args[0] for directory in path.split(b":")]
    steps = [
        Step(
            "faccessat2", AT_FDCWD, place, X_OK, AT_EACCESS,
            tolerate=(ENOENT, ENOTDIR, EACCES, ENOSYS, EPERM), leap=len(places) - index,
        )
        for index, place in enumerate(places, 1)
    ]  # fmt: skip
    steps[0].note = "is there such a command?"
    steps[-1].tolerate = (ENOSYS, EPERM)
    return steps


def waiting_steps(numbers: Numbers, manner: Manner) -> list[Step]:
    """Say that all is ready, and wait for the message that starts the container; a descriptor comes with it, and takes
    the channel's place: what goes wrong from here on is said to whoever started the container.
    """
    report = numbers.program  # the lowest free number is what recvmsg(2) uses
    kind = 0 if manner.init else O_CLOEXEC  # an init reports whether its command could be executed
    vector = Struct("iovec", "PQ", (Out(8), 8))
    message = Struct("msghdr", "PIPQPQi", (0, 0, vector, 1, Out(24), 24, 0))
    return [
        Step("close", report, tolerate=(EBADF,)),
        *ask_steps(numbers, READY, "created"),
        Step("recvmsg", numbers.socket, message, MSG_CMSG_CLOEXEC, want=1, note="wait for start"),
        Step("close", numbers.socket),
        Step("dup3", report, numbers.channel, kind),
        Step("close", report),
    ]


def last_steps(
    process: Process, wiring: Wiring, numbers: Numbers, *, init: bool = False, places: int = 0
) -> list[Step]:
    """The filter where it can be last, and the command."""
    filter_ = []
    if wiring.seccomp and not has_listener(wiring):
        filter_ = [name_step(), *seccomp_steps(wiring, numbers.channel, numbers.program)]
    command = open_command_steps(places) if places else command_steps(process)
    if init:
        args = [str(a).encode("utf-8", "surrogateescape") for a in process["args"]]
        argv, envp = Strings((INIT_NAME, *args)), command[-1].args[2]
        command = [
            Step(
                "execveat",
                numbers.launcher,
                b"",
                argv,
                envp,
                AT_EMPTY_PATH,
                note="the command, under an init",
            )
        ]
    return [*filter_, *command]
