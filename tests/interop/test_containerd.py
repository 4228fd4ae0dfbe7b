"""containerd and its runc shim with `lamina-runtime` for runc: a private containerd, an image made here, no network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.sources import SRC

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("containerd", "ctr", "busybox")]

IMAGE = "docker.io/library/box:latest"
CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{place}/socket"
[ttrpc]
  address = "{place}/socket.ttrpc"
"""
LAUNCHER = """#!{python} -IS
import sys
sys.path.insert(0, {src!r})
from lamina.runtime_cli.entry import main
main()
"""
APPLETS = ("sh", "sleep", "id", "echo", "cat", "tty", "true", "ps", "ls")


def image(path: Path) -> None:
    """An OCI archive with busybox in it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        busybox = next(p for p in ("/usr/bin/busybox", "/bin/busybox") if os.path.exists(p))
        tar.add(busybox, "bin/busybox")
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    blobs = [layer.getvalue()]

    def descriptor(kind: str, blob: bytes, **more: Any) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(blob), **more}

    first = descriptor("layer.v1.tar", blobs[0])
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    platform = {"os": "linux", "architecture": machine}
    config = {
        **platform,
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [first["digest"]]},
    }
    blobs.append(json.dumps(config).encode())
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", blobs[1]),
        "layers": [first],
    }
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    blobs.append(json.dumps(manifest).encode())
    named = {"io.containerd.image.name": IMAGE}
    entry_ = descriptor("manifest.v1+json", blobs[2], platform=platform, annotations=named)
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry_]}).encode()
    files.update({f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs})
    with tarfile.open(path, "w") as tar:
        for file, data in files.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


class Containerd:
    """A containerd of the test's own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "config.toml").write_text(CONFIG.format(place=place))
        self.binary = place / "lamina-runtime"
        self.binary.write_text(LAUNCHER.format(python=os.path.realpath(sys.executable), src=str(SRC)))
        self.binary.chmod(0o755)
        self.log = open(place / "log", "w")  # noqa: SIM115  closed in `close`
        self.daemon = subprocess.Popen(
            ["containerd", "-c", str(place / "config.toml")], stdout=self.log, stderr=self.log
        )
        try:
            end = time.monotonic() + 30
            while self("version").returncode:
                assert self.daemon.poll() is None and time.monotonic() < end, (place / "log").read_text()
                time.sleep(0.1)
            image(place / "image.tar")
            # left to the daemon, as ctr of containerd 2 does, it is unpacked for the default snapshotter alone
            here = ["--local"] if "--local" in self("images", "import", "--help").stdout else []
            done = self("images", "import", *here, "--snapshotter", "native", str(place / "image.tar"))
            assert done.returncode == 0, done.stderr
        except BaseException:
            self.stop()
            raise

    def words(self, *words: str) -> list[str]:
        return ["ctr", "-a", str(self.place / "socket"), *words]

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {
            "capture_output": True,
            "text": True,
            "timeout": 60,
            "stdin": subprocess.DEVNULL,
            **options,
        }
        return subprocess.run(self.words(*words), **options)

    def run_words(self, *words: str) -> list[str]:
        runtime = [
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            str(self.binary),
            "--snapshotter",
            "native",
        ]
        return ["run", *runtime, *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self(*self.run_words(*words), **options)

    def status(self, name: str) -> str:
        lines = self("task", "ls").stdout.splitlines()
        return next((line.split()[2] for line in lines if line.split()[0] == name), "")

    def close(self) -> None:
        for name in self("task", "ls", "-q").stdout.split():
            self("task", "delete", "--force", name)
        self("container", "rm", *self("container", "ls", "-q").stdout.split())
        self("images", "rm", "--sync", IMAGE)
        self.stop()

    def stop(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(30)
        finally:
            self.daemon.kill()
            self.daemon.wait()
            self.log.close()


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    daemon = Containerd(tmp_path)
    try:
        yield daemon
    finally:
        daemon.close()


def test_a_life_under_containerd(containerd: Containerd) -> None:
    done = containerd.run("--rm", IMAGE, "a", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr
    log = containerd.place / "b.log"
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    started = containerd.run("-d", "--log-uri", f"file://{log}", IMAGE, "b", "sh", "-c", script)
    assert started.returncode == 0, started.stderr
    assert containerd.status("b") == "RUNNING"
    done = containerd("task", "exec", "--exec-id", "e1", "b", "sh", "-c", "id -u; exit 5")
    assert (done.returncode, done.stdout) == (5, "0\n"), done.stderr
    terminal = " ".join(containerd.words("task", "exec", "-t", "--exec-id", "e2", "b", "tty"))
    done = subprocess.run(
        ["script", "-qec", terminal, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert "/dev/pts/0" in done.stdout
    missing = containerd("task", "exec", "--exec-id", "e3", "b", "no-such")
    assert "executable file not found in $PATH" in missing.stderr
    assert containerd("task", "kill", "-s", "SIGKILL", "b").returncode == 0
    end = time.monotonic() + 20
    while containerd.status("b") != "STOPPED":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert log.read_text().startswith("1\n2\n")
    containerd("task", "delete", "b")
    assert containerd.status("b") == ""


def test_what_cannot_be_started_is_said(containerd: Containerd) -> None:
    missing = containerd.run("--rm", IMAGE, "a", "no-such")
    assert missing.returncode != 0
    assert "OCI runtime create failed" in missing.stderr
    assert "executable file not found in $PATH" in missing.stderr
    refused = containerd.run("--rm", IMAGE, "b", "/etc")
    assert "Permission denied" in refused.stderr


def test_twenty_at_once(containerd: Containerd) -> None:
    """More of them show nothing more on a small machine."""
    running = [
        subprocess.Popen(
            containerd.words(*containerd.run_words("--rm", IMAGE, f"c{number}", "echo", str(number))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for number in range(20)
    ]
    for number, one in enumerate(running):
        out, err = one.communicate(timeout=100)
        assert (one.returncode, out) == (0, f"{number}\n"), err
    assert containerd("task", "ls", "-q").stdout == ""
