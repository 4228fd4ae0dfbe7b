"""The process of the specification as steps: descriptors, limits, identity, privileges, and the command itself.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#process
"""

from __future__ import annotations

from errno import EACCES, ENOENT, ENOSYS, ENOTDIR, EPERM
from os import O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDWR, O_WRONLY

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.linux.capabilities import CAPABILITIES
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    KEYCTL_JOIN_SESSION_KEYRING,
    LINUX_CAPABILITY_VERSION_3,
    MSG_NOSIGNAL,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RLIMIT_NOFILE,
    SECCOMP_SET_MODE_FILTER,
    SIGKILL,
    TIOCSCTTY,
)
from lamina.linux.program import Hole, Out, Reg, Step, Strings, Struct
from lamina.runtime.bundle import NULL
from lamina.runtime.command import command_strings
from lamina.runtime.init import REPORT
from lamina.runtime.plan.devices import SLAVE, descriptor_message
from lamina.runtime.plan.paths import ROOT, how, open_step, target_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Wiring

    Process = dict[str, Any]

ARGV, ENVP = Hole("argv"), Hole("envp")
# the only descriptors above 2 that live until execve
CHANNEL, LAUNCHER = REPORT, REPORT + 1
REPORTING = LAUNCHER + 2
ENOUGH_FILES = 4096
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
EVERY = 0xFFFFFFFF
EVERY_64 = 0xFFFFFFFFFFFFFFFF
DEFAULT_UMASK = 0o022
# execvp(3) goes on looking after these, and so do shells
_LOOK_ON = (ENOENT, ENOTDIR, EACCES)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def room_steps(wiring: Wiring) -> list[Step]:
    """Make room for the descriptors of the start itself: every mount holds some, more than many a caller may open; and
    none of them may be 0, 1 or 2, which a caller can have closed.
    """
    steps = [Step("dup3", wiring.channel, number, O_CLOEXEC) for number in range(3)]
    for number, _, hard in wiring.limits:
        if number == RLIMIT_NOFILE and hard >= ENOUGH_FILES:
            most = Struct("rlimit64", "QQ", (hard & EVERY_64, hard & EVERY_64))
            steps.append(
                Step("prlimit64", 0, number, most, None, note="room for the start's own descriptors")
            )
    return steps


def stdio_steps(wiring: Wiring, terminal: bool) -> list[Step]:
    """Give the process its three descriptors and close all others, really: a command or a working directory such as
    /proc/self/fd/7 must find nothing of the host (CVE-2024-21626). A descriptor that is NULL is the container's own
    null device: with the host's, a container could change the mode of that.
    """
    given = (wiring.stdin, wiring.stdout, wiring.stderr)
    null = Reg("null")
    sources: tuple[Reg | int, ...] = tuple(null if fd == NULL else fd for fd in given)
    steps = []
    if terminal:
        sources = (SLAVE,) * 3
    elif null in sources:
        steps.append(Step("openat2", AT_FDCWD, b"dev/null", how(O_RDWR, BENEATH), 24, save=null))
    steps += [Step("dup3", source, number, 0) for number, source in enumerate(sources)]
    if terminal:
        steps.append(Step("ioctl", 0, TIOCSCTTY, 0))
    if wiring.channel != CHANNEL:
        steps.append(Step("dup3", wiring.channel, CHANNEL, O_CLOEXEC))
    if wiring.launcher == NULL:
        return [*steps, Step("close_range", CHANNEL + 1, EVERY, 0, note="nothing of the host stays open")]
    steps.append(Step("dup3", wiring.launcher, LAUNCHER, O_CLOEXEC))
    steps.append(Step("close_range", LAUNCHER + 1, EVERY, 0, note="nothing of the host stays open"))
    return [*steps, *_report_steps()]


def _report_steps() -> list[Step]:
    """A pipe whose writing end only this process has: it ends when the command is executed, or says why it is not.

    Made here, and its reading end handed to the caller, because a descriptor that the caller had made could be held
    open by any process that another thread of it forks meanwhile.
    """
    reading = LAUNCHER + 1  # pipe2(2) takes the lowest numbers that are free
    return [
        Step("pipe2", Out(8), O_CLOEXEC, note="how the launcher reports"),
        Step("sendmsg", CHANNEL, descriptor_message(reading), MSG_NOSIGNAL, want=1),
        Step("close", reading),
    ]


def directory_steps(process: Process) -> list[Step]:
    """Make (as Docker does) and enter the working directory. By now the root is the container's, and closed."""
    path = str(process.get("cwd") or "/").encode("utf-8", "surrogateescape")
    place = Reg("cwd")
    return [
        Step("openat", AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, save=ROOT),
        *target_steps(path, place, directory=True),
        Step("fchdir", place, note="working directory"),
    ]


def limit_steps(wiring: Wiring) -> list[Step]:
    """Set every resource limit: none of the caller's is inherited."""
    return [
        Step("prlimit64", 0, number, Struct("rlimit64", "QQ", (soft & EVERY_64, hard & EVERY_64)), None)
        for number, soft, hard in wiring.limits
    ]


def oom_steps(process: Process) -> list[Step]:
    """Write the OOM score adjustment through the container's own procfs, before it is masked."""
    score = process.get("oomScoreAdj")
    if score is None:
        return []
    held, text = Reg("oom"), str(int(score)).encode()
    return [
        open_step(b"/proc/self/oom_score_adj", held, flags=O_WRONLY, note="OOM score"),
        Step("write", held, text, len(text), want=len(text)),
        Step("close", held),
    ]


