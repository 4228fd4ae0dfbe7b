"""Who we are to a registry: docker's `config.json`, podman's `auth.json`, and credential helpers.

    {"auths": {"quay.io": {"auth": base64 of "user:password"}, "docker.io/team": {"identitytoken": "..."}},
     "credHelpers": {"gcr.io": "gcloud"}, "credsStore": "secretservice"}

The first file that knows the registry counts. An entry for a repository (`quay.io/team/tool`) comes before one for what
it is in, as podman has it; a helper for the registry before the store, and that before the file, as docker has it.
A helper is a program `docker-credential-NAME`: the server on its input, JSON on its output, a clean environment.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from lamina.errors import InvalidInput, RegistryError
from lamina.image.registry.places import Places
from lamina.values import value

__all__ = ["Credentials", "Login"]

LARGEST = 1 << 20
HELPER_TIMEOUT = 60.0  # seconds: some ask a person
HUB = "https://index.docker.io/v1/"  # what docker calls Docker Hub here
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_TOKEN_USER = "<token>"
# What a helper may need: the user, the session's key ring, the clouds' own settings. Nothing that loads code.
_KEPT = (
    r"(HOME|PATH|USER|LOGNAME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|TMPDIR|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|XDG_[A-Z_]+"
    r"|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|GPG_[A-Z_]+|PASSWORD_STORE_[A-Z_]+|SSH_AUTH_SOCK|DOCKER_CONFIG"
    r"|(AWS|AZURE|GOOGLE|CLOUDSDK|GCR|ECR|ACR|OCI)_[A-Z0-9_]+|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)"
)


@value
class Login:
    """Who we are: a name and a password, or an identity token (OAuth 2's refresh token) instead of the password."""

    username: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:  # secrets do not end in logs and tracebacks
        return f"Login(username={self.username!r}, ...)"


class Credentials:
    """The credentials of these places."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def find(self, host: str, repository: str = "") -> Login | None:
        """Who we are to the registry *host* (as it is in references, with its port), for that repository.

        Raises InvalidInput for a file that cannot be read, RegistryError for a helper that fails.
        """
        for path in self.places.credentials():
            found = self._in_file(_read(path), path, host, repository)
            if found is not None:
                return found
        return None

    def _in_file(self, content: dict[str, Any], path: str, host: str, repository: str) -> Login | None:
        helper = self._helper(content, path, host)
        if helper is not None:
            name, server = helper
            return self._ask(name, server)
        entries = _dictionary(content, "auths", path)
        for name in _names(host, repository):
            for key, entry in entries.items():
                if _same(key, name) and (login := _decoded(entry, key, path)) is not None:
                    return login
        return None

    def _helper(self, content: dict[str, Any], path: str, host: str) -> tuple[str, str] | None:
        """The helper's name for *host* and what it calls the server."""
        for key, name in _dictionary(content, "credHelpers", path).items():
            if _same(key, host):
                return str(name), key if _hub(host) and key.startswith("https:") else _server(host)
        store = content.get("credsStore")
        return (str(store), _server(host)) if store else None

    def save(self, host: str, login: Login) -> str:
        """Keep *login* for *host*: with the helper that is configured for it, else in the first file.

        Where it is kept now. Raises InvalidInput, RegistryError.
        """
        path = self.places.credentials()[0]
        content = _read(path)
        helper = self._helper(content, path, host)
        if helper is not None:
            name, server = helper
            secret = login.token or login.password
            username = _TOKEN_USER if login.token else login.username
            message = json.dumps({"ServerURL": server, "Username": username, "Secret": secret})
            self._run(name, "store", message)
            return f"docker-credential-{name}"
        entry: dict[str, str] = {
            "auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        }
        if login.token:
            entry = {
                "auth": base64.b64encode(f"{login.username}:".encode()).decode(),
                "identitytoken": login.token,
            }

        def change(auths: dict[str, Any]) -> bool:
            for key in [key for key in auths if _same(key, host)]:
                del auths[key]
            auths[_server(host)] = entry
            return True

        _change(path, change)
        return path

    def forget(self, host: str) -> list[str]:
        """Forget all credentials for *host*, wherever they are kept; where they were. Raises InvalidInput."""
        gone = []
        for path in self.places.credentials():
            helper = self._helper(content := _read(path), path, host)
            if helper is not None and self._ask(*helper) is not None:
                self._run(helper[0], "erase", helper[1])
                gone.append(f"docker-credential-{helper[0]}")
            if not any(_same(key, host) for key in _dictionary(content, "auths", path)):
                continue

            def change(auths: dict[str, Any]) -> bool:
                keys = [key for key in auths if _same(key, host)]
                for key in keys:
                    del auths[key]
                return bool(keys)

            if _change(path, change):
                gone.append(path)
        return gone

    def _ask(self, name: str, server: str) -> Login | None:
        said = self._run(name, "get", server)
        if said is None:
            return None
        try:
            found = json.loads(said)
            username, secret = found["Username"], found["Secret"]
            if not (isinstance(username, str) and isinstance(secret, str)):
                raise TypeError("Username and Secret are text")
        except (ValueError, KeyError, TypeError):
            raise RegistryError(f"run docker-credential-{name}: its answer is no credentials") from None
        if username == _TOKEN_USER:
            return Login(token=secret)
        return Login(username, secret) if username or secret else None

    def _run(self, name: str, verb: str, message: str) -> str | None:
        """Run the helper; None if it says that it has no such credentials. Raises RegistryError."""
        import shutil
        import subprocess

        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InvalidInput(f"run credential helper {name!r}: not the name of one")
        environment = {key: text for key, text in self.places.environment.items() if re.fullmatch(_KEPT, key)}
        program = shutil.which(f"docker-credential-{name}", path=environment.get("PATH"))
        if program is None:
            raise RegistryError(
                f"run docker-credential-{name}: not found", remedy="install it, or take it out of config.json"
            )
        try:
            done = subprocess.run(
                [program, verb],
                input=message.encode(),
                capture_output=True,
                env=environment,
                timeout=HELPER_TIMEOUT,
                check=False,
                cwd="/",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryError(f"run docker-credential-{name} {verb}: {error}") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode == 0:
            return said
        complaint = (said + done.stderr.decode(errors="replace")).strip()
        if verb != "store" and "credentials not found" in complaint.lower():
            return None
        raise RegistryError(
            f"run docker-credential-{name} {verb}: status {done.returncode}: {complaint[:300]}"
        )


# -- keys


def _hub(host: str) -> bool:
    return host in _HUB_NAMES


def _server(host: str) -> str:
    """What docker calls the registry in its file."""
    return HUB if _hub(host) else host


def _names(host: str, repository: str) -> Iterator[str]:
    """What may be in a file about it, the most exact first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        yield "/".join((host, *parts[:count]))
    yield host


def _same(key: str, name: str) -> bool:
    """Whether a file's *key*, perhaps with scheme and version, means *name*."""
    plain = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    if plain != key.rstrip("/") or plain.endswith(("/v1", "/v2")):  # docker's old form: only the host counts
        plain = plain.partition("/")[0]
    head, slash, rest = plain.partition("/")
    if _hub(head):
        head = "docker.io"
    host, _, repository = name.partition("/")
    return (
        f"{head}{slash}{rest}"
        == f"{'docker.io' if _hub(host) else host}{'/' if repository else ''}{repository}"
    )


# -- files


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidInput(f"read {path}: {os.strerror(error.errno or 0)}") from None
    if len(data) > LARGEST:
        raise InvalidInput(f"read {path}: larger than {LARGEST} bytes")
    if not data.strip():
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(
            f"read {path}: not JSON", remedy="mend it, or move it away and log in again"
        ) from None
    if not isinstance(found, dict):
        raise InvalidInput(f"read {path}: not a JSON object")
    return found


def _dictionary(content: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    found = content.get(name) or {}
    if not isinstance(found, dict):
        raise InvalidInput(f"read {path}: {name} is no JSON object")
    return found


def _decoded(entry: Any, key: str, path: str) -> Login | None:
    if not isinstance(entry, dict):
        raise InvalidInput(f"read {path}: the entry of {key} is no JSON object")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if auth := entry.get("auth"):
        try:
            text = base64.b64decode(str(auth), validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise InvalidInput(
                f"read {path}: the entry of {key} is not base64", remedy="log in again"
            ) from None
        username, colon, password = text.partition(":")
        if not colon:
            raise InvalidInput(f"read {path}: the entry of {key} is not user:password", remedy="log in again")
    token = str(entry.get("identitytoken") or "")
    return Login(username, password, token) if username or password or token else None


def _change(path: str, change: Callable[[dict[str, Any]], bool]) -> bool:
    """Change the entries in a file and nothing else in it: complete or not at all, readable for its owner alone."""
    path = os.path.realpath(path)  # people link theirs from elsewhere
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"write {path}: {os.strerror(error.errno or 0)}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # against another login of ours at the same time
        content = _read(path)
        auths = _dictionary(content, "auths", path)
        if not change(auths):
            return False
        content["auths"] = auths
        _replace(path, (json.dumps(content, indent="\t") + "\n").encode())
        os.fsync(descriptor)
        return True
    except OSError as error:
        raise InvalidInput(f"write {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(descriptor)


def _replace(path: str, data: bytes) -> None:
    staged = f"{path}.{os.urandom(8).hex()}"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
