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

import base64
import gzip
import hashlib
import http.server
import io
import json
import re
import ssl
import tarfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lamina.image.documents import media
from lamina.values import value

__all__ = ["FakeRegistry", "Fault", "layer_of"]

_NAME = r"/v2/(?P<name>[a-z0-9/._-]+?)"
_ROUTES = (
    ("manifests", re.compile(_NAME + r"/manifests/(?P<what>[^/]+)$")),
    ("session", re.compile(_NAME + r"/blobs/uploads/(?P<what>[0-9]+)$")),
    ("uploads", re.compile(_NAME + r"/blobs/uploads/$")),
    ("blobs", re.compile(_NAME + r"/blobs/(?P<what>[^/]+)$")),
    ("tags", re.compile(_NAME + r"/tags/list$")),
)
_LISTS = {"/v1/search": "search", "/v2/_catalog": "catalog"}


@value
class Fault:
    """What goes wrong, `times` times, with requests whose path contains `path` (and that have that `method`).

    kind: "status" (with `status` and `headers`), "break" (the connection, `after` that many bytes of the body),
    "web page", "other bytes" (of the same length), "more bytes", "redirect" (to `location`), "other part" (of a range),
    "no range" (all of it is sent whatever was asked), "no length" (no Content-Length), "lie" (`headers` are replaced),
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


def digest(data: bytes) -> str:
    """The digest of *data*."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


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
        self._server = _Server(("127.0.0.1", 0), _Handler)
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


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: FakeRegistry

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for request in list(self._open):
            try:
                request.shutdown(2)
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are the point."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 30

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.requests.append((self.command, self.path, dict(self.headers.items())))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = registry.fault(self.command, self.path)
        self.fault = fault
        if fault is not None and fault.kind == "status":
            return self.answer(fault.status, b'{"errors": []}', dict(fault.headers))
        if fault is not None and fault.kind == "web page":
            return self.answer(200, b"<html>welcome</html>", {"Content-Type": "text/html; charset=utf-8"})
        if fault is not None and fault.kind == "redirect":
            return self.answer(307, b"", {"Location": fault.location})
        if fault is not None and fault.kind == "break" and self.command not in ("GET", "HEAD"):
            self.close_connection = True
            return None
        if fault is not None and fault.kind == "stall" and self.command != "GET":
            return self.stall()
        if self.path.startswith("/token"):
            return self.token(body)
        return self.serve(body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def serve(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        for kind, pattern in _ROUTES:
            if found := pattern.fullmatch(parts.path):
                write = self.command not in ("GET", "HEAD")
                if not self.may(found["name"], "push" if write else "pull"):
                    return
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                what = found.groupdict().get("what", "")
                getattr(self, f"serve_{kind}")(found["name"], what, query, body)
                return
        if parts.path == "/v2/":
            if self.may("", ""):
                self.answer(200, b"{}")
            return
        if parts.path in _LISTS:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            return getattr(self, f"serve_{_LISTS[parts.path]}")(query)  # type: ignore[no-any-return]
        self.error(404, "NAME_UNKNOWN")

    # -- authentication

    def may(self, name: str, action: str) -> bool:
        registry = self.server.registry
        if not registry.users:
            return True
        sent = self.headers.get("Authorization", "")
        if registry.scheme == "basic":
            if self.user(sent):
                return True
            self.error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="fake"'})
            return False
        scope = f"repository:{name}:{action}" if name else ""
        allowed = registry.tokens.get(sent.removeprefix("Bearer "))
        if allowed is not None and (not name or any(_covers(one, name, action) for one in allowed.split())):
            return True
        scheme = "https" if registry.secure else "http"
        challenge = f'Bearer realm="{scheme}://{registry.host}/token",service="fake"'
        if scope:
            challenge += f',scope="{scope}"'
        self.error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        return False

    def user(self, header: str) -> str:
        name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return name if name and self.server.registry.users.get(name) == password else ""

    def token(self, body: bytes) -> None:
        registry = self.server.registry
        if self.command == "POST":
            form = parse_qs(body.decode())
            user = registry.refresh_tokens.get(form.get("refresh_token", [""])[0], "")
            scopes = form.get("scope", [""])[0].split()
        else:
            user = (
                self.user(self.headers.get("Authorization", ""))
                if self.headers.get("Authorization")
                else "nobody"
            )
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        if not user:
            return self.error(401, "UNAUTHORIZED")
        if user == "nobody":
            scopes = [scope.replace("pull,push", "pull") for scope in scopes if ":public/" in scope]
        answer = {"token": registry.give_token(scopes), "expires_in": registry.token_life}
        return self.answer(200, json.dumps(answer).encode())

    # -- content

    def serve_manifests(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        registry = self.server.registry
        if self.command == "PUT":
            kind = self.headers.get("Content-Type", "")
            missing = [
                d
                for d in _referred(body)
                if d not in registry.blobs.get(name, {}) | registry.manifests.get(name, {})
            ]
            if missing:
                return self.error(400, "MANIFEST_BLOB_UNKNOWN")
            found = registry.add_manifest(name, body, kind, "" if ":" in what else what)
            return self.answer(
                201, b"", {"Docker-Content-Digest": found, "Location": f"/v2/{name}/manifests/{found}"}
            )
        wanted = what if ":" in what else registry.tags.get(name, {}).get(what, "")
        kept = registry.manifests.get(name, {}).get(wanted)
        if kept is None:
            return self.error(404, "MANIFEST_UNKNOWN")
        return self.answer(200, kept[0], {"Content-Type": kept[1], "Docker-Content-Digest": wanted})

    def serve_tags(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        registry = self.server.registry
        if name not in registry.tags:
            return self.error(404, "NAME_UNKNOWN")
        tags = sorted(tag for tag in registry.tags[name] if tag > query.get("last", ""))
        page, more = tags[: registry.page], tags[registry.page :]
        headers = {"Link": f'</v2/{name}/tags/list?last={page[-1]}>; rel="next"'} if more else {}
        return self.answer(200, json.dumps({"name": name, "tags": page}).encode(), headers)

    def serve_search(self, query: dict[str, str]) -> None:
        registry = self.server.registry
        if registry.found is None:
            return self.error(404, "UNSUPPORTED")
        found = [one for one in registry.found if query["q"] in json.dumps(one)][: int(query["n"])]
        answer = {"num_results": len(found), "query": query["q"], "results": found}
        return self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def serve_catalog(self, query: dict[str, str]) -> None:
        registry = self.server.registry
        if not registry.catalog:
            return self.error(404, "UNSUPPORTED")
        names = sorted(name for name in registry.manifests if name > query.get("last", ""))
        page, more = names[: registry.page], names[registry.page :]
        headers = {"Link": f'</v2/_catalog?last={page[-1]}>; rel="next"'} if more else {}
        return self.answer(200, json.dumps({"repositories": page}).encode(), headers)

    def serve_blobs(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        data = self.server.registry.blobs.get(name, {}).get(what)
        if data is None:
            return self.error(404, "BLOB_UNKNOWN")
        kind = self.fault.kind if self.fault else ""
        if kind == "other bytes":
            data = bytes(byte ^ 1 for byte in data)
        elif kind == "more bytes":
            data += b"more"
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": what}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or kind == "no range":
            return self.answer(200, data, headers)
        start = int(asked[1]) + (1 if kind == "other part" else 0)
        if start >= len(data):
            return self.answer(416, b"")
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.answer(206, data[start:], headers)

    def serve_uploads(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        registry = self.server.registry
        source = registry.blobs.get(query.get("from", ""), {})
        if query.get("mount") in source and self.may(query["from"], "pull"):
            registry.add_blob(name, source[query["mount"]])
            return self.answer(201, b"", {"Location": f"/v2/{name}/blobs/{query['mount']}"})
        return self.progress(name, registry.new_session(), 202)

    def serve_session(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        registry = self.server.registry
        if what not in registry.sessions:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        kept = registry.sessions[what]
        if self.command == "DELETE":
            del registry.sessions[what]
            return self.answer(204, b"")
        if self.command == "GET":
            return self.progress(name, what, 204)
        wanted = self.headers.get("Content-Range", "")
        if wanted and int(wanted.partition("-")[0]) != len(kept):
            return self.progress(name, what, 416)
        registry.sessions[what] = kept + body
        if self.command == "PATCH":
            return self.progress(name, what, 202)
        if digest(kept + body) != query.get("digest"):
            return self.error(400, "DIGEST_INVALID")
        del registry.sessions[what]
        found = registry.add_blob(name, kept + body)
        return self.answer(
            201, b"", {"Location": f"/v2/{name}/blobs/{found}", "Docker-Content-Digest": found}
        )

    def progress(self, name: str, session: str, status: int) -> None:
        count = len(self.server.registry.sessions[session])
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{session}?_state=x%2By",
            "Range": f"0-{max(count - 1, 0)}",
        }
        self.answer(status, b"", headers)

    # -- answers

    def error(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        body = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
        self.answer(
            status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        fault = self.fault
        kind = fault.kind if fault else ""
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        if kind == "lie" and fault is not None:
            sent.update(dict(fault.headers))
        if kind == "no length" or status == 204:
            del sent["Content-Length"]
        if kind in ("no length", "break"):
            self.close_connection = True
        self.send_response(status)
        for name, text in sent.items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            cut = fault is not None and kind in ("break", "stall")
            self.wfile.write(body[: fault.after] if cut and fault is not None else body)
        self.wfile.flush()
        if kind == "stall":
            self.stall()

    def stall(self) -> None:
        self.close_connection = True
        self.server.registry.stalled.set()
        self.server.registry.ended.wait()


def _covers(scope: str, name: str, action: str) -> bool:
    kind, _, rest = scope.partition(":")
    found, _, actions = rest.rpartition(":")
    return kind == "repository" and found == name and action in actions.split(",")


def _referred(data: bytes) -> list[str]:
    document = json.loads(data)
    entries = [*document.get("layers", ()), *document.get("manifests", ())]
    if "config" in document:
        entries.append(document["config"])
    return [entry["digest"] for entry in entries]
