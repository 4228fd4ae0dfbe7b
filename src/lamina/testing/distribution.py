"""What a registry says over HTTP, and how it goes wrong: the distribution specification, for `testing.registry`."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from lamina.testing.registry import FakeRegistry

_NAME = r"/v2/(?P<name>[a-z0-9/._-]+?)"
_ROUTES = (
    ("manifests", re.compile(_NAME + r"/manifests/(?P<what>[^/]+)$")),
    ("session", re.compile(_NAME + r"/blobs/uploads/(?P<what>[0-9]+)$")),
    ("uploads", re.compile(_NAME + r"/blobs/uploads/$")),
    ("blobs", re.compile(_NAME + r"/blobs/(?P<what>[^/]+)$")),
    ("tags", re.compile(_NAME + r"/tags/list$")),
)
_LISTS = {"/v1/search": "search", "/v2/_catalog": "catalog"}


def digest(data: bytes) -> str:
    """The digest of *data*."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Listens, with a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    registry: FakeRegistry

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, to be able to end it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End every connection, whatever is being said there."""
        for request in list(self._open):
            try:
                request.shutdown(2)
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are the point."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 30

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""

    def handle_one_request(self) -> None:
        """A client that goes away in the middle is no error."""
        try:
            super().handle_one_request()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def do_GET(self) -> None:
        """Any request: what goes wrong with it first."""
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
        """Find out what is asked for, and by whom."""
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
        """Whether who asks may do *action* with the repository *name*; if not, he is told."""
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
        """The user that the header of basic authentication names, if the password is his; else ""."""
        name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return name if name and self.server.registry.users.get(name) == password else ""

    def token(self, body: bytes) -> None:
        """A token, for whoever has a password or a refresh token; without either, for what nobody needs one for."""
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
        """A manifest by tag or digest, got or put."""
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
        """A page of tags."""
        registry = self.server.registry
        if name not in registry.tags:
            return self.error(404, "NAME_UNKNOWN")
        tags = sorted(tag for tag in registry.tags[name] if tag > query.get("last", ""))
        page, more = tags[: registry.page], tags[registry.page :]
        headers = {"Link": f'</v2/{name}/tags/list?last={page[-1]}>; rel="next"'} if more else {}
        return self.answer(200, json.dumps({"name": name, "tags": page}).encode(), headers)

    def serve_search(self, query: dict[str, str]) -> None:
        """What a search finds."""
        registry = self.server.registry
        if registry.found is None:
            return self.error(404, "UNSUPPORTED")
        found = [one for one in registry.found if query["q"] in json.dumps(one)][: int(query["n"])]
        answer = {"num_results": len(found), "query": query["q"], "results": found}
        return self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def serve_catalog(self, query: dict[str, str]) -> None:
        """A page of repositories."""
        registry = self.server.registry
        if not registry.catalog:
            return self.error(404, "UNSUPPORTED")
        names = sorted(name for name in registry.manifests if name > query.get("last", ""))
        page, more = names[: registry.page], names[registry.page :]
        headers = {"Link": f'</v2/_catalog?last={page[-1]}>; rel="next"'} if more else {}
        return self.answer(200, json.dumps({"repositories": page}).encode(), headers)

    def serve_blobs(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        """A blob, or the rest of one."""
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
        """An upload begins, or a blob of another repository is taken."""
        registry = self.server.registry
        source = registry.blobs.get(query.get("from", ""), {})
        if query.get("mount") in source and self.may(query["from"], "pull"):
            registry.add_blob(name, source[query["mount"]])
            return self.answer(201, b"", {"Location": f"/v2/{name}/blobs/{query['mount']}"})
        return self.progress(name, registry.new_session(), 202)

    def serve_session(self, name: str, what: str, query: dict[str, str], body: bytes) -> None:
        """A piece of an upload, its end, or how far it is."""
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
        """How far an upload is."""
        count = len(self.server.registry.sessions[session])
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{session}?_state=x%2By",
            "Range": f"0-{max(count - 1, 0)}",
        }
        self.answer(status, b"", headers)

    # -- answers

    def error(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        """An answer that says what is wrong."""
        body = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
        self.answer(
            status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """An answer, unless something is to go wrong with it."""
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
            cut = fault is not None and kind in ("break", "stall", "trickle")
            self.wfile.write(body[: fault.after] if cut and fault is not None else body)
            if kind == "trickle" and fault is not None:
                self.trickle(body[fault.after :])
        self.wfile.flush()
        if kind == "stall":
            self.stall()

    def trickle(self, rest: bytes) -> None:
        """Say the rest a byte at a time, until the registry ends."""
        for byte in rest:
            self.wfile.write(bytes((byte,)))
            if self.server.registry.ended.wait(0.1):
                break
        self.close_connection = True

    def stall(self) -> None:
        """Say nothing more until the registry ends."""
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
