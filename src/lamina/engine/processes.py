"""The processes of a container as this machine sees them, in the columns of ps(1).

Read from this machine's own /proc (proc_pid_stat(5), proc_pid_status(5), proc_pid_cmdline(5)) and user database;
nothing of the container is executed, and none of its files is read.
"""

from __future__ import annotations

import os
import time

from lamina.engine.settling import Process, state_of
from lamina.errors import Conflict, InvalidInput
from lamina.linux.fd import Fd, owned
from lamina.store.containers import PAUSED, RESTARTING, RUNNING
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from lamina.store.containers import Home

# those of a command line that are read: it may be as long as the kernel's whole limit
LONGEST = 1 << 17
DAY = 86400


@value
class Seen:
    """One process. Seconds: `began` since 1970, `cpu` on processors, `lasts` since its start. KiB: `vsz`, `rss`."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    tty: int
    state: str
    nice: int
    threads: int
    cpu: float
    began: float
    lasts: float
    vsz: int
    rss: int
    uid: int
    gid: int
    comm: str
    args: str


def top(home: Home, words: Sequence[str] = ()) -> dict[str, Any]:
    """{"Titles": [...], "Processes": [[...], ...]} as docker has it. *words* are ps(1)'s: `-ef` (the default), `aux`,
    `-x` or `-o` with columns of COLUMNS. Raises Conflict where it does not run, InvalidInput, NotFound.
    """
    columns = read_options(words)
    found = list(_processes(home))
    rows = [[COLUMNS[name][1](one) for name, _ in columns] for one in found]
    return {"Titles": [title for _, title in columns], "Processes": rows}


def read_options(words: Sequence[str]) -> list[tuple[str, str]]:
    """The columns that *words* ask for, each with its title. Raises InvalidInput."""
    joined = " ".join(words).split()
    columns: list[tuple[str, str]] = []
    shape = "" if joined else "f"
    while joined:
        typed = joined.pop(0)
        dashed, word = typed.startswith("-"), typed.removeprefix("-")
        letters, o, rest = word.partition("o")
        if letters.strip("Aefaux") or (not o and rest) or not word:
            raise InvalidInput(
                f"top: ps option {typed} is not known", remedy="-ef, -e, aux, -x, or -o pid,user,args"
            )
        if "u" in letters:
            shape = "u"
        elif "f" in letters and dashed:  # without it is a tree
            shape = "f"
        elif "x" in letters or not dashed:
            shape = shape or "x"
        if o:
            if not rest and not joined:
                raise InvalidInput("top: -o needs columns", remedy="such as -o pid,user,args")
            columns += _columns(rest or joined.pop(0))
    if columns:
        return columns
    names, titles = _SHAPES[shape]
    return [(name, titles.get(name, COLUMNS[name][0])) for name in names.split()]


def _columns(text: str) -> Iterator[tuple[str, str]]:
    for one in text.split(","):
        name, equals, title = one.partition("=")
        name = _ALSO.get(name, name)
        if name not in COLUMNS:
            raise InvalidInput(f"top: there is no column {name!r}", remedy=f"one of {', '.join(COLUMNS)}")
        yield name, title if equals else COLUMNS[name][0]


def _processes(home: Home) -> Iterator[Seen]:
    state = home.read("state") or {} if state_of(home) in (RUNNING, PAUSED) else None
    with Process(state) as first:
        if state is None or not first.is_there:
            waits = state_of(home) == RESTARTING
            raise Conflict(
                f"top container {home.asked()['name']}: it is {'restarting' if waits else 'not running'}",
                remedy="wait until it runs" if waits else "'lamina start' starts it",
            )
        now, boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        for pid in sorted(members(first.pid, state)):
            seen = _look(pid, now, boot)
            if seen is not None:
                yield seen


def members(first: int, state: dict[str, Any]) -> set[int]:
    """The ids of all processes: those of its control groups, or where it has none, those of its pid namespace and
    those that came of the *first* one.
    """
    if state.get("cgroup"):
        from lamina.runtime.cgroups import reopen

        return {first, *reopen(state["cgroup"]).processes()} - {0}
    everybody = {int(name): _parent(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    space, own = _pid_namespace(first), _pid_namespace(os.getpid())
    found = {first}
    if space and space != own:
        found |= {pid for pid in everybody if _pid_namespace(pid) == space}
    while more := {pid for pid, parent in everybody.items() if parent in found} - found:
        found |= more
    return found


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # gone, or another user's
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _look(pid: int, now: float, boot: float) -> Seen | None:
    """None when it is gone, or not to be seen."""
    try:
        with owned(os.open, f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) as place:
            stat, cmdline = _read(place, "stat", 4096), _read(place, "cmdline", LONGEST)
            status = dict(
                line.split(b":", 1) for line in _read(place, "status", 1 << 16).splitlines() if b":" in line
            )
    except OSError:
        return None
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    tick = os.sysconf("SC_CLK_TCK")
    comm = os.fsdecode(name)
    lasts = max(0.0, boot - int(fields[19]) / tick)
    return Seen(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        sid=int(fields[3]),
        tty=int(fields[4]),
        state=fields[0].decode(),
        nice=int(fields[16]),
        threads=int(fields[17]),
        cpu=(int(fields[11]) + int(fields[12])) / tick,
        began=now - lasts,
        lasts=lasts,
        vsz=int(fields[20]) // 1024,
        rss=int(status.get(b"VmRSS", b"0").split()[0]),  # that of stat is "inaccurate", by its own page
        uid=int(status[b"Uid"].split()[1]),
        gid=int(status[b"Gid"].split()[1]),
        comm=comm,
        args=os.fsdecode(cmdline.rstrip(b"\0").replace(b"\0", b" ")) or f"[{comm}]",
    )


def _read(place: Fd, name: str, most: int) -> bytes:
    with Fd(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)) as file:
        found = b""
        while len(found) < most and (piece := os.read(file, most - len(found))):
            found += piece
        return found


# -- the cells


def _user(one: Seen) -> str:
    from pwd import getpwuid

    try:
        return getpwuid(one.uid).pw_name
    except KeyError:
        return str(one.uid)


def _group(one: Seen) -> str:
    from grp import getgrgid

    try:
        return getgrgid(one.gid).gr_name
    except KeyError:
        return str(one.gid)


def _terminal(one: Seen) -> str:
    """pts(4) have the majors 136 to 143 (admin-guide/devices.txt), virtual consoles and serial lines 4."""
    major, minor = os.major(one.tty), os.minor(one.tty)
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return "?" if not one.tty else f"{major}:{minor}"


def _clock(seconds: float, *, short: bool = False) -> str:
    """`[DD-]HH:MM:SS`, *short* without hours that are none."""
    days, rest = divmod(int(seconds), DAY)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if short and not days and not hours:
        return f"{minutes:02}:{left:02}"
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{left:02}"


def _bsd_clock(one: Seen) -> str:
    """`MMM:SS`"""
    minutes, seconds = divmod(int(one.cpu), 60)
    return f"{minutes}:{seconds:02}"


def _began(one: Seen) -> str:
    """`10:15` of today, `Nov26` of this year, else the year."""
    began, now = time.localtime(one.began), time.localtime()
    if began[:3] == now[:3]:
        return time.strftime("%H:%M", began)
    return time.strftime("%b%d" if began.tm_year == now.tm_year else "%Y", began)


def _busy(one: Seen) -> float:
    return 100 * one.cpu / one.lasts if one.lasts else 0.0


def _share(one: Seen) -> str:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 1024
    return f"{100 * one.rss / whole:.1f}"


def _standing(one: Seen) -> str:
    """The letters of ps(1)'s STAT that need no more than this."""
    nice = "<" if one.nice < 0 else "N" if one.nice > 0 else ""
    return one.state + nice + ("s" if one.sid == one.pid else "") + ("l" if one.threads > 1 else "")


