"""The real `docker-registry` on a port of this machine, and places without anybody's configuration."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
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
        self.root = root
        (root / "data").mkdir(parents=True)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{taken.getsockname()[1]}"
        lines = [
            "version: 0.1",
            "log: {level: error}",
            f"storage: {{filesystem: {{rootdirectory: {root / 'data'}}}, delete: {{enabled: true}}}}",
            f"http: {{addr: '{self.host}'"
            + (f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else "")
            + "}",
        ]
        if users:
            (root / "htpasswd").write_text(users + "\n")
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {root / 'htpasswd'}}}}}")
        (root / "config.yml").write_text("\n".join(lines) + "\n")
        self._log = (root / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        self._scheme = "https" if tls else "http"

    def __enter__(self) -> DockerRegistry:
        # setpriv: it must not outlive a test run that is killed
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(self.root / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
        host, _, port = self.host.partition(":")
        for _ in range(400):
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        self.__exit__()
        raise AssertionError("docker-registry does not start: " + (self.root / "log").read_text())

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """What the registry answers to a plain request."""
        request = urllib.request.Request(f"{self._scheme}://{self.host}{path}", headers=dict(headers or {}))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            found: bytes = answer.read()
            return found


def skopeo(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run skopeo, with nobody's configuration and any signature policy."""
    return subprocess.run(
        ["skopeo", "--insecure-policy", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
