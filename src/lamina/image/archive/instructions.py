"""Instructions of a Dockerfile that change a config: `--change` of `import` and `from-dir`.

https://docs.docker.com/reference/dockerfile/ - only what changes the config: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from typing import TYPE_CHECKING, Any

from lamina.errors import InvalidInput
from lamina.image.documents.duration import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Run = dict[str, Any]
SHELL = ["/bin/sh", "-c"]


def changed(run: Run, instructions: Iterable[str]) -> Run:
    """*run* (see `ImageRecord.run`) after the *instructions*, in their order. Raises InvalidInput.

    An ENTRYPOINT takes away the CMD that was there before all of them: it was another program's arguments.
    """
    has_own_cmd = False
    found = {key: list(text) if isinstance(text, list) else text for key, text in run.items()}
    for instruction in instructions:
        word, _, rest = instruction.strip().partition(" ")
        rest = rest.strip()
        read = READERS.get(word.upper())
        if read is None:
            raise InvalidInput(
                f"change {instruction!r}: {word or 'nothing'} is no instruction that changes a config",
                remedy=", ".join(READERS),
            )
        if not rest or "\0" in rest:
            raise InvalidInput(f"change {instruction!r}: it says nothing")
        try:
            read(found, rest)
            has_own_cmd = has_own_cmd or read is _cmd
            if read is _entrypoint and not has_own_cmd:
                found.pop("cmd", None)
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"change {instruction!r}: {error}") from None
    return found


def _command(run: Run, rest: str) -> list[str]:
    """The list as it stands, or a line for the shell."""
    if rest.startswith("["):
        words = _list(rest)
        if words is not None:
            return words
    return [*(run.get("shell") or SHELL), rest]


def _list(text: str) -> list[str] | None:
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _cmd(run: Run, rest: str) -> None:
    run["cmd"] = _command(run, rest)


def _entrypoint(run: Run, rest: str) -> None:
    run["entrypoint"] = _command(run, rest)


def _pairs(rest: str) -> list[tuple[str, str]]:
    """`A=1 B="2 3"`, or the old form `A the rest`."""
    first = rest.split(None, 1)[0]
    if "=" not in first:
        name, _, text = rest.partition(" ")
        if not text.strip():
            raise ValueError("it is not NAME=VALUE")
        return [(name, text.strip())]
    pairs = []
    for word in shlex.split(rest):
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is not NAME=VALUE")
        pairs.append((name, text))
    return pairs


def _env(run: Run, rest: str) -> None:
    variables = dict(entry.partition("=")[::2] for entry in run.get("env") or ())
    variables.update(_pairs(rest))
    run["env"] = [f"{name}={text}" for name, text in variables.items()]


def _label(run: Run, rest: str) -> None:
    run["labels"] = {**(run.get("labels") or {}), **dict(_pairs(rest))}


def _expose(run: Run, rest: str) -> None:
    ports = set(run.get("exposed_ports") or ())
    for word in rest.split():
        number, _, protocol = word.partition("/")
        low, _, high = number.partition("-")
        protocol = (protocol or "tcp").lower()
        good = all(
            text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16 for text in (low, high or low)
        )
        if not good or protocol not in ("tcp", "udp", "sctp") or int(high or low) < int(low):
            raise ValueError(f"{word!r} is not a port such as 80 or 53/udp")
        ports |= {f"{port}/{protocol}" for port in range(int(low), int(high or low) + 1)}
    run["exposed_ports"] = sorted(ports)


def _volume(run: Run, rest: str) -> None:
    words = _list(rest) if rest.startswith("[") else rest.split()
    if not words or not all(word.startswith("/") for word in words):
        raise ValueError("volumes are absolute paths")
    run["volumes"] = sorted({*(run.get("volumes") or ()), *map(posixpath.normpath, words)})


def _workdir(run: Run, rest: str) -> None:
    run["workdir"] = posixpath.normpath(posixpath.join("/", run.get("workdir") or "/", rest))


def _user(run: Run, rest: str) -> None:
    if len(rest.split()) != 1:
        raise ValueError("one user, or user:group")
    run["user"] = rest


def _stop_signal(run: Run, rest: str) -> None:
    if len(rest.split()) != 1:
        raise ValueError("one signal")
    run["stop_signal"] = rest


def _shell(run: Run, rest: str) -> None:
    words = _list(rest)
    if not words:
        raise ValueError('a list such as ["/bin/bash", "-c"]')
    run["shell"] = words


def _onbuild(run: Run, rest: str) -> None:
    word = rest.split()[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise ValueError(f"{word} cannot be triggered")
    run["onbuild"] = [*(run.get("onbuild") or ()), rest]


def _healthcheck(run: Run, rest: str) -> None:
    check: dict[str, Any] = {
        "test": None, "interval": 0, "timeout": 0, "start_period": 0, "start_interval": 0, "retries": 0
    }  # fmt: skip
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        key, equals, text = option[2:].partition("=")
        key, rest = key.replace("-", "_"), rest.strip()
        if not equals or key not in check or key == "test":
            raise ValueError(f"there is no option {option}")
        check[key] = _times(text) if key == "retries" else _duration(text)
    word, _, command = rest.partition(" ")
    if word.upper() == "NONE" and not command:
        check["test"] = ["NONE"]
    elif word.upper() == "CMD" and command.strip():
        words = _list(command.strip())
        check["test"] = ["CMD", *words] if words else ["CMD-SHELL", command.strip()]
    else:
        raise ValueError("it is HEALTHCHECK NONE, or HEALTHCHECK [OPTIONS] CMD command")
    run["healthcheck"] = check


def _times(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number of times")
    return int(text)


def _duration(text: str) -> int:
    found = duration(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 30s")
    return found


READERS: dict[str, Callable[[Run, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
