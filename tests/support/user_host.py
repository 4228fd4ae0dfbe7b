"""The host of the lab, with an ordinary user on it whose containers have networks by pasta and slirp4netns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.lab import WORLD, WORLD6, Lab, ip
from support.lives import is_gone, until
from support.namespaces import in_mount_namespace
from support.rootless import Rootless, ordinary_user
from support.small_images import import_tiny

TUNNEL = "/dev/net/tun"
HELPERS = ("pasta", "pasta.avx2", "passt", "passt.avx2", "slirp4netns", "lamina-tether")


class UserHost(Lab):
    """A host with a way to the world, and a user with the image `tiny`."""

    def __init__(self, user: Rootless, place: Path) -> None:
        super().__init__()
        self.user = user
        self.store = user.tmp / "data/lamina"
        ip("route", "add", "default", "via", WORLD)
        ip("-6", "route", "add", "default", "via", WORLD6)
        # this machine's may be root's alone; this mount namespace is the test's own
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "devices", place], check=True)
        os.mknod(place / "tun", 0o20666, os.makedev(10, 200))
        os.chmod(place / "tun", 0o666)
        subprocess.run(["mount", "--bind", place / "tun", TUNNEL], check=True)
        user.env.pop("LAMINA_NETWORK", None)
        import_tiny(user)

    def ok(self, *words: str | Path, **options: Any) -> str:
        return self.user.ok(*words, **options)

    def fails(self, *words: str) -> str:
        """What it says; the status is 125."""
        done = self.user.lamina(*words)
        assert done.returncode == 125, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return str(done.stderr)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("inspect", name))[0]
        return found

    def helpers(self) -> dict[int, list[str]]:
        """The processes of this network namespace that give containers theirs, with their command lines."""
        own = os.stat("/proc/self/ns/net").st_ino
        found = {}
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if not entry.isdigit() or os.stat(f"/proc/{entry}/ns/net").st_ino != own:
                    continue
                if Path(f"/proc/{entry}/comm").read_bytes().decode(errors="replace").strip() in HELPERS:
                    words = Path(f"/proc/{entry}/cmdline").read_text(errors="replace").split("\0")[:-1]
                    if words:  # an empty one has ended
                        found[int(entry)] = words
        return found

    def kill_keeper(self) -> list[str]:
        """Kill who keeps the only helper, which ends with it; its command line, when both have ended.

        A process has lost its command line and its namespaces, by which `helpers` knows it, before its descriptors
        are closed, and the last of a tunnel takes its time: until then it counts as one that lives.
        """
        helpers = self.helpers()
        [(keeper, words)] = [one for one in helpers.items() if "tether" in one[1][0]]
        os.kill(keeper, signal.SIGKILL)
        until(lambda: all(map(is_gone, helpers)))
        return words

    def end_all(self) -> None:
        names = self.user.lamina("ps", "-aq").stdout.split()
        if names:
            self.user.lamina("rm", "-f", *names)
        for pid in self.helpers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def on_user_host(tmp_path: Path, test: Callable[[UserHost], None]) -> None:
    """Call *test* with such a host in a child."""
    place = tmp_path / "devices"
    place.mkdir()

    def inner() -> None:
        with ordinary_user() as user:
            host = UserHost(user, place)
            try:
                test(host)
            except BaseException:
                print("helpers:", host.helpers(), file=sys.stderr)
                raise
            finally:
                host.end_all()
                host.close()

    in_mount_namespace(inner)
