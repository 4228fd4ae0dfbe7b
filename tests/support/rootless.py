"""An ordinary user to run things as, whoever runs the suite (the fixture `rootless` hands one out)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent / "src"
NAME, UID, SUBORDINATE = "lamina-tester", 61234, (2_000_000, 65536)
ETC = {
    "passwd": f"{NAME}:x:{UID}:{UID}:a user of the test suite:/nonexistent:/bin/sh\n",
    "group": f"{NAME}:x:{UID}:\n",
    "subuid": f"{NAME}:{SUBORDINATE[0]}:{SUBORDINATE[1]}\n",
    "subgid": f"{NAME}:{SUBORDINATE[0]}:{SUBORDINATE[1]}\n",
}


class Rootless:
    """An unprivileged user with a home, the XDG directories and (where the machine allows it) subordinate ids.

    `tmp` is a directory of the user's own; `env` is the environment of everything it runs. Run by root, each
    command gets a private mount namespace in which the user exists; run by anybody else, the user is oneself.
    """

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.as_root = os.geteuid() == 0
        self.uid, self.gid = (UID, UID) if self.as_root else (os.geteuid(), os.getegid())
        # an overlay without root cannot copy a directory of root up, so this must be the user's like his home
        self.give(tmp)
        self.home = self.mkdir("home")
        self.env = {
            "HOME": str(self.home),
            "USER": NAME,
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(SOURCES),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAMINA_WARM": "0",
            "TMPDIR": str(self.mkdir("tmp")),
            "XDG_RUNTIME_DIR": str(self.mkdir("run", 0o700)),
            **{
                f"XDG_{kind}_HOME": str(self.mkdir(kind.lower()))
                for kind in ("DATA", "CONFIG", "STATE", "CACHE")
            },
        }
        # how the leak check knows our processes; the network of containers for which none is named
        for name in ("LAMINA_TEST_RUN", "LAMINA_NETWORK"):
            if name in os.environ:
                self.env[name] = os.environ[name]
        self._binds = self._accounts() if self.as_root else []

    def mkdir(self, name: str, mode: int = 0o755) -> Path:
        """A new directory of the user's below `tmp`."""
        path = self.tmp / name
        path.mkdir(parents=True)
        path.chmod(mode)
        self.give(path)
        return path

    def give(self, *paths: Path) -> None:
        """Make the user the owner of *paths*, and of everything below them."""
        if not self.as_root:
            return
        for path in paths:
            for directory, _, files in os.walk(path):
                for name in (directory, *(os.path.join(directory, file) for file in files)):
                    os.chown(name, self.uid, self.gid, follow_symlinks=False)
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def argv(self, *command: str | Path) -> list[str]:
        """What the suite itself must execute to have *command* run by the user."""
        words = [os.fspath(word) for word in command]
        if not self.as_root:
            return words
        asked = {"uid": self.uid, "gid": self.gid, "binds": self._binds, "reach": _needed()}
        return [sys.executable, "-I", "-S", str(HERE / "become.py"), json.dumps(asked), *words]

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` as the user: text captured, no standard input, some minutes' time, unless told otherwise."""
        options = {**self._defaults(), "timeout": 200, **options}
        if not {"stdout", "stderr"} & options.keys():
            options.setdefault("capture_output", True)
        if "input" in options:
            options.pop("stdin")
        return subprocess.run(self.argv(*command), **options)

    def popen(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen` as the user; the process id is the command's own."""
        return subprocess.Popen(self.argv(*command), **{**self._defaults(), **options})

    def python(self, code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run *code* with this suite's interpreter (and its packages) as the user."""
        return self.run(sys.executable, "-c", code, *arguments, **options)

    def lamina(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run the `lamina` command as the user."""
        return self.run(sys.executable, "-m", "lamina", *arguments, **options)

    def ok(self, *arguments: str | Path, **options: Any) -> str:
        """What the `lamina` command prints, which must succeed."""
        done = self.lamina(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def remove_all(self) -> None:
        """Remove the user's containers, whatever they do."""
        if names := self.lamina("ps", "-aq").stdout.split():
            self.ok("rm", "-f", *names)

    def _defaults(self) -> dict[str, Any]:
        return {"env": self.env, "cwd": self.home, "text": True, "stdin": subprocess.DEVNULL}

    def _accounts(self) -> list[tuple[str, str]]:
        etc = self.tmp / "etc"
        etc.mkdir()
        etc.chmod(0o755)
        binds = []
        for file, line in ETC.items():
            machine, extended = Path("/etc", file), etc / file
            if not machine.exists():  # uidmap not installed: the user has no subordinate ids
                continue
            extended.write_text(machine.read_text() + line)
            extended.chmod(0o644)
            binds.append((str(extended), str(machine)))
        return binds


@cache
def _needed() -> list[str]:
    """What the user must be able to read to run this suite's interpreter and Lamina."""
    return list(dict.fromkeys([sys.base_prefix, sys.prefix, str(HERE.parent.parent)]))


def place_prefix() -> str:
    """How the names of these users' directories begin in this run of the suite."""
    return f"lamina-rootless-{os.environ.get('LAMINA_TEST_RUN', '')}-"


@contextmanager
def ordinary_user() -> Iterator[Rootless]:
    """A fresh ordinary user; everything of him is removed at the end."""
    # not below pytest's own directory: that is closed to everybody but the one who runs the suite
    tmp = Path(tempfile.mkdtemp(prefix=place_prefix()))
    tmp.chmod(0o755)
    try:
        yield Rootless(tmp)
    finally:
        remove_whole(tmp)


def remove_whole(place: Path) -> None:
    """Remove a directory out of which others, who bury what was in a container, remove things at the same time."""
    end = time.monotonic() + 100
    while time.monotonic() < end:
        try:
            shutil.rmtree(place, ignore_errors=os.geteuid() != 0)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
            if not place.exists():
                return
    raise AssertionError(f"{place} is filled again and again")


@cache
def why_no_user_namespace() -> str:
    """Why an ordinary user cannot make a user namespace on this host; empty if he can."""
    with ordinary_user() as user:
        done = user.run("unshare", "--user", "--map-root-user", "true")
    return "" if done.returncode == 0 else f"no user namespace for ordinary users: {done.stderr.strip()}"
