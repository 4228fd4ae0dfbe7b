"""`lamina-runtime update`: other limits for a running container."""

from __future__ import annotations

import os

from lamina.argv.declare import Arguments, Option, Verb
from lamina.document import decode, encode
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.runtime.container import groups
from lamina.runtime.container.directory import STOPPED
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Resources = dict[str, Any]

SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def amount(text: str) -> int:
    """A number that may be negative."""
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError("is not a number") from None


def size(text: str) -> int:
    """Bytes, with k, m, g or t behind; -1 is no limit."""
    if text == "-1":
        return -1
    digits = text.lower().removesuffix("ib").rstrip("bkmgt")
    suffix = text.lower().removesuffix("ib")[len(digits) :]
    suffix = suffix[:-1] if len(suffix) == 2 and suffix[1] == "b" else suffix
    if not (digits.isascii() and digits.isdigit()) or suffix not in SUFFIXES:
        raise ValueError("is not a size")
    return int(digits) * SUFFIXES[suffix]


# option: where it goes in `linux.resources`
PLACES = {
    "blkio-weight": ("blockIO", "weight", amount),
    "cpu-period": ("cpu", "period", amount),
    "cpu-quota": ("cpu", "quota", amount),
    "cpu-burst": ("cpu", "burst", amount),
    "cpu-share": ("cpu", "shares", amount),
    "cpu-rt-period": ("cpu", "realtimePeriod", amount),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", amount),
    "cpu-idle": ("cpu", "idle", amount),
    "cpuset-cpus": ("cpu", "cpus", None),
    "cpuset-mems": ("cpu", "mems", None),
    "memory": ("memory", "limit", size),
    "memory-reservation": ("memory", "reservation", size),
    "memory-swap": ("memory", "swap", size),
    "kernel-memory": ("memory", "kernel", size),
    "kernel-memory-tcp": ("memory", "kernelTCP", size),
    "pids-limit": ("pids", "limit", amount),
}
VERB = Verb(
    "update",
    (
        Option("resources", "r", "FILE", "The specification's linux.resources, as JSON; - is standard input"),
        *[
            Option(name, "", "VALUE", f"linux.resources.{part}.{key}", convert=convert)
            for name, (part, key, convert) in PLACES.items()
        ],
        Option("l3-cache-schema", "", "SCHEMA", "Not supported: says so"),
        Option("mem-bw-schema", "", "SCHEMA", "Not supported: says so"),
        HELP,
    ),
    (ID,),
)


def do(args: Arguments) -> int:
    """Change them; 0."""
    found = container(args)
    resources = _checked(_read(args.resources)) if args.resources else {}
    for name, (part, key, _) in PLACES.items():
        asked = getattr(args, name.replace("-", "_"))
        if asked is not None:
            resources[part] = {**(resources.get(part) or {}), key: asked}
    if args.l3_cache_schema or args.mem_bw_schema:
        raise Unsupported(f"update container {found.id}: Intel RDT is not supported")
    found.lock()
    try:
        record = found.record()
        if found.status(record) == STOPPED:
            raise Conflict(f"update container {found.id}: container not running")
        cgroup = groups.of(record)
        if cgroup is None:
            raise Unsupported(f"update container {found.id}: it has no control groups")
        cgroup.update(resources)
        _remember(found, resources)
    finally:
        found.unlock()
    for note in cgroup.notes:
        from lamina.runtime_cli.report import warn

        warn(args, note)
    return 0


def _remember(found: Any, resources: Resources) -> None:
    """The specification that is kept says what is in force."""
    spec = found.spec()
    linux = spec["linux"] = spec.get("linux") or {}
    kept = linux["resources"] = linux.get("resources") or {}
    for part, changed in resources.items():
        if isinstance(changed, dict) and isinstance(kept.get(part), dict):
            kept[part] = {**kept[part], **changed}
        elif changed is not None:
            kept[part] = changed
    found.write_file(b"config.json", encode(spec).encode())


def _checked(resources: Resources) -> Resources:
    from lamina.runtime.spec import RESOURCES, check_shape

    check_shape(resources, RESOURCES, "", "resources")
    return resources


def _read(place: str) -> Resources:
    if place == "-":
        data = b""
        while chunk := os.read(0, 1 << 16):
            data += chunk
        return decode(data, "standard input")
    try:
        with open(place, "rb") as file:  # a pipe gives what it has in pieces
            return decode(file.read(16 << 20), place)
    except FileNotFoundError:
        raise NotFound(f"read {place}: there is no such file") from None
    except IsADirectoryError:
        raise InvalidInput(f"read {place}: it is a directory") from None
