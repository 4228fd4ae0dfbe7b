"""Limits changed while the container runs: in an order in which no step is refused because of the next one."""

from __future__ import annotations

from lamina.errors import Conflict, Unsupported
from lamina.runtime.cgroups.layout import Layout, controllers_of, missing
from lamina.runtime.cgroups.making import write
from lamina.runtime.cgroups.resources import limits_anything, parts, settings
from lamina.runtime.cgroups.stats import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.cgroups.cgroup import Cgroup
    from lamina.runtime.cgroups.resources import Resources, Setting


def update(cgroup: Cgroup, resources: Resources, layout: Layout | None) -> None:
    """See `Cgroup.update`."""
    _hand_down(cgroup, resources, layout)
    there = _layout_of(cgroup)
    _check_joined(cgroup, resources, layout)
    resources = _completed(cgroup, resources)
    wanted = settings(resources, there)  # nothing is written when something of it cannot be
    if cgroup.unit:
        from lamina.runtime.cgroups.systemd import set_properties

        set_properties(cgroup, wanted)
    for controller, made in wanted.items():
        place = cgroup.paths[controller if controller in there.v1 else ""]
        for setting in ordered(made, Files(place)):
            write(place, setting, controller or "unified", cgroup)
    if resources.get("devices"):
        from lamina.runtime.cgroups.devices import apply

        apply(cgroup, resources["devices"], running=True)


def _layout_of(cgroup: Cgroup) -> Layout:
    """What this container's own groups offer, as if it were the host's layout."""
    v2 = cgroup.paths.get("")
    v1 = {name: place for name, place in cgroup.paths.items() if name}
    return Layout(v1, v2, controllers_of(v2) if v2 is not None else frozenset())


def _hand_down(cgroup: Cgroup, resources: Resources, layout: Layout | None) -> None:
    """A group of v2 has a controller that it began without as soon as those above hand it down; in a unit of systemd's
    that is systemd's to do. Raises Unsupported where one of them may not.
    """
    place = cgroup.paths.get("")
    if place is None or cgroup.unit:
        return
    asked = [
        "io" if part == "blkio" else part
        for part, limits in parts(resources).items()
        if part not in ("unified", "devices", *cgroup.paths) and limits_anything(limits)
    ]
    lacking = set(asked) - controllers_of(place)
    if not lacking:
        return
    from lamina.runtime.cgroups.layout import read_layout
    from lamina.runtime.cgroups.making_v2 import delegate

    layout = layout or read_layout()
    to_be_had = sorted(lacking & layout.v2_controllers)
    if to_be_had and layout.v2 is not None and place.startswith(layout.v2 + b"/"):
        delegate(layout.v2, place.removeprefix(layout.v2 + b"/"), to_be_had, [])


def _check_joined(cgroup: Cgroup, resources: Resources, layout: Layout | None) -> None:
    """A limit of a controller that the host has and the container did not join needs another remedy."""
    there = _layout_of(cgroup)
    for part, limits in parts(resources).items():
        if part in ("unified", "devices") or part in there.v1 or not limits_anything(limits):
            continue
        name = "io" if part == "blkio" else part
        if name in there.v2_controllers:
            continue
        if layout is None:
            from lamina.runtime.cgroups.layout import read_layout

            layout = read_layout()
        if not layout.holds(part) and not layout.holds(name):
            raise missing(part, part, layout)
        raise Unsupported(
            f"limit {part}: the container is in no group of that controller",
            remedy="it was started without such a limit; start it again with one",
        )


def _completed(cgroup: Cgroup, resources: Resources) -> Resources:
    """What the new limits depend on and do not mention, as it is now."""
    memory = dict(resources.get("memory") or {})
    cpu = dict(resources.get("cpu") or {})
    changed: dict[str, Any] = {}
    if memory:
        _complete_memory(cgroup, memory)
        changed["memory"] = memory
    if bool(cpu.get("period")) != bool(cpu.get("quota")):
        _complete_cpu(cgroup, cpu)
        changed["cpu"] = cpu
    return {**resources, **changed}


def _complete_cpu(cgroup: Cgroup, cpu: dict[str, Any]) -> None:
    """v2 has quota and period in one file; systemd is told of both, or would write other ones at its next reload."""
    v1, v2 = cgroup.paths.get("cpu"), cgroup.paths.get("")
    if v1 is not None:
        files = Files(v1)
        quota, period = files.number("cpu.cfs_quota_us"), files.number("cpu.cfs_period_us")
    elif v2 is not None and (now := (Files(v2).text("cpu.max") or "").split()):
        quota, period = int(now[0]) if now[0].isdigit() else -1, int(now[-1]) if now[-1].isdigit() else None
    else:
        return
    if not cpu.get("quota") and (cgroup.unit or v1 is None):
        cpu["quota"] = quota or -1
    if not cpu.get("period") and cgroup.unit and period:
        cpu["period"] = period


def _complete_memory(cgroup: Cgroup, memory: dict[str, Any]) -> None:
    v1 = "memory" in cgroup.paths
    files = Files(cgroup.paths.get("memory") or cgroup.paths.get("") or b"")
    limit, swap = memory.get("limit"), memory.get("swap")
    if v1 and limit == -1 and not swap and files.text("memory.memsw.limit_in_bytes") is not None:
        memory["swap"] = -1  # both together must never be less
    if not v1 and swap and swap > 0 and not limit:
        memory["limit"] = files.number("memory.max") or None
        if memory["limit"] is None:
            memory.pop("limit")  # the table says what is wrong
    if memory.get("checkBeforeUpdate") and limit and limit > 0:
        usage = files.number("memory.usage_in_bytes" if v1 else "memory.current") or 0
        if limit < usage:
            raise Conflict(
                f"update memory limit to {limit}: {usage} bytes are in use",
                remedy="without checkBeforeUpdate the kernel reclaims, or kills",
            )


def ordered(made: list[Setting], now: Files) -> list[Setting]:
    """The settings of one controller in an order that the kernel accepts at every step, from where it stands *now*."""
    by_file = {setting[0]: setting for setting in made}
    first: list[Setting] = []
    last: list[Setting] = []
    memory, both = by_file.get("memory.limit_in_bytes"), by_file.get("memory.memsw.limit_in_bytes")
    if memory and both:
        # memory <= memory and swap, always: raise the outer one first, lower it last
        (first if _raises(both, now) else last).append(both)
    burst = by_file.get("cpu.cfs_burst_us") or by_file.get("cpu.max.burst")
    if burst and int(burst[1]) < (now.number(burst[0]) or 0):
        first.append(burst)  # burst <= quota
    idle = by_file.get("cpu.idle")
    if idle and idle[1] == "0":
        first.append(idle)  # an idle group refuses a weight
    quota, period = by_file.get("cpu.cfs_quota_us"), by_file.get("cpu.cfs_period_us")
    if quota and period and _quota_first(int(quota[1]), int(period[1]), now):
        first.append(quota)
    moved = first + last
    return [*first, *[setting for setting in made if setting not in moved], *last]


def _raises(setting: Setting, now: Files) -> bool:
    wanted, current = int(setting[1]), now.number(setting[0])
    return wanted < 0 or (current is not None and wanted > current)


def _quota_first(quota: int, period: int, now: Files) -> bool:
    """quota/period must fit into that of the group above at every step: take the way with the smaller one between."""
    quota_now, period_now = now.number("cpu.cfs_quota_us") or -1, now.number("cpu.cfs_period_us") or period
    return quota > 0 and quota_now > 0 and quota * period < quota_now * period_now
