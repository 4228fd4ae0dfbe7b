"""The peers root: a Debian with newer engines than the machine has, entered for a command or for a daemon.

`scripts/peers` makes it once. A test gets its own view of it from the fixture `peer_root`:

    def test_something(peer_root: PeerRoot, tmp_path: Path) -> None:
        done = peer_root.run(["skopeo", "inspect", f"oci:{tmp_path}/image"])
        ready = lambda: peer_root.run(["docker", "info"]).returncode == 0
        peer_root.start_daemon(["dockerd", ...], ready=ready, log=tmp_path / "log")

and with other wishes from `make_peer_root(binds=..., network=..., hide_v2=...)`. What is started in it lives in
namespaces of its own (mount, pid, network, ipc, uts, cgroup) and in control groups below one of its own, and ends with
it, also when the suite is killed. The root can be written to, nobody else sees it. `tmp_path` and this repository, the
latter read-only, are at the places where they are outside.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.leaks import PEERS, Leaks
from support.sources import REPOSITORY, SRC

SCRIPT = REPOSITORY / "scripts" / "peers"
GROUP = PEERS
PATIENCE = 200.0  # seconds until something that comes or goes at once on an idle machine is given up
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
}
LAUNCHER = """#!{python} -IS
import sys
sys.path.insert(0, {src!r})
from lamina.runtime_cli.entry import main
main()
"""
# not the command, which Debian 14 and its like have in a package of its own
PIVOT = "from lamina.linux.mount import pivot_root; pivot_root('.', 'old')"
# $1 is a script like the next one. What it mounts is seen by nobody else, and ends with its last process.
ENTER = """
set -eu
for group in $groups; do echo 0 >"$group/cgroup.procs"; done
exec unshare --mount --pid --fork --kill-child --cgroup --ipc --uts $network --propagation private sh -c "$1"
"""
# what lives in it as long as the root does, and is a `cat` a moment after it has said so
HOLD = "echo ready; exec cat >/dev/null"
# the first line that it writes is its pid outside, the second says that everything is in its place
BUILD = """
set -eu
read pid rest </proc/self/stat
echo $pid
mount -t tmpfs -o mode=755 peers "$place"
cd "$place"
mkdir upper work root
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" peers root
cd root
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755,nosuid,nodev run run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
ip link set lo up
hostname peers
{binds}
mount -t tmpfs -o mode=755,nosuid,nodev,noexec cgroup sys/fs/cgroup
{groups}
mkdir -p old
{pivot}
cd /
umount -l /old
rmdir /old
exec tini -- sh -c '{hold}'
"""
HOLD = "echo ready; exec cat >/dev/null"


@cache
def location() -> Path:
    """Where `scripts/peers` puts the root, whether it is there or not."""
    done = subprocess.run([SCRIPT, "--where"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


class PeerRoot:
    """A view of the peers root that lasts until `close`. *place*, an empty directory, is where it is made.

    *binds* are shown at their own places and can be written to. *network* is `"none"`, loopback alone and that of its
    own, or `"host"`. With *hide_v2* there is no tree of cgroup v2 (crun refuses one beside v1's).
    """

    def __init__(
        self, place: Path, binds: Sequence[Path] = (), *, network: str = "none", hide_v2: bool = False
    ) -> None:
        self.place = place
        self._binds = tuple(binds)
        self._hide_v2 = hide_v2
        self._daemons: list[subprocess.Popen[str]] = []
        self.group = f"{GROUP}{os.getpid()}-{os.urandom(3).hex()}"
        self._groups: list[Path] = []
        self._holder: subprocess.Popen[str] | None = None
        place.mkdir(exist_ok=True)
        remove_dead_groups()
        try:
            self._hold(network)
        except BaseException:
            self.close()
            raise

    # -- what a test does with it ----------------------------------------------------------------------------------

    def run(
        self,
        words: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end; what it writes is in the result. *check*: it must succeed."""
        options = {"capture_output": True, "text": True, "timeout": 200, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self.argv(words, env=env, cwd=cwd), **options)
        if check and done.returncode:
            said = f"{done.stdout or ''}{done.stderr or ''}"
            raise AssertionError(f"{shlex.join(map(str, words))} ended with {done.returncode}: {said}")
        return done

    def popen(self, words: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """Start a command in it, with pipes for everything; the caller waits for it."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        where = {name: options.pop(name) for name in ("env", "cwd") if name in options}
        started: subprocess.Popen[str] = subprocess.Popen(
            self.argv(words, **where), **{"text": True, **pipes, **options}
        )
        return started

    def start_daemon(
        self, words: Sequence[str | Path], *, ready: Callable[[], bool], log: Path, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a daemon and wait until it is *ready*. What it says is in *log*; it ends when the root does."""
        with open(log, "ab") as file:
            daemon = self.popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **options)
        self._daemons.append(daemon)
        end = time.monotonic() + PATIENCE
        while not ready():
            if daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError(
                    f"{words[0]} does not come up:\n{log.read_text(errors='replace')[-4000:]}"
                )
            time.sleep(0.05)
        return daemon

    def processes(self) -> list[list[str]]:
        """The command lines of everything that runs in it, but for what holds it and this question itself."""
        script = "for p in /proc/[0-9]*; do tr '\\0' '\\1' <$p/cmdline && echo; done 2>/dev/null"
        lines = self.run(["sh", "-c", script]).stdout.splitlines()
        words = [line.rstrip("\1").split("\1") for line in lines if line]
        own = (["tini", "--", "sh", "-c", HOLD], ["sh", "-c", HOLD], ["cat"])
        return [line for line in words if line not in own and script not in line and line[0] != "tr"]

    def mounts(self) -> list[str]:
        """The places where something is mounted in it."""
        return [line.split()[4] for line in self.run(["cat", "/proc/self/mountinfo"]).stdout.splitlines()]

    def groups(self) -> list[str]:
        """The control groups in it, as paths below /sys/fs/cgroup; not those of its hierarchies themselves."""
        found = []
        for top in self._groups:
            for directory, names, _ in os.walk(top):
                found += [os.path.relpath(os.path.join(directory, name), top) for name in names]
        return sorted(name for name in found if name != "init")

    def processor_time(self) -> float:
        """Seconds that processors spent on everything in it so far; nan where no control group counts them."""
        for group in self._groups:
            if (group / "cpuacct.usage").exists():
                return int((group / "cpuacct.usage").read_text()) / 1e9
            if (group / "cgroup.controllers").exists():
                return int((group / "cpu.stat").read_text().split()[1]) / 1e6
        return math.nan

    def argv(
        self, words: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: str | Path = "/"
    ) -> list[str]:
        """What to execute out here, to have *words* run in there."""
        assert self._holder is not None
        join = "".join(f"echo 0 >{shlex.quote(str(path))}/cgroup.procs; " for path in self._living())
        mark = {name: os.environ[name] for name in ("LAMINA_TEST_RUN",) if name in os.environ}
        variables = [f"{name}={value}" for name, value in {**ENVIRONMENT, **mark, **(env or {})}.items()]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--cgroup", "--ipc", "--uts"]
        inside = ["env", "-i", "-C", str(cwd), *variables, *map(str, words)]
        return ["sh", "-c", f'{join}exec "$@"', "sh", *enter, "--", *inside]

    # -- how it comes and goes -------------------------------------------------------------------------------------

    def _hold(self, network: str) -> None:
        mounted = hierarchies()
        self._groups = [make_group(place, self.group) for place, _ in mounted]
        shown = [one for one in mounted if not (self._hide_v2 and one[1] == "cgroup2")]
        script = BUILD.format(
            binds="\n".join(_binds_of(self._binds)),
            groups="\n".join(map(_group_mount, shown)),
            pivot=shlex.join(["env", f"PYTHONPATH={SRC}", sys.executable, "-P", "-c", PIVOT]),
            hold=HOLD,
        )
        environment = {
            **ENVIRONMENT,
            "groups": " ".join(map(str, self._groups)),
            "network": {"none": "--net", "host": ""}[network],
            "place": str(self.place),
            "lower": str(location()),
        }
        self._holder = subprocess.Popen(
            ["sh", "-c", ENTER, "sh", script],
            env={**environment, **{k: v for k, v in os.environ.items() if k == "LAMINA_TEST_RUN"}},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stderr is not None
        first, second = self._holder.stdout.readline(), self._holder.stdout.readline()
        if second != "ready\n":
            raise AssertionError(f"the peers root could not be entered: {self._holder.stderr.read()}")
        self.pid = int(first)
        self._share()

    def _share(self) -> None:
        """In v2's tree groups that have processes may not pass controllers on: these live one further down."""
        for group in self._groups:
            controllers = group / "cgroup.controllers"
            if controllers.exists():
                (group / "init").mkdir()
                for pid in (group / "cgroup.procs").read_text().split():
                    (group / "init" / "cgroup.procs").write_text(pid)
                for name in controllers.read_text().split():
                    with suppress(OSError):  # one that is not to be had in groups
                        (group / "cgroup.subtree_control").write_text(f"+{name}")

    def _living(self) -> list[Path]:
        return [group / "init" if (group / "init").is_dir() else group for group in self._groups]

    def close(self) -> None:
        """End everything that runs in it, and take its control groups away."""
        if self._holder is not None:
            assert self._holder.stdin is not None
            self._holder.stdin.close()  # its first process ends, and with it all others: pid_namespaces(7)
            self._holder.wait(PATIENCE)
            for stream in (self._holder.stdout, self._holder.stderr):
                assert stream is not None
                stream.close()
        for daemon in self._daemons:
            daemon.wait(PATIENCE)
        for group in self._groups:
            remove_group(group)


def at_rest(count: Callable[[], int]) -> int:
    """What it is once it does not become more any longer: what was written before may still be on its way."""
    end, seen = time.monotonic() + PATIENCE, count()
    while True:
        time.sleep(0.3)
        before, seen = seen, count()
        if seen == before:
            return seen
        assert time.monotonic() < end, "it goes on"


def in_terminal(words: Sequence[str | Path]) -> list[str]:
    """What to execute, to have *words* run on a terminal of seven lines and seventy columns."""
    return ["script", "-qec", f"stty rows 7 cols 70; exec {shlex.join(map(str, words))}", "/dev/null"]


def shown_in_terminal(argv: Sequence[str], last: str) -> str:
    """What *argv*, made with `in_terminal`, shows. As soon as *last* is shown a line is typed: it may wait for that."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        try:
            shown = b""
            while last.encode() not in shown and (more := os.read(process.stdout.fileno(), 4096)):
                shown += more
            rest, _ = process.communicate(b"\n", timeout=200)
        except BaseException:
            process.kill()
            raise
    # `script` passes the end of its input on, and the terminal shows that
    return (shown + rest).decode().replace("^@", "")


def _binds_of(writable: Sequence[Path]) -> Iterator[str]:
    """Shell commands, in the new root: what is shown of the machine."""
    yield from (_bind(path, readonly=True) for path in dict.fromkeys([REPOSITORY, *interpreter()]))
    # later than what is read-only: a place to write to may lie in there
    yield from (_bind(path, readonly=False) for path in writable)


def _bind(path: Path, readonly: bool) -> str:
    source, target = shlex.quote(str(path)), shlex.quote(f".{path}")
    make = f"mkdir -p {target}"
    if not path.is_dir():
        make = f"mkdir -p {shlex.quote(f'.{path.parent}')}; touch {target}"
    only = f"\nmount -o remount,bind,ro {target}" if readonly else ""
    return f"{make}\nmount --bind {source} {target}{only}"


def _group_mount(hierarchy: tuple[Path, str]) -> str:
    place, options = hierarchy
    if options == "cgroup2":
        # alone it is /sys/fs/cgroup itself, beside v1's hierarchies it is below
        return "\n".join((f"mkdir -p .{place}", f"mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 .{place}"))
    links = [
        f"ln -s {place.name} sys/fs/cgroup/{name}"
        for name in options.split(",")
        if "," in options and name != place.name
    ]
    return "\n".join(
        [
            f"mkdir -p .{place}",
            f"mount -t cgroup -o nosuid,nodev,noexec,{options} cgroup .{place}",
            *links,
        ]
    )


def interpreter() -> list[Path]:
    """What the Python that runs the suite consists of, whether it came from a package or not."""
    prefixes = {Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr"), Path("/usr/local")}
    if Path(sys.base_prefix) not in prefixes:
        library = Path(os.path.realpath(sysconfig.get_path("stdlib")))
        return [*sorted(prefixes), *_names(Path(sys.executable)), library]
    return sorted(prefixes)


def _names(program: Path) -> Iterator[Path]:
    """What *program* leads to, link by link: a command's first line may name any of them."""
    while program.is_symlink():
        program = Path(os.path.normpath(program.parent / os.readlink(program)))
        if not program.is_relative_to(sys.prefix):
            yield program


def lamina_runtime(place: Path) -> Path:
    """The command as it was installed beside this Python; where it was not, a script in *place* that does the same."""
    installed = Path(sys.prefix, "bin", "lamina-runtime")
    if installed.is_file():
        return installed
    launcher = place / "lamina-runtime"
    launcher.write_text(LAUNCHER.format(python=os.path.realpath(sys.executable), src=str(SRC)))
    launcher.chmod(0o755)
    return launcher


# -- control groups ------------------------------------------------------------------------------------------------


def hierarchies() -> list[tuple[Path, str]]:
    """Where they are mounted out here, and "cgroup2" or the options of v1; each once."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()
        if kind == "cgroup":
            kept = [o for o in options.split(",") if o not in ("rw", "ro", "xattr", "clone_children")]
            found.setdefault(",".join(kept), Path(before.split()[4]))
        elif kind == "cgroup2":
            found.setdefault("cgroup2", Path(before.split()[4]))
    return [(place, options) for options, place in found.items()]


def make_group(hierarchy: Path, name: str) -> Path:
    """A group in *hierarchy* that processes can be put into."""
    group = hierarchy / name
    group.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one of v1, which lets nobody in: cpuset(7)
        if (group / file).exists() and not (group / "cgroup.controllers").exists():
            (group / file).write_text((hierarchy / file).read_text())
    return group


def remove_group(group: Path) -> None:
    """Remove *group* and what is below it, once those that lived there have ended."""
    end = time.monotonic() + PATIENCE
    for directory, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                break


def remove_dead_groups() -> None:
    """Groups of suites that were killed: whatever lived there has ended with them."""
    for place, _ in hierarchies():
        for group in place.glob(f"{GROUP}*"):
            if not Path("/proc", group.name.removeprefix(GROUP).partition("-")[0]).exists():
                with suppress(OSError):
                    remove_group(group)


# -- fixtures; imported by the conftest.py of the directories that need them -----------------------------------------


def need_peers() -> None:
    """Skip, where there is no root for peers."""
    if not location().is_dir():
        pytest.skip("needs the root that scripts/peers makes")


@pytest.fixture
def make_peer_root(tmp_path: Path, untouched_host: Leaks) -> Iterator[Callable[..., PeerRoot]]:
    """Makes views of the peers root: `make_peer_root(binds=[...], network="host", hide_v2=True)`."""
    need_peers()
    made: list[PeerRoot] = []

    def make(binds: Sequence[Path] = (), **wishes: Any) -> PeerRoot:
        made.append(PeerRoot(tmp_path / f"peers{len(made)}", (tmp_path, *binds), **wishes))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()


@pytest.fixture
def peer_root(make_peer_root: Callable[..., PeerRoot]) -> PeerRoot:
    """A view of the peers root with `tmp_path` in it; its network is a loopback device of its own."""
    return make_peer_root()
