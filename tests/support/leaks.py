"""What a test could leave behind on the machine: mounts, processes, control groups, links.

Other people's containers come and go on the machine while the suite runs, and so do those of other workers and other
suites. So only what can be told to be ours counts: mounts and processes that name one of our directories or carry our
mark; control groups that nobody lives in and whose container a store of ours knows, or, as long as no other suite runs
that could have made them, no store at all.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SIGN = "lamina-test-run/"  # how a suite that runs is seen by others: unix(7), abstract
PEERS = "lamina-peers-"  # the control group of a peers root: then the pid of who holds it
DEPTH = 4  # how far below a suite's directories its stores are
# seconds that what is going away may take
PATIENCE = float(os.environ.get("LAMINA_LEAKS_PATIENCE") or 100.0)
# after which control groups that are empty are asked about: most are other people's, who keep them
SOME_TIME = 15.0
_END_OF_PATH = b"/ ,:\n\0"


class Leaks:
    """Compares the machine before and after. `places` are the directories that are ours, `mark` our environment."""

    def __init__(self, places: tuple[Path, ...], mark: str = "") -> None:
        self.places = tuple(os.fsencode(place) for place in places)
        self.run = (mark or os.environ.get("LAMINA_TEST_RUN", "")).partition("-")[0]
        self.mark = os.fsencode(f"LAMINA_TEST_RUN={mark}") if mark else b""
        self._mounts, self._processes, self._cgroups = self.mounts(), self.processes(), self.cgroups()
        self._links = self.links()

    def mounts(self) -> set[str]:
        """Mounts of this process's own mount namespace that are ours."""
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        return {line.decode(errors="replace") for line in lines if self._names_us(line)}

    def processes(self) -> set[str]:
        """Processes that have a place of ours in their mounts, or our mark in their environment; this one apart."""
        found, seen = set(), dict[tuple[int, ...], bool]()
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                ours = self.mark and self.mark in Path(entry.path, "environ").read_bytes().split(b"\0")
                if not ours and not self._sees_us(entry.path, seen):
                    continue
                command = (
                    Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                state = Path(entry.path, "stat").read_text(errors="replace").rpartition(") ")[2][:1]
            except OSError:  # gone, or somebody else's
                continue
            if state != "Z":
                found.add(f"{entry.name} {command}")
        return found

    def links(self) -> set[str]:
        """Bridges in this network namespace of stores of ours."""
        found = set()
        for place in Path("/sys/class/net").glob("lam*"):
            try:
                alias = (place / "ifalias").read_bytes()
            except OSError:  # it has just gone
                continue
            if self._names_us(alias):
                found.add(f"{place.name} {alias.decode(errors='replace').strip()}")
        return found

    def cgroups(self) -> set[str]:
        """Control groups of Lamina's in which nobody lives, whoever's they are."""
        found = set()
        pending = [str(CGROUPS)]
        while pending:
            for name in _directories(pending.pop()):
                if _is_anothers(os.path.basename(name)):
                    continue
                if _has_directories(name):
                    pending.append(name)
                elif "lamina" in name.lower() and _is_empty(name):
                    found.add(name)
        return found

    def left(self, patience: float = PATIENCE) -> list[str]:
        """What is there now and was not before, after waiting up to *patience* seconds for it to go away."""
        begun = time.monotonic()
        end, soon, more = begun + patience, begun + min(patience, SOME_TIME), min(4 * patience, 60.0)
        looks: tuple[tuple[str, Callable[[], set[str]], set[str]], ...] = (
            ("mount", self.mounts, self._mounts),
            ("process", self.processes, self._processes),
            ("link", self.links, self._links),
            ("control group", self.cgroups, self._cgroups),
        )
        lasting: dict[str, set[str]] = {}
        while True:
            found = {kind: look() - before for kind, look, before in looks}
            # a control group must stay empty all the time to be a left-over: others' come and go
            lasting = {kind: there & lasting.get(kind, there) for kind, there in found.items()}
            now = time.monotonic()
            others = any(found for kind, found in lasting.items() if kind != "control group")
            if now > end or (not others and (now > soon or not lasting["control group"])):
                lasting["control group"] = {path for path in lasting["control group"] if self._made(path)}
                # another worker's store may be where only its test sees it: what is not ours goes, if later
                if lasting["control group"] and not others and more:
                    end = soon = now + more
                    more = 0.0
                    continue
                return [f"{kind} {what}" for kind, found in lasting.items() for what in sorted(found)]
            time.sleep(0.05)

    def _sees_us(self, process: str, seen: dict[tuple[int, ...], bool]) -> bool:
        """Whether a mount of that process is ours. Most share theirs: *seen* is of each namespace and root."""
        root = os.stat(f"{process}/root")
        place = os.stat(f"{process}/ns/mnt").st_ino, root.st_dev, root.st_ino
        if place not in seen:
            seen[place] = self._names_us(Path(process, "mountinfo").read_bytes())
        return seen[place]

    def _names_us(self, text: bytes) -> bool:
        return any(_names(place, text) for place in self.places)

    def _made(self, cgroup: str) -> bool:
        """Whether the empty control group is ours. One that no store knows is, unless it may be another suite's."""
        identity = os.path.basename(cgroup)
        if _is_known(identity, map(os.fsdecode, self.places)):
            return True
        if suites() - {self.run}:  # before everything in their directories is looked through
            return False
        everywhere = Path(tempfile.gettempdir()).glob("pytest-of-*/pytest-*")
        return not _is_known(identity, map(str, everywhere))


def show_sign(mark: str) -> socket.socket:
    """Let other suites see that the one with this *mark* runs; until the socket is closed, or this process ends."""
    sign = socket.socket(socket.AF_UNIX)
    sign.bind(f"\0{SIGN}{mark}")
    return sign


def suites() -> set[str]:
    """The suites that run now; all workers of one have one name."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    names = (line.rpartition(f"@{SIGN}")[2] for line in lines if f" @{SIGN}" in line)
    return {name.partition("-")[0] for name in names}


def _is_known(identity: str, places: Iterable[str]) -> bool:
    """Whether a store in one of the *places* has a container of that name. What is there may be strange, and go."""
    for place in places:
        for directory, inside, _ in os.walk(place):
            if os.path.lexists(os.path.join(directory, "containers", identity)):
                return True
            if directory.count("/") - place.count("/") >= DEPTH:
                inside.clear()
    return False


def _names(place: bytes, text: bytes) -> bool:
    """Whether *text* has the path *place* or one below it; one that ends with a dash is the beginning of a name."""
    at = text.find(place)
    while at >= 0:
        end = text[at + len(place) : at + len(place) + 1]
        if place.endswith(b"-") or end in _END_OF_PATH:
            return True
        at = text.find(place, at + 1)
    return False


def _is_anothers(name: str) -> bool:
    """Whether it is the control group of a peers root (support/peers.py) that another process holds."""
    pid = name.removeprefix(PEERS).partition("-")[0]
    return name.startswith(PEERS) and pid != str(os.getpid()) and os.path.exists(f"/proc/{pid}")


def _directories(place: str) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # gone
        return []


def _has_directories(place: str) -> bool:
    """Mostly without looking: a control group has some forty files, and a link of each that is below it."""
    try:
        return os.stat(place).st_nlink != 2 and bool(_directories(place))
    except OSError:
        return False


def _is_empty(cgroup: str) -> bool:
    try:
        return not Path(cgroup, "cgroup.procs").read_text()
    except OSError:
        return False
