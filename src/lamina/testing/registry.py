"""A registry in threads of this process, on a port of this machine: the distribution specification, and its accidents.

    with FakeRegistry() as registry:
        registry.add_image("library/tiny", "1", {"bin/sh": b"..."}, {"etc/hosts": b"127.0.0.1 localhost\\n"})
        registry.faults.append(Fault("break", path="/blobs/", after=1000))    # the next answer breaks there
        ... pull f"{registry.host}/library/tiny:1" ...
        registry.found = [{"name": "team/tool", "description": "...", "star_count": 3}]    # what a search finds
        registry.requests        # what was asked: (method, path, headers)

It keeps everything in memory, believes nobody's digest, and can want tokens (`users`), or TLS (`context`).
"""

from __future__ import annotations

import gzip
import io
import json
import ssl
import tarfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from lamina.image.documents import media
from lamina.testing.distribution import Handler, Server, digest
from lamina.values import value

__all__ = ["FakeRegistry", "Fault", "digest", "layer_of"]


@value
class Fault:
    """What goes wrong, `times` times, with requests whose path contains `path` (and that have that `method`).

    kind: "status" (with `status` and `headers`), "break" (the connection, `after` that many bytes of the body),
    "web page", "other bytes" (of the same length), "more bytes", "redirect" (to `location`), "other part" (of a range),
    "no range" (all of it is sent whatever was asked), "no length" (no Content-Length), "lie" (`headers` are replaced),
    "trickle" (after that many bytes a byte comes now and then, until the registry ends),
    "stall" (nothing comes after that many bytes of the body, of what is no GET not even an answer, until the registry
    ends; `stalled` is set when it begins).
    """

    kind: str
    path: str = ""
    method: str = ""
    times: int = 1
    status: int = 500
    after: int = 0
    location: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def layer_of(files: Mapping[str, bytes]) -> bytes:
    """The tar of a layer with these files, always the same bytes for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class FakeRegistry:
    """The registry: `host` is what to write into references. Everything in it may be looked at and changed."""

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        scheme: str = "bearer",
    ) -> None:
        self.users, self.scheme = dict(users or {}), scheme
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[bytes, str]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.sessions: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.token_life = 300
        self.page = 100
        self.found: list[dict[str, Any]] | None = None  # what /v1/search finds; None: there is no such thing
        self.catalog = True
        self.stalled, self.ended = threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.registry = self
        self.secure = context is not None
        if context is not None:
            # the handshake is the thread's: one that hangs must not keep the others waiting
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeRegistry:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    # -- what is in it

    def add_blob(self, repository: str, data: bytes) -> str:
        """Keep a blob; its digest."""
        self.blobs.setdefault(repository, {})[digest(data)] = data
        return digest(data)

    def add_manifest(
        self, repository: str, document: Mapping[str, Any] | bytes, kind: str, tag: str = ""
    ) -> str:
        """Keep a manifest or index; its digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.manifests.setdefault(repository, {})[digest(data)] = data, kind
        if tag:
            self.tags.setdefault(repository, {})[tag] = digest(data)
        return digest(data)

    def add_image(
        self,
        repository: str,
        tag: str,
        *layers: Mapping[str, bytes] | bytes,
        platform: str = "linux/amd64",
        config: Mapping[str, Any] | None = None,
        docker: bool = False,
    ) -> str:
        """Keep an image of layers (files, or a ready tar), gzipped; the digest of its manifest."""
        tars = [layer if isinstance(layer, bytes) else layer_of(layer) for layer in layers]
        system, architecture, *variant = platform.split("/")
        document = {
            "architecture": architecture,
            "os": system,
            **({"variant": variant[0]} if variant else {}),
            "config": {"Env": ["PATH=/bin"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
        }
        kinds = (
            (media.DOCKER_MANIFEST, media.DOCKER_CONFIG, media.DOCKER_LAYER_GZIP)
            if docker
            else (media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER_GZIP)
        )
        return self.add_manifest(
            repository,
            {
                "schemaVersion": 2,
                "mediaType": kinds[0],
                "config": self.descriptor(repository, json.dumps(document).encode(), kinds[1]),
                "layers": [
                    self.descriptor(repository, gzip.compress(tar, mtime=0), kinds[2]) for tar in tars
                ],
            },
            kinds[0],
            tag,
        )

    def add_index(
        self, repository: str, tag: str, platforms: Mapping[str, str], kind: str = media.OCI_INDEX
    ) -> str:
        """Keep an index of manifests (platform: digest) that are there; its digest."""
        entries = []
        for platform, manifest in platforms.items():
            system, architecture, *variant = platform.split("/")
            data, media_type = self.manifests[repository][manifest]
            where = {
                "os": system,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
            }
            entries.append(
                {"mediaType": media_type, "digest": manifest, "size": len(data), "platform": where}
            )
        return self.add_manifest(
            repository, {"schemaVersion": 2, "mediaType": kind, "manifests": entries}, kind, tag
        )

    def descriptor(self, repository: str, data: bytes, kind: str) -> dict[str, Any]:
        """Keep a blob; its descriptor."""
        return {"mediaType": kind, "digest": self.add_blob(repository, data), "size": len(data)}

    def asked(self, method: str, text: str = "") -> list[str]:
        """The paths that contain *text* which were asked with *method*."""
        return [path for verb, path, _ in self.requests if verb == method and text in path]

    # -- what goes wrong

    def fault(self, method: str, path: str) -> Fault | None:
        """What goes wrong with this request, and one time less from now on."""
        with self._turn:
            for place, fault in enumerate(self.faults):
                if fault.path in path and fault.method in ("", method):
                    if fault.times > 1:
                        changed = {**vars(fault), "times": fault.times - 1}
                        self.faults[place] = Fault(**changed)
                    else:
                        del self.faults[place]
                    return fault
        return None

    # -- who may

    def give_token(self, scopes: list[str]) -> str:
        """A new token that is good for *scopes*."""
        with self._turn:
            token = f"token-{len(self.tokens)}"
            self.tokens[token] = " ".join(scopes)
            return token

    def new_session(self) -> str:
        """A new upload session."""
        with self._turn:
            session = str(len(self.sessions))
            self.sessions[session] = b""
            return session
