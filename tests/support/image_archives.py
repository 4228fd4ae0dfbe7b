"""Archives of images as others write them: docker's old and new form, OCI archives and layouts. Made with tarfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Files = Mapping[str, bytes]
OCI = "application/vnd.oci.image."


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(files: Files, links: Mapping[str, str] | None = None) -> bytes:
    """A tar archive of files (names that end in "/" are directories) and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.mode, info.size = 0o755, len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def tree_tar(place: Path) -> bytes:
    """A directory as a tar archive, as `tar -C DIR -c .` has it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(place, ".")
    return buffer.getvalue()


class ImageSource:
    """An image in parts: uncompressed layers and a config."""

    def __init__(self, *layers: bytes, config: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.layers = layers
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-01T12:00:00.123456789Z",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
            **more,
        }
        self.config = json.dumps(document).encode()
        self.id = hashlib.sha256(self.config).hexdigest()

    def oci(
        self, compress: Callable[[bytes], bytes] = lambda data: data, suffix: str = ""
    ) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The blobs by member name, and the descriptor of the manifest."""
        blobs = [compress(layer) for layer in self.layers]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI + "manifest.v1+json",
                "config": _descriptor(OCI + "config.v1+json", self.config),
                "layers": [_descriptor(OCI + "layer.v1.tar" + suffix, blob) for blob in blobs],
            }
        ).encode()
        members = {_member(data): data for data in (*blobs, self.config, manifest)}
        return members, _descriptor(OCI + "manifest.v1+json", manifest)


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def _member(data: bytes) -> str:
    return "blobs/sha256/" + hashlib.sha256(data).hexdigest()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def old_docker(*images: tuple[ImageSource, list[str]]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What `docker save` wrote from 1.10 to 24: layers in directories, the second of the same a link to the first."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    first: dict[bytes, str] = {}
    entries = []
    for number, (image, tags) in enumerate(images):
        paths = []
        for depth, layer in enumerate(image.layers):
            path = f"{number}{depth}{'0' * 62}/layer.tar"
            paths.append(path)
            if layer in first:
                links[path] = "../" + first[layer]
            else:
                files[path], first[layer] = layer, path
        files[f"{image.id}.json"] = image.config
        entries.append({"Config": f"{image.id}.json", "RepoTags": tags or None, "Layers": paths})
    files["manifest.json"] = json.dumps(entries).encode()
    files["repositories"] = b"{}"
    return files, links


def layout(
    *images: tuple[ImageSource, str | None],
    compress: Callable[[bytes], bytes] = lambda data: data,
    suffix: str = "",
    key: str = "io.containerd.image.name",
) -> dict[str, bytes]:
    """An OCI layout, the images under these names."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    manifests = []
    for image, name in images:
        members, descriptor = image.oci(compress, suffix)
        files |= members
        manifests.append({**descriptor, **({"annotations": {key: name}} if name else {})})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return files


def new_docker(image: ImageSource, tag: str) -> dict[str, bytes]:
    """What `docker save` writes from 25 on: a layout, and manifest.json beside it."""
    files = layout((image, f"docker.io/library/{tag}"))
    entry = {
        "Config": _member(image.config),
        "RepoTags": [tag],
        "Layers": [_member(layer) for layer in image.layers],
    }
    return {**files, "manifest.json": json.dumps([entry]).encode()}


def unpacked(files: Files, place: Path) -> Path:
    """The same as a directory."""
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place
