"""podman and docker of the peers root with `lamina-runtime` for runc: one set of words drives both."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.busybox import layer, write_archive
from support.peers import PATIENCE, PeerRoot, in_terminal, lamina_runtime, shown_in_terminal

STORAGE = """[storage]
driver = "overlay"
graphroot = "{place}/graph"
runroot = "/run/containers/storage"
"""
# the limit of open files: podman asks for more than this machine may have
CONTAINERS = """[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
events_logfile_path = "{place}/events"
[containers]
default_ulimits = ["nofile=1024:4096"]
log_driver = "k8s-file"
init_path = "/usr/bin/tini-static"
netns = "none"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class Engine:
    """`podman` or `docker`: run with `engine("run", ...)`. The image `box` is there."""

    program = ""
    env: dict[str, str]

    def __init__(self, root: PeerRoot, place: Path) -> None:
        self.root, self.place = root, place
        self.runtime = lamina_runtime(place)
        self.env = {}
        self.prepare()
        self._before = self._what_is_there()

    def prepare(self) -> None:
        """Bring it up, and the image in."""
        raise NotImplementedError

    def words(self, *words: str) -> list[str]:
        return [self.program, *words]

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.root.run(self.words(*words), env=self.env, **options)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return self.root.popen(self.words(*words), env=self.env)

    def in_terminal(self, *words: str, last: str) -> str:
        """What is shown on a terminal, where a line is typed as soon as *last* is shown."""
        return shown_in_terminal(self.root.argv(in_terminal(self.words(*words)), env=self.env), last)

    def state(self, name: str) -> dict[str, Any]:
        """`State` of what `inspect` says."""
        done = self("inspect", "--format", "{{json .State}}", name, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def lines(self, name: str) -> list[str]:
        """What the container wrote to standard output."""
        return self("logs", name, check=True).stdout.splitlines()

    def _what_is_there(self) -> set[str]:
        groups = self.root.groups()
        # the groups that the engines' own are below are theirs
        found = {
            f"group {name}" for name in groups if name != "docker" and not name.startswith("libpod_parent")
        }
        found |= {f"mount {place}" for place in self.root.mounts()}
        found |= {f"process {' '.join(words)}" for words in self.root.processes()}
        found |= {f"container {identity}" for identity in self("ps", "-a", "-q", check=True).stdout.split()}
        # `.seccomp` and its like are a cache
        ours = ["find", *self.states(), "-mindepth", "1", "-maxdepth", "1", "-not", "-name", ".*"]
        return found | {f"state {path}" for path in self.root.run(ours).stdout.split()}

    def left(self) -> list[str]:
        """What is there and was not when the engine came up: containers, groups, mounts, processes, our state."""
        end = time.monotonic() + PATIENCE
        while (found := self._what_is_there() - self._before) and time.monotonic() < end:
            time.sleep(0.1)
        return sorted(found)

    def states(self) -> list[str]:
        """Where lamina-runtime keeps its containers' directories."""
        raise NotImplementedError


class Podman(Engine):
    """podman, which has no daemon: conmon starts the runtime."""

    program = "podman"

    def prepare(self) -> None:
        files = {"storage.conf": STORAGE, "containers.conf": CONTAINERS}
        for name, text in files.items():
            (self.place / name).write_text(text.format(place=self.place, runtime=self.runtime))
        self.env = {
            "CONTAINERS_STORAGE_CONF": str(self.place / "storage.conf"),
            "CONTAINERS_CONF": str(self.place / "containers.conf"),
        }
        policy = "mkdir -p /etc/containers; cat >/etc/containers/policy.json"
        self.root.run(["sh", "-c", policy], input=POLICY, check=True)
        write_archive(self.place / "image.tar")
        self("load", "-q", "-i", str(self.place / "image.tar"), check=True)

    def states(self) -> list[str]:
        return ["/run/lamina-runtime"]


class Docker(Engine):
    """dockerd with its own containerd, whose shim starts the runtime."""

    program = "docker"

    def prepare(self) -> None:
        address = f"unix://{self.place}/docker.sock"
        self.env = {"DOCKER_HOST": address}
        self.root.start_daemon(
            ["dockerd", "--host", address, "--data-root", self.place / "docker", "--iptables=false",
             "--bridge=none", "--storage-driver=overlay2", "--exec-opt=native.cgroupdriver=cgroupfs",
             *self.words_for_the_runtime()],
            ready=lambda: self("version").returncode == 0,
            log=self.place / "dockerd.log",
        )  # fmt: skip
        (self.place / "layer.tar").write_bytes(layer())
        self("import", "-c", "ENV PATH=/bin", str(self.place / "layer.tar"), "box", check=True)

    def words_for_the_runtime(self) -> list[str]:
        """The daemon's options that name the runtime."""
        return ["--add-runtime", f"lamina={self.runtime}", "--default-runtime=lamina"]

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """What the daemon answers, without a program that is started to ask it: status and document."""
        connection = HTTPConnection("docker", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.place / "docker.sock"))
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def states(self) -> list[str]:
        return ["/run/docker/runtime-runc/moby", "/run/lamina-runtime"]


ENGINES: dict[str, Callable[[PeerRoot, Path], Engine]] = {"podman": Podman, "docker": Docker}
