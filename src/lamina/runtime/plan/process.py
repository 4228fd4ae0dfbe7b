"""The process of the specification as steps: descriptors, directory, limits, and the command itself.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#process
"""

from __future__ import annotations

from errno import EACCES, ENOENT, ENOTDIR
from os import O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDWR

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RLIMIT_NOFILE,
    TIOCSCTTY,
)
from lamina.linux.program import Blank, Hole, Out, Reg, Step, Strings, Struct
from lamina.runtime.bundle import NULL
from lamina.runtime.command import command_strings
from lamina.runtime.init import REPORT
from lamina.runtime.plan.devices import SLAVE
from lamina.runtime.plan.paths import ROOT, how, target_steps
from lamina.runtime.plan.procfs import write_steps
from lamina.runtime.plan.waits import hand_over_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
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
        hand_over_step(CHANNEL, reading),
        Step("close", reading),
    ]


def directory_steps(process: Process) -> list[Step]:
    """Make (as Docker does) and enter the working directory. By now the root is the container's, and closed."""
    path = str(process.get("cwd") or "/").encode("utf-8", "surrogateescape")
    place = Reg("cwd")
    return [
        Step("openat", AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, save=ROOT),
        *target_steps(path, place, directory=True, upward=True),
        Step("fchdir", place, note="working directory"),
    ]


def limit_steps(wiring: Wiring) -> list[Step]:
    """Set every resource limit: none of the caller's is inherited."""
    return [
        Step("prlimit64", 0, number, Struct("rlimit64", "QQ", (soft & EVERY_64, hard & EVERY_64)), None)
        for number, soft, hard in wiring.limits
    ]


def oom_steps(process: Process, proc: int | Reg) -> list[Step]:
    """Write the OOM score adjustment (proc_pid_oom_score_adj(5)). Raises InvalidInput for one out of range.

    The kernel gives it to every process that shares the memory, except with one that waits in vfork.
    """
    score = process.get("oomScoreAdj")
    if score is None:
        return []
    if not -1000 <= int(score) <= 1000:
        raise InvalidInput(f"set oomScoreAdj {score}: it is between -1000 and 1000")
    return write_steps(proc, b"self/oom_score_adj", str(int(score)).encode(), note="OOM score")


def launched_steps(*, init: bool = False) -> list[Step]:
    """The command, executed by the launcher, which looks for it along the container's own PATH as execvp(3) does. With
    *init* the launcher stays, as process 1, and the command is its child.

    Whoever executes a script that begins with "#!/proc/self/exe" is its interpreter: it must not be the host's
    Python, which the script could then open and change (CVE-2019-5736). Of the launcher's command the steps say only
    where it goes: `Program.fill` puts it in.
    """
    note = "an init, and the command under it" if init else "the command"
    return [Step("execveat", LAUNCHER, b"", ARGV, ENVP, AT_EMPTY_PATH, note=note)]


def command_steps(process: Process) -> list[Step]:
    """The command, looked for along the container's own PATH as execvp(3) does: for a process that is a program of ours
    in a sealed file already (lamina-walk).
    """
    args, environment = command_strings(process)
    argv, envp = Strings(args), Strings(environment)
    if b"/" in args[0]:
        return [Step("execve", args[0], argv, envp)]
    path = next((e[5:] for e in environment if e.startswith(b"PATH=")), DEFAULT_PATH.encode())
    places = [directory or b"." for directory in path.split(b":")]
    return _search_steps([place + b"/" + args[0] for place in places], argv, envp)


def open_command_steps(places: int) -> list[Step]:
    """The same for a command that is not known yet: its words, its variables, and so many places to look for it."""
    return _search_steps([Blank(b"place%d" % number) for number in range(places)], ARGV, ENVP)


def _search_steps(places: Sequence[bytes], argv: Strings | Hole, envp: Strings | Hole) -> list[Step]:
    steps = [Step("execve", place, argv, envp, tolerate=_LOOK_ON) for place in places]
    steps[-1].tolerate = ()
    return steps
