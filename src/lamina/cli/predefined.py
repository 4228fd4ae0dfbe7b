"""The networks that are none: `host` and `none`, which docker lists and shows beside those that there are."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine import Engine

# their drivers, by name
PREDEFINED = {"host": "host", "none": "null"}


def identity(name: str) -> str:
    """An id for who wants one: the same on every machine."""
    import hashlib

    return hashlib.sha256(f"lamina network {name}".encode()).hexdigest()


def named(name: str) -> str | None:
    """Which of them *name*, or the beginning of its id, means; None for neither."""
    if name in PREDEFINED:
        return name
    digits = len(name) >= 4 and all(one in "0123456789abcdef" for one in name)
    return next((one for one in PREDEFINED if digits and identity(one).startswith(name)), None)


def document(name: str) -> dict[str, Any]:
    """As `docker network inspect` has it."""
    return {
        "Name": name,
        "Id": identity(name),
        "Scope": "local",
        "Driver": PREDEFINED[name],
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def members(engine: Engine, name: str) -> list[str]:
    """The names of the running containers that have it."""
    return sorted(one.name for one in engine.containers() if one.networks == [name])