COLUMNS: dict[str, tuple[str, Callable[[Seen], str]]] = {
    "user": ("USER", _user),
    "uid": ("UID", lambda one: str(one.uid)),
    "group": ("GROUP", _group),
    "gid": ("GID", lambda one: str(one.gid)),
    "pid": ("PID", lambda one: str(one.pid)),
    "ppid": ("PPID", lambda one: str(one.ppid)),
    "pgid": ("PGID", lambda one: str(one.pgid)),
    "sid": ("SID", lambda one: str(one.sid)),
    "c": ("C", lambda one: str(min(99, int(_busy(one))))),
    "pcpu": ("%CPU", lambda one: f"{_busy(one):.1f}"),
    "pmem": ("%MEM", _share),
    "vsz": ("VSZ", lambda one: str(one.vsz)),
    "rss": ("RSS", lambda one: str(one.rss)),
    "ni": ("NI", lambda one: str(one.nice)),
    "nlwp": ("NLWP", lambda one: str(one.threads)),
    "s": ("S", lambda one: one.state),
    "stat": ("STAT", _standing),
    "stime": ("STIME", _began),
    "etime": ("ELAPSED", lambda one: _clock(one.lasts, short=True)),
    "tty": ("TTY", _terminal),
    "time": ("TIME", lambda one: _clock(one.cpu)),
    "bsdtime": ("TIME", _bsd_clock),
    "comm": ("COMMAND", lambda one: one.comm),
    "args": ("COMMAND", lambda one: one.args),
    "cmd": ("CMD", lambda one: one.args),
    "command": ("COMMAND", lambda one: one.args),
}
# without an own choice, by what was asked: "u", "-f", BSD's "x", and "" for "-e" alone
_SHAPES: dict[str, tuple[str, dict[str, str]]] = {
    "u": ("user pid pcpu pmem vsz rss tty stat stime bsdtime command", {"stime": "START"}),
    "f": ("user pid ppid c stime tty time cmd", {"user": "UID"}),
    "x": ("pid tty stat bsdtime command", {}),
    "": ("pid tty time comm", {"comm": "CMD"}),
}
_ALSO = {
    "%cpu": "pcpu", "%mem": "pmem", "euser": "user", "euid": "uid", "egroup": "group", "egid": "gid", "pgrp": "pgid",
    "sess": "sid", "session": "sid", "nice": "ni", "state": "s", "tt": "tty", "tname": "tty", "cputime": "time",
    "thcount": "nlwp", "vsize": "vsz", "rssize": "rss", "ucmd": "comm", "ucomm": "comm",
}  # fmt: skip
