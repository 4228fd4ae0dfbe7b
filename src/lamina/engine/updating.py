"""Limits and the restart policy of a container changed: where it runs at once, and in its record for later starts."""

from __future__ import annotations

from lamina.engine.amend import limits
from lamina.engine.checking import check_options
from lamina.engine.keeping import options_of
from lamina.engine.options import PERIOD
from lamina.engine.settling import state_of
from lamina.engine.translate import resources_of
from lamina.errors import Conflict, InvalidInput
from lamina.store.containers import GROUPED_MARK, PAUSED, RUNNING
from lamina.store.events import about, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from lamina.engine.options import Options
    from lamina.store.containers import Home

    class Limits(TypedDict, total=False):
        """As of `Engine.run`; what is not mentioned stays, 0 and -1 lift a limit."""

        memory: str | int
        memory_swap: str | int
        cpus: str | float
        cpu_shares: int | str
        memory_reservation: str | int
        cpu_period: int | str
        cpu_quota: int | str
        cpuset_cpus: str
        cpuset_mems: str
        blkio_weight: int | str
        pids_limit: int | str
        restart: str


# the kernel's own weight of a group (cgroup v1's sched-design-CFS.rst)
SHARES = 1024
_FURTHER = (
    *(
        "memory_swap",
        "memory_reservation",
        "cpu_shares",
        "cpu_period",
        "cpu_quota",
        "cpuset_cpus",
        "cpuset_mems",
    ),
    "blkio_weight",
)
# of these nothing says what it was before; the kernel's own choice depends on the machine
_NOT_LIFTED = ("cpuset_cpus", "cpuset_mems", "blkio_weight")
KEYS = ("memory", "cpus", "pids_limit", "restart", *_FURTHER)


def update(home: Home, given: Limits) -> list[str]:
    """Change what *given* says; warnings. Raises InvalidInput, Conflict where it was not kept what was asked of it,
    Unsupported where it runs in no control group of the controller, NotFound, KernelError.
    """
    if unknown := given.keys() - set(KEYS):
        raise TypeError(f"update() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    if not given:
        raise InvalidInput("update: nothing to change", remedy=f"give one of {', '.join(KEYS)}")
    warnings: list[str] = []

    def change(asked: dict[str, Any]) -> dict[str, Any] | None:
        if not asked.get("options"):
            _apply(home, _touched(given, _asked_now(given, asked)), str(asked["name"]), warnings)
            return None  # it ends with the command that runs it, and is never started again
        changed = {**asked, "options": _changed(asked, given)}
        resources = _resources(changed)
        if state_of(home) in (RUNNING, PAUSED):
            _apply(home, _touched(given, resources), str(asked["name"]), warnings)
        return changed

    note(home.store, about(home.change_asked(change), "update"))
    return warnings


def _asked_now(given: Limits, asked: dict[str, Any]) -> dict[str, Any]:
    """The resources of *given* alone. Raises InvalidInput, Conflict for what is for later starts."""
    if "restart" in given:
        raise Conflict(f"update container {asked['name']}: it is removed at its end, and not started again")
    read = check(given)
    for key in given.keys() & set(_NOT_LIFTED):
        if not getattr(read.further, key, None):
            raise _not_lifted(key)
    return _resources_of(read)


def check(given: Limits, *, rm: bool = False) -> Options:
    """*given* as options, for a container that is removed at its end or not. Raises InvalidInput."""
    try:
        return check_options({"rm": rm, **given})
    except InvalidInput as error:
        raise _ours(error) from None


def _changed(asked: dict[str, Any], given: Limits) -> dict[str, Any]:
    """The record of the options with *given* in it."""
    read = check(given, rm=bool(asked.get("rm")))
    found = dict(asked["options"])
    for key in given.keys() - set(_FURTHER):
        name = "cpu_quota" if key == "cpus" else key
        found[name] = getattr(read, name)
    further = dict(found.get("further") or {})
    for key in given.keys() & set(_FURTHER):
        further[key] = getattr(read.further, key, None) or None
        if further[key] is None and key in _NOT_LIFTED:
            raise _not_lifted(key)
    found["further"] = {key: what for key, what in further.items() if what is not None} or None
    return found


def _not_lifted(key: str) -> InvalidInput:
    return InvalidInput(f"update: {key.replace('_', ' ')}: it can be changed, and not be lifted")


def _resources(asked: dict[str, Any]) -> dict[str, Any]:
    """What its next start will ask of the control groups. Raises InvalidInput for what contradicts itself."""
    return _resources_of(options_of(asked))


def _resources_of(options: Options) -> dict[str, Any]:
    resources = resources_of(options)
    if options.further is not None:
        try:
            limits(resources, options.further)
        except InvalidInput as error:
            raise _ours(error) from None
    return resources


def _ours(error: InvalidInput) -> InvalidInput:
    return InvalidInput("update:" + error.message.removeprefix("run:"), remedy=error.remedy)


def _touched(given: Limits, resources: dict[str, Any]) -> dict[str, Any]:
    """Of *resources* what *given* changes, with a word for what has no limit any more."""
    found: dict[str, Any] = {}
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if "memory" in given or "memory_swap" in given:
        found["memory"] = {"limit": memory.get("limit", -1), "swap": memory.get("swap", -1)}
    if "memory_reservation" in given:
        found["memory"] = {**found.get("memory", {}), "reservation": memory.get("reservation", -1)}
    if {"cpus", "cpu_quota", "cpu_period"} & given.keys():
        found["cpu"] = {"quota": cpu.get("quota", -1), "period": cpu.get("period", PERIOD)}
    if "cpu_shares" in given:
        found["cpu"] = {**found.get("cpu", {}), "shares": cpu.get("shares", SHARES)}
    for key, field in (("cpuset_cpus", "cpus"), ("cpuset_mems", "mems")):
        if key in given:
            found["cpu"] = {**found.get("cpu", {}), field: cpu[field]}
    if "blkio_weight" in given:
        found["blockIO"] = {"weight": resources["blockIO"]["weight"]}
    if "pids_limit" in given:
        found["pids"] = {"limit": (resources.get("pids") or {}).get("limit", -1)}
    return found


def _apply(home: Home, resources: dict[str, Any], name: str, warnings: list[str]) -> None:
    """Change the limits of one that runs; its groups are made if it began without."""
    if not resources:
        return
    from lamina.runtime.cgroups import read_layout, reopen
    from lamina.runtime.cgroups.resources import settings

    record = (home.read("state") or {}).get("cgroup")
    group = reopen(record) if record else None
    wanted = settings(resources, read_layout())  # by controller
    there = group is not None and ("" in group.paths or wanted.keys() <= group.paths.keys())
    if group is None or not there or home.is_marked(GROUPED_MARK):
        from lamina.engine.grouping import grouped, is_moving

        begins = not there or is_moving(home)
        group = grouped(home, f"update container {name}", tuple(wanted))
        if "memory" in resources and begins:
            warnings.append("memory that it has used so far does not count for its limit")
    group.update(resources)
    warnings.extend(group.notes)