def _bits(names: list[str] | None) -> int:
    bits = 0
    for name in names or []:
        if name not in CAPABILITIES:
            raise InvalidInput(
                f"give capability {name}: there is none of that name", remedy="see capabilities(7)"
            )
        bits |= 1 << CAPABILITIES[name]
    return bits


def identity_steps(process: Process, wiring: Wiring) -> list[Step]:
    """User, groups and the five capability sets, in the order in which each is still permitted."""
    sets = process.get("capabilities") or {}
    bounding, effective, permitted, inheritable, ambient = (
        _bits(sets.get(n)) for n in ("bounding", "effective", "permitted", "inheritable", "ambient")
    )
    user = process.get("user") or {}
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    groups = [int(g) for g in user.get("additionalGids") or []]
    everything = (1 << (wiring.last_cap + 1)) - 1
    steps = [
        Step("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
        for number in range(wiring.last_cap + 1)
        if not bounding >> number & 1
    ]
    steps += _user_steps(uid, gid, groups, wiring.setgroups)
    header = Struct("cap_header", "Ii", (LINUX_CAPABILITY_VERSION_3, 0))
    words: list[int] = []
    for shift in (0, 32):
        words += [(s & everything) >> shift & EVERY for s in (effective, permitted, inheritable)]
    steps.append(Step("capset", header, Struct("cap_data", "6I", tuple(words)), note="capabilities"))
    steps.append(Step("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    steps += [
        Step("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
        for number in range(wiring.last_cap + 1)
        if ambient >> number & 1
    ]
    return steps


def _user_steps(uid: int, gid: int, groups: list[int], setgroups: bool) -> list[Step]:
    if groups and not setgroups:
        raise LaminaError(
            "give additional groups: this user namespace maps one group only and cannot change them",
            remedy="install the package uidmap and give the user subordinate ids (see lamina doctor)",
        )
    steps = [Step("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)] if uid else []
    if setgroups:
        listed = b"".join(g.to_bytes(4, "little") for g in groups)
        steps.append(Step("setgroups", len(groups), listed or None))
    steps.append(Step("setresgid", gid, gid, gid, note=f"become {uid}:{gid}"))
    steps.append(Step("setresuid", uid, uid, uid))
    if uid:
        steps.append(Step("prctl", PR_SET_KEEPCAPS, 0, 0, 0, 0))
    return steps


def seccomp_step(program: bytes) -> Step:
    """Install the compiled filter (seccomp(2))."""
    filter_ = Struct("sock_fprog", "HP", (len(program) // 8, program))
    return Step(
        "seccomp", SECCOMP_SET_MODE_FILTER, 0, filter_, note=f"seccomp: {len(program) // 8} instructions"
    )


def privilege_steps(process: Process, wiring: Wiring) -> list[Step]:
    """Everything between the finished root and execve, ending in the command.

    Without no_new_privs a filter can only be installed with CAP_SYS_ADMIN, so before the capabilities go; with it as
    late as possible, so that the filter need not allow what we do.
    """
    no_new_privileges = bool(process.get("noNewPrivileges"))
    filter_ = [seccomp_step(wiring.seccomp)] if wiring.seccomp else []
    umask = (process.get("user") or {}).get("umask")
    steps = [
        Step(
            "keyctl", KEYCTL_JOIN_SESSION_KEYRING, None, tolerate=(EPERM, ENOSYS), note="a keyring of its own"
        )
    ]
    if not no_new_privileges:
        steps += filter_
    steps += identity_steps(process, wiring)
    if no_new_privileges:
        steps.append(Step("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    steps.append(Step("umask", DEFAULT_UMASK if umask is None else int(umask)))
    if wiring.die_with_parent:
        # the signal's setting is lost when ids change, so it comes late; whoever died before it is seen by the poll
        gone = Struct("pollfd", "ihh", (CHANNEL, 0, 0))
        steps.append(Step("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
        now = Struct("timespec", "QQ", (0, 0))
        steps.append(Step("ppoll", gone, 1, now, None, 8, want=0, note="the caller is still there"))
    if wiring.launcher != NULL:
        steps.append(Step("dup3", REPORTING, REPORT, 0, note="the channel has done its work"))
    if no_new_privileges:
        steps += filter_
    return steps


def command_steps(process: Process, launched: bool, *, init: bool = False) -> list[Step]:
    """The command, looked for along the container's own PATH as execvp(3) does; by the launcher if it is *launched*.
    With *init* the launcher stays, as process 1, and the command is its child.

    Whoever executes a script that begins with "#!/proc/self/exe" is its interpreter: it must not be the host's
    Python, which the script could then open and change (CVE-2019-5736). Of the launcher's command the steps say only
    where it goes: `Program.fill` puts it in.
    """
    if init and not launched:
        raise Unsupported(
            "start an init: lamina-init was not built when Lamina was installed",
            remedy="install a C compiler and Lamina again, or start without --init",
        )
    if launched:
        note = "an init, and the command under it" if init else "the command"
        return [Step("execveat", LAUNCHER, b"", ARGV, ENVP, AT_EMPTY_PATH, note=note)]
    args, environment = command_strings(process)
    argv, envp = Strings(args), Strings(environment)
    if b"/" in args[0]:
        return [Step("execve", args[0], argv, envp)]
    path = next((e[5:] for e in environment if e.startswith(b"PATH=")), DEFAULT_PATH.encode())
    places = [directory or b"." for directory in path.split(b":")]
    steps = [Step("execve", place + b"/" + args[0], argv, envp, tolerate=_LOOK_ON) for place in places]
    steps[-1].tolerate = ()
    return steps
