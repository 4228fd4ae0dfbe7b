"""OCI bundles of this machine's own programs, and the command `lamina-runtime` on a root of the test's own."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup")
COMMAND = [sys.executable, "-m", "lamina.runtime_cli"]
PATH = "PATH=/usr/bin:/bin"
BASE: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "args": ["true"],
        "env": [PATH],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": True,
        "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
    },
    "root": {"path": "rootfs"},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
    ],
    "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
}


def host_directories() -> list[str]:
    """What a program of this machine needs: /usr, and what is not a link into it."""
    names = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
    return [name for name in names if os.path.isdir(name) and not os.path.islink(name)]


class Bundle:
    """A bundle whose programs are this machine's, read-only. `config` is written by `write()`."""

    def __init__(self, directory: Path, *args: str, **process: Any) -> None:
        self.path = directory
        self.rootfs = directory / "rootfs"
        for name in ("proc", "dev", "tmp", "etc"):
            (self.rootfs / name).mkdir(parents=True, exist_ok=True)
        self.rootfs.chmod(0o755)
        (self.rootfs / "tmp").chmod(0o1777)
        self.config: dict[str, Any] = copy.deepcopy(BASE)
        for name in host_directories():
            options = ["rbind", "ro"]
            mount = {"destination": name, "type": "bind", "source": name, "options": options}
            self.config["mounts"].append(mount)
        for name in ("bin", "sbin", "lib", "lib64", "lib32"):
            if os.path.islink(f"/{name}") and not (self.rootfs / name).is_symlink():
                (self.rootfs / name).symlink_to(os.readlink(f"/{name}"))
        if args:
            self.config["process"]["args"] = list(args)
        self.config["process"].update(process)

    def write(self) -> Path:
        """Write config.json; the bundle's directory."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self.path


class Runtime:
    """`lamina-runtime --root ...`; what is left of its containers goes with `close()`."""

    def __init__(self, directory: Path, command: list[str] | None = None) -> None:
        self.directory = directory
        self.root = directory / "state"
        self.command = command or COMMAND
        self._count = 0

    def bundle(self, *args: str, **process: Any) -> Bundle:
        """A new bundle."""
        self._count += 1
        place = self.directory / f"bundle{self._count}"
        place.mkdir()
        return Bundle(place, *args, **process)

    def shell(self, script: str, **process: Any) -> Bundle:
        """A new bundle that runs a shell script."""
        return self.bundle("/bin/sh", "-c", script, **process)

    def __call__(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb. What the container itself writes goes where `stdout=` says, else nowhere."""
        options = {"stdin": subprocess.DEVNULL, "timeout": 200, "text": True, **options}
        return subprocess.run([*self.command, "--root", self.root, *words], **options)

    def ask(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb that starts nothing that lasts, and take what it says."""
        return self(*words, capture_output=True, **options)

    def create(self, identity: str, bundle: Bundle, *words: str, **options: Any) -> str:
        """Create a container; its output goes to `output(identity)`. What the command says of a failure is raised."""
        with (
            open(self.directory / f"{identity}.out", "ab") as output,
            open(self.directory / f"{identity}.err", "w+") as complaint,
        ):
            done = self(
                "create", *words, "--bundle", bundle.write(), identity,
                **{"stdout": output, "stderr": complaint, **options},
            )  # fmt: skip
            complaint.seek(0)
            said = complaint.read()
        if done.returncode:
            raise AssertionError(said)
        return said

    def start(self, identity: str) -> None:
        """Start a container that can be started."""
        done = self.ask("start", identity)
        assert done.returncode == 0, done.stderr

    def begin(self, identity: str, bundle: Bundle, *words: str, **options: Any) -> None:
        """Create and start."""
        self.create(identity, bundle, *words, **options)
        self.start(identity)

    def output(self, identity: str) -> str:
        """What the container wrote so far, to either stream's file."""
        return (self.directory / f"{identity}.out").read_text()

    def state(self, identity: str) -> dict[str, Any]:
        """What `state` says."""
        done = self.ask("state", identity)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def status(self, identity: str) -> str:
        """`created`, `running`, ..."""
        return str(self.state(identity)["status"])

    def wait(self, identity: str, status: str = "stopped", patience: float = 100.0) -> None:
        """Until a container is in that state."""
        end = time.monotonic() + patience
        while self.status(identity) != status:
            assert time.monotonic() < end, f"{identity} is {self.status(identity)}, not {status}"
            time.sleep(0.02)

    def wait_output(self, identity: str, text: str, patience: float = 100.0) -> str:
        """Until a container has written *text*."""
        end = time.monotonic() + patience
        while text not in (said := self.output(identity)):
            assert time.monotonic() < end, f"{identity} wrote {said!r}"
            time.sleep(0.02)
        return said

    def close(self) -> None:
        """Delete whatever is left."""
        if self.root.is_dir():
            for entry in list(self.root.iterdir()):
                if not entry.name.startswith("."):
                    self.ask("delete", "--force", entry.name)
