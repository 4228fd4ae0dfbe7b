"""Where the benchmarks run: a private mount namespace, a clean virtual environment, a root for the other engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from disk import on_disk
from measure import Worker

REPOSITORY = Path(__file__).resolve().parent.parent
SPECIFICATION = """
import json, os, sys, lamina
done = lamina.run("host", ["true"], network="none", name="bench", **json.loads(sys.argv[1]))
print(open(f"{os.environ['LAMINA_ROOT']}/containers/{done.container}/spec.json").read())
lamina.Engine().container("bench").remove()
"""


def enter_private_namespace() -> None:
    """Execute this program again in a mount namespace of its own, if that has not happened yet.

    crun 1.8 refuses to work where a cgroup v2 tree is mounted beside the v1 ones (cf. its message "cgroups in
    hybrid mode not supported"). So it is unmounted for everybody in here; the machine keeps it.
    """
    if os.environ.pop("LAMINA_BENCH_INSIDE", "") == "":
        os.environ["LAMINA_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)


class Stage:
    """Programs, environment and directories that all cases share, below *directory*."""

    def __init__(self, directory: Path, own_disk: bool = False) -> None:
        self.directory, self.own_disk = directory, own_disk
        self.python = self._environment(directory / "venv")
        self.lamina = str(directory / "venv" / "bin" / "lamina")
        self.store = self.place("store")
        self.root = directory / "root" / "merged"
        self._numbers = count()
        self.env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "LAMINA_ROOT": str(self.store),
            "LAMINA_WARM": "0",  # what is measured as a command is one that starts Python
        }

    def place(self, name: str) -> Path:
        """A directory that is not there yet, for a file system of its own where that was asked for."""
        path = self.directory / name
        if self.own_disk:
            return on_disk(path)
        path.mkdir()
        return path

    @cached_property
    def states(self) -> Path:
        """For the states of runtimes: with file systems of our own in memory, as /run is."""
        path = self.directory / "states"  # made when it is asked for: `host` shows what is mounted
        path.mkdir()
        if self.own_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "lamina-bench", str(path)], check=True)
        return path

    def _environment(self, venv: Path) -> str:
        """A virtual environment in which Lamina is installed as anybody would, and nothing else: no .pth file slows its
        start.
        """
        python = venv / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", str(python)]
        subprocess.run([*pip, "install", str(REPOSITORY)], check=True)
        return str(python)

    def run(self, *argv: str) -> str:
        """Run something that must succeed; what it prints."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def shell(self, *argv: str) -> Worker:
        """Executes a command line again and again, from a small process as a shell would."""
        return Worker([self.python, str(REPOSITORY / "bench" / "measure.py"), *argv], self.env)

    @contextmanager
    def warm(self) -> Iterator[Callable[..., Worker]]:
        """As `shell`, of commands that the warm process does; it is ended afterwards."""
        environment, others = {**self.env, "LAMINA_WARM": "1"}, self._warm_processes()
        # in these very surroundings, with a program's command that goes through the worker
        begin = Worker(
            [self.python, str(REPOSITORY / "bench/measure.py"), self.lamina, "version"], environment
        )
        try:
            begin.once()
            end = time.monotonic() + 60
            while not self._warm_processes() - others:
                if time.monotonic() > end:
                    raise SystemExit("bench: no warm process came")
                time.sleep(0.1)
            yield lambda *argv: Worker(
                [self.python, str(REPOSITORY / "bench/measure.py"), *argv], environment
            )
        finally:
            begin.close()
            for pid in self._warm_processes() - others:
                os.kill(pid, signal.SIGTERM)

    def _warm_processes(self) -> set[int]:
        return {int(line.split()[0]) for line in self.run(self.lamina, "system", "warm").splitlines()[2:]}

    def peer(self, *argv: str, first: str = "true", last: str = "true") -> Worker:
        """The same for an engine that brings no overlay: one of this machine's root is mounted at `self.root`.

        In one more mount namespace, for Lamina would have to put an overlay over that overlay. There the shell's
        commands *first* and *last* are executed before and after all.
        """
        return self.within("measure.py", *argv, first=first, last=last)

    def within(self, program: str, *argv: str, first: str = "true", last: str = "true") -> Worker:
        """A program of this directory in such a namespace."""
        above = self.root.parent / str(next(self._numbers))
        for place in (above / "upper", above / "work", self.root):
            place.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir=/,upperdir={above}/upper,workdir={above}/work"
        script = f'mount -t overlay overlay -o {options} {self.root} && {first} && "$@"; {last}'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        return Worker([*inside, self.python, str(REPOSITORY / "bench" / program), *argv], self.env)

    def bundle(self, name: str, options: dict[str, Any], *command: str) -> Path:
        """An OCI bundle over `self.root` with exactly the specification that Lamina writes for these options."""
        spec: dict[str, Any] = json.loads(self.run(self.python, "-c", SPECIFICATION, json.dumps(options)))
        spec["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
        spec["root"] = {"path": str(self.root), "readonly": False}
        spec["process"]["cwd"] = "/"
        spec["process"]["args"] = list(command) or spec["process"]["args"]
        spec["linux"]["cgroupsPath"] = f"/lamina-bench-{name}"
        bundle = self.directory / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec, indent=1))
        return bundle
