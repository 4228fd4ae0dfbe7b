"""OCI `linux.resources` taken apart: what is asked of which controller, and what to write for it where it is mounted.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups.layout import missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.cgroups.layout import Layout

    Resources = dict[str, Any]
    # (file, text) or (file, text, file, text, ...): of several files the first that is there
    Setting = tuple[str, ...]

# controllers that have another name in v2
V2_NAMES = {"blkio": "io"}
# where the specification's names are not the controllers'
_RENAMED = {"blockIO": "blkio", "hugepageLimits": "hugetlb"}
_CPUSET = ("cpus", "mems")


def parts(resources: Resources) -> dict[str, Any]:
    """What is asked of each controller (v1's names), without what is null or empty; `devices` and `unified` too.

    Raises Unsupported for a resource that is not of the specification: nothing is dropped.
    """
    found: dict[str, Any] = {}
    for key, asked in resources.items():
        if isinstance(asked, dict):
            asked = {name: limit for name, limit in asked.items() if limit is not None}
        if not asked:
            continue
        if key == "cpu":
            time = {name: limit for name, limit in asked.items() if name not in _CPUSET}
            sets = {name: asked[name] for name in _CPUSET if asked.get(name)}
            found.update({name: part for name, part in (("cpu", time), ("cpuset", sets)) if part})
        elif key == "network":
            found.update(_network(asked))
        elif key in ("memory", "pids", "rdma", "devices", "unified") or key in _RENAMED:
            found[_RENAMED.get(key, key)] = asked
        else:
            raise Unsupported(f"limit {key}: not a resource of the OCI runtime specification")
    return found


def _network(asked: Resources) -> Resources:
    unknown = set(asked) - {"classID", "priorities"}
    if unknown:
        raise Unsupported(f"limit network.{min(unknown)}: not a resource of the OCI runtime specification")
    found = {}
    if asked.get("classID"):
        found["net_cls"] = {"classID": asked["classID"]}
    if asked.get("priorities"):
        found["net_prio"] = asked["priorities"]
    return found


def settings(resources: Resources, layout: Layout) -> dict[str, list[Setting]]:
    """What to write: controller -> its settings, in the words of the hierarchy where it is, in their order.

    Raises Unsupported for a limit whose controller this host has not, or that its version of cgroups cannot express;
    InvalidInput for a value that cannot be meant. A limit is never dropped. Devices are not among them (`devices`).
    """
    wanted: dict[str, list[Setting]] = {}
    asked = parts(resources)
    asked.pop("devices", None)
    unified = asked.pop("unified", None)
    for part, limits in asked.items():
        name = V2_NAMES.get(part, part)
        if part in layout.v1:
            from lamina.runtime.cgroups.v1 import table

            name, made = part, table(part)(limits)
        elif name in layout.v2_controllers and part not in ("net_cls", "net_prio"):
            from lamina.runtime.cgroups.v2 import table as table_v2

            made = table_v2(part)(limits)
        elif limits_anything(limits):
            raise missing(part, part if layout.v1 else name, layout)
        else:
            continue
        if made:
            wanted[name] = made
    if unified:
        from lamina.runtime.cgroups.v2_io import unified_settings

        for name, made in unified_settings(unified, layout).items():
            wanted[name] = wanted.get(name, []) + made
    return wanted


def limits_anything(limits: Any) -> bool:
    """Whether there is more than what engines write when nothing was asked for: zeros, false, -1 for no limit."""
    if not isinstance(limits, dict):
        return True
    return any((limit and limit != -1) or key == "swappiness" for key, limit in limits.items())


def number(limits: Resources, key: str, what: str) -> int | None:
    """The whole number at *key*, None when it is absent. Raises InvalidInput for anything else."""
    found = limits.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise InvalidInput(f"limit {what}.{key}: {found!r} is not a whole number")
    return found


def only(limits: Resources, known: frozenset[str], what: str) -> None:
    """Raise Unsupported when something other than *known* is asked for."""
    for key in limits:
        if key not in known:
            raise Unsupported(f"limit {what}.{key}: not a resource of the OCI runtime specification")
