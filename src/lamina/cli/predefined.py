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
