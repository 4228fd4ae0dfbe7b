"""An image of a few hundred MB, Debian and Python, cut into several gzip layers: made once, kept as an OCI layout.

What is in it are real packages, so that numbers and sizes of files are those that images have. A second image has the
same layers and a small one more. It is kept in `~/.cache/lamina/bench`; to make it anew, remove that.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measure import Failed, Missing

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-setuptools,python3-numpy,perl,ca-certificates"
LAYERS = 6
TAG, SECOND = "1", "2"
FORM = 1  # to be raised if how it is made changes
OCI = "application/vnd.oci.image"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def layout() -> Path:
    """The directory of the layout, made if it is not there: mmdebstrap and a minute or two."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina" / "bench"
    wanted = hashlib.sha256(f"{FORM} {SUITE} {PACKAGES} {LAYERS}".encode()).hexdigest()[:10]
    place = cache / f"{SUITE}-{wanted}"
    if place.is_dir():
        return place
    if shutil.which("mmdebstrap") is None:
        raise Missing("the image that is pulled is made with mmdebstrap: install it")
    cache.mkdir(parents=True, exist_ok=True)
    print(f"making an image of Debian {SUITE} and Python in {place} (once) ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as new:
        archive = Path(new, "root.tar")
        _debootstrap(archive)
        made = Path(new, "layout")
        (made / "blobs" / "sha256").mkdir(parents=True)
        _write(made, archive)
        made.rename(place)
    return place


def blobs_of(place: Path) -> list[Path]:
    """The compressed layers of the first image, base first."""
    index = json.loads((place / "index.json").read_text())
    manifest = json.loads(_path(place, index["manifests"][0]["digest"]).read_text())
    return [_path(place, layer["digest"]) for layer in manifest["layers"]]


def _debootstrap(archive: Path) -> None:
    words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
    done = subprocess.run([*words, SUITE, archive], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"mmdebstrap: {done.stderr.strip()[-500:]}")


def _write(place: Path, archive: Path) -> None:
    """The layout with both images."""
    layers = [_keep(place, f"{OCI}.layer.v1.tar+gzip", part) for part in _cut(archive)]
    more = io.BytesIO()
    with tarfile.open(fileobj=more, mode="w") as small:
        info = tarfile.TarInfo("srv/second")
        info.size = 7
        small.addfile(info, io.BytesIO(b"second\n"))
    further = _keep(place, f"{OCI}.layer.v1.tar+gzip", more.getvalue())
    entries = []
    for tag, those in ((TAG, layers), (SECOND, [*layers, further])):
        config = {
            "architecture": MACHINES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["python3"]},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in those]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _blob(place, f"{OCI}.config.v1+json", json.dumps(config).encode()),
            "layers": [descriptor for descriptor, _ in those],
        }
        entry = _blob(place, f"{OCI}.manifest.v1+json", json.dumps(manifest).encode())
        entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def _cut(archive: Path) -> Iterable[bytes]:
    """Archives of a part each, about as large as each other.

    A hard link goes where its target is, and above everything are the directories that it is in: a layer can be
    unpacked alone.
    """
    with tarfile.open(archive) as whole:
        members = [member for member in whole.getmembers() if not member.isdev()]
        directories = {member.name: member for member in members if member.isdir()}
        share = sum(member.size for member in members) // LAYERS + 1
        parts: list[list[tarfile.TarInfo]] = [[] for _ in range(LAYERS)]
        where: dict[str, int] = {}
        size = 0
        for member in members:
            number = where[member.linkname] if member.islnk() else size // share
            where[member.name] = number
            parts[number].append(member)
            size += member.size
        for part in parts:
            written: set[str] = set()
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
                for member in part:
                    for name in (*_above(member.name), member.name):
                        if name in written or (name != member.name and name not in directories):
                            continue
                        written.add(name)
                        one = member if name == member.name else directories[name]
                        out.addfile(one, whole.extractfile(one) if one.isreg() else None)
            yield buffer.getvalue()


def _above(name: str) -> list[str]:
    """The directories that *name* is in, the uppermost first."""
    words = name.split("/")
    return ["/".join(words[:depth]) for depth in range(1, len(words))]


def _keep(place: Path, kind: str, archive: bytes) -> tuple[dict[str, Any], str]:
    """The descriptor of the compressed archive, and its diff_id."""
    packer = zlib.compressobj(6, wbits=31)
    return _blob(place, kind, packer.compress(archive) + packer.flush()), _digest(archive)


def _blob(place: Path, kind: str, data: bytes) -> dict[str, Any]:
    _path(place, _digest(data)).write_bytes(data)
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _path(place: Path, digest: str) -> Path:
    return place / "blobs" / "sha256" / digest.partition(":")[2]
