"""What a fork is asked to be: what its parent was asked, less what only one container can have, and what is said anew.

Its own are its name, host name, addresses and the ports of this host: two cannot have the same. What is shared because
nothing else would be right, its volumes and directories of this host, is named in a warning.
"""

from __future__ import annotations

import os

from lamina.engine.checking import NEVER, check_options
from lamina.engine.options import BIND, OVER, VOLUME, is_own
from lamina.errors import InvalidInput, Unsupported
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TypedDict

    from lamina.engine.networking import Networking
    from lamina.engine.options import AnyPath, Options, Volume

    class ForkOptions(TypedDict, total=False):
        """What can be asked of a fork anew: as of `Engine.start`; variables and labels are added to its parent's."""

        rm: bool
        hostname: str | None
        env: Sequence[str] | Mapping[str, str | None]
        labels: Sequence[str] | Mapping[str, str]
        workdir: AnyPath | None
        user: str | int | None
        memory: str | int | None
        cpus: str | float | None
        pids_limit: str | int | None
        network: str | Sequence[str]
        publish: Sequence[str]
        publish_all: bool
        restart: str | None
        stop_timeout: int | None
        timeout: float | None
        lifetime: str
        durability: str


# what can be asked anew, and the field of Options that says it
FIELDS = {
    "rm": "rm",
    "hostname": "hostname",
    "env": "env",
    "labels": "labels",
    "workdir": "workdir",
    "user": "user",
    "memory": "memory",
    "cpus": "cpu_quota",
    "pids_limit": "pids_limit",
    "network": "network",
    "restart": "restart",
    "stop_timeout": "stop_timeout",
    "timeout": "timeout",
    "lifetime": "lifetime",
    "durability": "durability",
}
NETWORKING = frozenset(("publish", "publish_all"))
KNOWN = FIELDS.keys() | NETWORKING


def options_of_fork(parent: Options, given: Mapping[str, Any], *, several: bool) -> Options:
    """The options of a container forked off one with those of *parent*, where *given* (LifeOptions) is asked anew; of
    one of *several*, with no port of this host by number.

    Raises InvalidInput, Unsupported for what is decided when a container's layers are laid down.
    """
    if unknown := sorted(given.keys() - KNOWN):
        raise Unsupported(
            f"fork: {', '.join(unknown)} cannot be asked of a fork: that is as its parent has it",
            remedy=f"what can be asked: {', '.join(sorted(KNOWN))}; for anything else commit, and run the image",
        )
    network = given.get("network", parent.network)
    checked = check_options({**given, "network": network})
    fields = {FIELDS[key]: getattr(checked, FIELDS[key]) for key in given.keys() & FIELDS.keys()}
    fields["env"] = (*parent.env, *checked.env)
    fields["labels"] = tuple({**dict(parent.labels), **dict(checked.labels)}.items())
    fields.setdefault("hostname", None)
    if checked.rm:
        fields.setdefault("restart", NEVER)
    elif checked.restart != NEVER:
        fields.setdefault("rm", False)
    fields["networking"] = _networking(parent, checked, given)
    if several and (taken := fields["networking"]) is not None and any(p.is_fixed for p in taken.published):
        raise InvalidInput(
            "fork: several forks cannot have the same port of this host",
            remedy="leave the port of this host out (-p 80): each gets one that is free",
        )
    return replace(parent, name=None, **fields)


def _networking(parent: Options, checked: Options, given: Mapping[str, Any]) -> Networking | None:
    """Of its ports those that may be any of this host's; no address. What is published anew is instead of them, and
    another network instead of all of the parent's.
    """
    if parent.networking is None:
        return checked.networking
    from lamina.engine.networking import NOTHING, is_linkless

    kept, asked = parent.networking, checked.networking or NOTHING
    kept = replace(
        kept,
        published=tuple(port for port in kept.published if not port.is_fixed),
        addresses=(),
        mac=b"",
        joined=tuple(replace(one, addresses=(), mac=b"") for one in kept.joined),
    )
    if "network" in given:
        kept = replace(kept, aliases=(), joined=asked.joined, words=asked.words)
        if is_linkless(checked.network):
            kept = replace(kept, published=(), publish_all=False, egress=None)
    if given.keys() & NETWORKING:
        kept = replace(kept, published=asked.published, publish_all=asked.publish_all)
    return None if kept == NOTHING else kept


def not_taken_over(parent: Options, given: Mapping[str, Any]) -> list[str]:
    """Warnings: what the *parent* has that its fork has not, though nobody said so."""
    found = []
    if parent.networking is not None and not given.keys() & NETWORKING:
        ports = [str(port) for port in parent.networking.published if port.is_fixed]
        if ports:
            found.append(
                f"published on this host by its parent alone: {', '.join(ports)}; -p publishes others"
            )
    return found


def own_volumes(volumes: Iterable[Volume], parent: str) -> tuple[Volume, ...]:
    """The same for another container than *parent* (an id): a volume without a name is a new one, and begins as such
    do.
    """
    own = f"{parent}-".encode()
    found = []
    for volume in volumes:
        if volume.kind == VOLUME and volume.source.startswith(own):
            volume = replace(volume, source=b"")
        elif volume.kind == VOLUME and is_own(volume) and volume.source:  # its parent's began with a state
            volume = replace(volume, copy=True)
        found.append(volume)
    return tuple(found)


def shared(volumes: Iterable[Volume]) -> list[str]:
    """Warnings: which *volumes* of a fork are its parent's too, and may be written to."""
    found = [
        os.fsdecode(volume.target)
        for volume in volumes
        if volume.source
        and volume.kind in (VOLUME, BIND)
        and not is_own(volume)
        and not {"ro", "rro"}.intersection(volume.options)
    ]
    warnings = []
    if found:
        warnings.append(f"shared with its parent, as they are now: {', '.join(found)}")
    if over := [os.fsdecode(volume.target) for volume in volumes if volume.kind == OVER]:
        warnings.append(f"not in the state, and begun anew: what was written at {', '.join(over)}")
    return warnings
