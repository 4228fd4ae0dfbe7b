"""The real `docker-registry` on a port of this machine, and places without anybody's configuration."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from lamina.image.registry.places import Places
from lamina.image.registry.session import Registries
from lamina.image.registry.tls import Tls
from lamina.image.registry.transport import Patience, Transport

# htpasswd -nbB alice secret (docker-registry takes nothing but bcrypt)
ALICE = "alice:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"


def nobody(home: Path, **environment: str) -> Places:
    """Places below *home*, where nothing is configured."""
    return Places({"HOME": str(home), "PATH": os.environ["PATH"], **environment}, system=str(home / "etc"))


def registries(
    home: Path, *, verify: bool = True, patience: Patience | None = None, **environment: str
) -> Registries:
    """Registries as configured below *home*; nobody waits between attempts."""
    places = nobody(home, **environment)
    transport = Transport(
        Tls(places, verify=verify), patience, sleep=lambda seconds: None, chance=lambda: 0.5
    )
    return Registries(places, verify=verify, transport=transport)


class DockerRegistry:
    """`docker-registry serve`: `host` is what to write into references. It ends with this process."""

    def __init__(self, root: Path, *, users: str = "", tls: tuple[Path, Path] | None = None) -> None:
        self.root, self.host = root, ""
        self._users, self._tls = users, tls
        (root / "data").mkdir(parents=True)
        self._log = (root / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def _configure(self) -> None:
        """Choose a port that is free now, and write that down."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{taken.getsockname()[1]}"
        tls = f", tls: {{certificate: {self._tls[0]}, key: {self._tls[1]}}}" if self._tls else ""
        lines = [
            "version: 0.1",
            "log: {level: error}",
            f"storage: {{filesystem: {{rootdirectory: {self.root / 'data'}}}, delete: {{enabled: true}}}}",
            f"http: {{addr: '{self.host}'{tls}}}",
        ]
        if self._users:
            (self.root / "htpasswd").write_text(self._users + "\n")
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {self.root / 'htpasswd'}}}}}")
        (self.root / "config.yml").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> DockerRegistry:
        for _ in range(5):  # somebody else may take the port in between
            self._configure()
            # setpriv: it must not outlive a test run that is killed
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(self.root / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )
            if self._comes_up(self._process):
                return self
        self._log.close()
        raise AssertionError("docker-registry does not start: " + (self.root / "log").read_text())

    @property
    def pid(self) -> int | None:
        """The process, None as long as there is none."""
        return None if self._process is None else self._process.pid

    def _comes_up(self, process: subprocess.Popen[bytes]) -> bool:
        end = time.monotonic() + 200
        while time.monotonic() < end:
            if process.poll() is not None:
                return False
            if _listens(process.pid, int(self.host.partition(":")[2])):
                return True
            time.sleep(0.05)
        process.kill()
        process.wait()
        return False

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


def _listens(pid: int, port: int) -> bool:
    """Whether it is that process which takes connections there: another registry may have been given the same port."""
    held = set()
    for number in _names(f"/proc/{pid}/fd"):
        try:
            held.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:  # it was closed just now
            continue
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()  # proc_pid_net(5): 0A is LISTEN
            if words[1].endswith(f":{port:04X}") and words[3] == "0A" and f"socket:[{words[9]}]" in held:
                return True
    return False


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # it has ended
        return []


def skopeo(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run skopeo, with nobody's configuration and any signature policy."""
    return subprocess.run(
        ["skopeo", "--insecure-policy", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
