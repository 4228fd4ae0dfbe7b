"""An image with busybox in it and nothing else, as a layer and as an OCI archive; made here, without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

IMAGE = "docker.io/library/box:latest"
APPLETS = (
    "sh",
    "sleep",
    "id",
    "echo",
    "cat",
    "tty",
    "true",
    "ps",
    "ls",
    "stat",
    "stty",
    "head",
    "seq",
    "kill",
)

# the caller's terminal has seven lines and seventy columns: it may take a moment until the container's has them too
ON_TERMINAL = """tty
for i in $(seq 1000); do test "$(stty size 2>/dev/null)" = "7 70" && break; sleep 0.1; done
stty size
test -t 0 && test -t 1 && test -t 2 && echo all
read -r line # podman's attach may leave with the container, before it has shown all
"""


def layer() -> bytes:
    """A tar archive of the root directory."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
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
    return archive.getvalue()


def write_archive(path: Path, *further: bytes) -> None:
    """Write an OCI archive of the image IMAGE, with *further* layers (tar archives) over the first."""
    blobs = [layer(), *further]

    def descriptor(kind: str, blob: bytes, **more: Any) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(blob), **more}

    layers = [descriptor("layer.v1.tar", blob) for blob in blobs]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    platform = {"os": "linux", "architecture": machine}
    config = {
        **platform,
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
    }
    said = json.dumps(config).encode()
    blobs.append(said)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", said),
        "layers": layers,
    }
    blobs.append(json.dumps(manifest).encode())
    named = {"io.containerd.image.name": IMAGE}
    index = descriptor("manifest.v1+json", blobs[-1], platform=platform, annotations=named)
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [index]}).encode()
    files.update({f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs})
    with tarfile.open(path, "w") as tar:
        for file, data in files.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
