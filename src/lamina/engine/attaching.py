"""Being attached to a container: to one that runs, or from before its start on."""

from __future__ import annotations

import os
import time
from errno import ECONNREFUSED, ENOENT

from lamina.errors import Conflict, KernelError, LaminaError
from lamina.linux.fd import Fd
from lamina.linux.messages import SOCK_SEQPACKET, connected, socketpair
from lamina.store.containers import PAUSED, RESTARTING, RUNNING
from lamina.store.events import about, note
from lamina.supervisor.client import Attached, Client, greet
from lamina.supervisor.keys import read_keys as read_keys
from lamina.supervisor.packets import SOCKET
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.containers import Home

# how long somebody who has just started may take to listen
PATIENCE = 5.0
# and who looks after a container, to remove it at its end: on a disk that is slow it takes its time
REMOVING = 60.0

__all__ = ["Attached", "Wanted", "attach", "start_attached", "wanted"]


@value
class Wanted:
    """What is attached: descriptors of the caller, -1 for none; `keys` are the bytes that detach from a terminal; with
    `proxy` signals are the container's, where it has no terminal.
    """

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2
    keys: bytes = b""
    proxy: bool = True


def wanted(stdin: int, keys: str | None, *, proxy: bool) -> Wanted:
    """Our output, and *stdin* (-1: none); *keys* in docker's notation. Raises InvalidInput."""
    return Wanted(stdin=stdin, keys=read_keys(keys), proxy=proxy)


def attach(home: Home, wanted: Wanted) -> Attached:
    """Attach to a running container and stay. Raises Conflict where it does not run, or is not to be attached to."""
    asked = home.asked()
    _check(home)
    channel = _connect(home, asked)
    client = _client(channel, asked, wanted)
    greet_as(channel, asked, wanted)
    note(home.store, about(asked, "attach"))
    return _ended(home, asked, client.stay())


def start_attached(
    home: Home, wanted: Wanted, on_warnings: Callable[[list[str]], None] | None = None
) -> Attached:
    """Start it, attached from before its first instruction on, so that nothing of what it writes is missed; stay.

    One that runs already is attached to. Raises what a start raises.
    """
    from lamina.engine.life import start

    asked = home.asked()
    if home.state() in (RUNNING, PAUSED, RESTARTING):
        return attach(home, wanted)
    ours, theirs = map(Fd, socketpair(SOCK_SEQPACKET))
    with theirs:
        channel = ours.steal()
        client = _client(channel, asked, wanted)
        try:
            greet_as(channel, asked, wanted)
            warnings = start(home, attached=theirs)
        except BaseException:
            client.close()
            raise
    note(home.store, about(asked, "attach"))
    if on_warnings is not None:
        on_warnings(warnings)
    return _ended(home, asked, client.stay())


def greet_as(channel: int, asked: dict[str, Any], wanted: Wanted) -> None:
    """Say hello as is *wanted* of the container whose record is *asked*."""
    options = asked.get("options") or {}
    greet(
        channel,
        stdin=wanted.stdin >= 0 and bool(options.get("interactive")),
        stdout=wanted.stdout >= 0,
        stderr=wanted.stderr >= 0,
        terminal=max(wanted.stdin, 0) if options.get("tty") else -1,
    )


def _client(channel: int, asked: dict[str, Any], wanted: Wanted) -> Client:
    options = asked.get("options") or {}
    tty = bool(options.get("tty"))
    stdin = wanted.stdin if options.get("interactive") else -1
    return Client(
        channel,
        stdin,
        wanted.stdout,
        wanted.stderr,
        tty=tty,
        keys=wanted.keys,
        proxy=wanted.proxy and not tty,
    )


def _check(home: Home) -> None:
    from lamina.engine.settling import state_of

    state = state_of(home)
    if state == PAUSED:
        raise Conflict(f"attach to container {home.shown}: it is paused", remedy="unpause it first")
    if state == RESTARTING:
        raise Conflict(f"attach to container {home.shown}: it is restarting", remedy="wait until it runs")
    if state != RUNNING:
        raise Conflict(
            f"attach to container {home.shown}: it is not running",
            remedy=f"lamina start -a {home.shown}",
        )


def _connect(home: Home, asked: dict[str, Any]) -> int:
    if not asked.get("detached"):
        raise Conflict(
            f"attach to container {home.shown}: the command that runs it is attached to it",
            remedy="start containers with -d to attach to them",
        )
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with Fd(os.open(home.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
                # the path itself may be too long for a socket (unix(7))
                return connected(SOCK_SEQPACKET, b"/proc/self/fd/%d/%s" % (place, SOCKET))
        except OSError as error:
            if error.errno not in (ENOENT, ECONNREFUSED):
                raise KernelError("connect", error.errno or 0, os.fsdecode(home.path)) from error
            _check(home)
            if time.monotonic() > end:
                raise Conflict(f"attach to container {home.shown}: nobody looks after it") from None
        time.sleep(0.02)


def _ended(home: Home, asked: dict[str, Any], attached: Attached) -> Attached:
    if attached.keys:
        note(home.store, about(asked, "detach"))
    if attached.lost:
        return _unattended(home)
    if attached.status is not None and asked.get("rm"):  # who waits for its end expects it to be gone
        _await_removal(home)
    return attached


def _await_removal(home: Home) -> None:
    """Until it is gone; not, where somebody starts it again, or was killed."""
    from lamina.engine.settling import is_kept

    end = time.monotonic() + REMOVING
    while home.exists() and home.is_looked_after() and not is_kept(home) and time.monotonic() < end:
        time.sleep(0.002)


def _unattended(home: Home) -> Attached:
    """Nobody said that it ended: whoever looked after it was killed, or we came in the moment of its end."""
    from lamina.engine.settling import state_of

    if not home.exists():
        raise Conflict(f"attach to container {home.shown}: it has ended, and was removed")
    if state_of(home) in (RUNNING, PAUSED):
        raise LaminaError(
            f"attach to container {home.shown}: what looked after it was killed; it runs on",
            remedy=f"lamina attach {home.shown}",
        )
    end = home.read("exit") or {}
    if "status" not in end or end.get("unknown"):
        raise LaminaError(f"attach to container {home.shown}: what looked after it was killed")
    return Attached(status=int(end["status"]))
