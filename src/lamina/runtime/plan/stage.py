"""What a container sees when it begins, from the first mount to the root that it cannot leave; and what goes through
procfs meanwhile.
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.constants import CLONE_NEWNS
from lamina.linux.program import Step
from lamina.runtime.destinations import components, destination_of
from lamina.runtime.plan.devices import terminal_steps
from lamina.runtime.plan.masks import mask_steps, readonly_path_steps
from lamina.runtime.plan.mounts import places_of
from lamina.runtime.plan.namespaces import hostname_steps
from lamina.runtime.plan.rootfs import (
    borrowed_steps,
    enter_steps,
    furniture_steps,
    propagation_steps,
    root_steps,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.runtime.bundle import Bundle, Spec, Wiring
    from lamina.runtime.plan.namespaces import Namespaces
    from lamina.runtime.waits import Wait

# of other systems: config.md, Platform-specific configuration
_ELSEWHERE = ("freebsd", "solaris", "vm", "windows", "zos")


def refuse(bundle: Bundle, namespaces: Namespaces) -> None:
    """Raise InvalidInput or Unsupported for what no step stands for."""
    spec = bundle.spec
    linux = spec.get("linux") or {}
    for name in _ELSEWHERE:
        if spec.get(name):
            raise Unsupported(f"start: the specification has settings for another system ({name})")
    if linux.get("intelRdt"):
        raise Unsupported(
            "set linux.intelRdt: Lamina does not use resctrl",
            remedy="assign the container's processes to a resctrl group from outside, or leave intelRdt out",
        )
    if spec["process"].get("terminal") and namespaces.made & CLONE_NEWNS:
        places = [
            destination_of(mount).encode("utf-8", "surrogateescape") for mount in spec.get("mounts") or []
        ]
        if [b"dev", b"pts"] not in map(components, places):
            raise InvalidInput("give the process a terminal: there is no devpts among the mounts")


def stage_steps(
    bundle: Bundle,
    wiring: Wiring,
    namespaces: Namespaces,
    bounding: int,
    before_the_root_changes: Sequence[Step] = (),
) -> tuple[list[Step], list[Wait]]:
    """The steps, and where they need the parent. *bounding* is the bounding set, as bits. Raises InvalidInput."""
    spec = bundle.spec
    linux, process = spec.get("linux") or {}, spec["process"]
    refuse(bundle, namespaces)
    if not namespaces.made & CLONE_NEWNS:
        steps = proc_steps(spec, namespaces, wiring)
        return [*steps, *hostname_steps(spec), *before_the_root_changes, *borrowed_steps(bundle)], []
    places = places_of(bundle)
    furniture, waits = furniture_steps(bundle, wiring, namespaces, places)
    steps = [*root_steps(bundle, wiring, places), *furniture, *before_the_root_changes]
    if process.get("terminal"):
        steps += terminal_steps(wiring.channel, process.get("consoleSize"))
    steps += proc_steps(spec, namespaces, wiring)
    steps += readonly_path_steps(linux.get("readonlyPaths") or [])
    steps += mask_steps(linux.get("maskedPaths") or [])
    steps += hostname_steps(spec)
    steps += enter_steps(bundle, wiring, bounding)
    steps += propagation_steps(spec)
    return steps, waits


def proc_steps(spec: Spec, namespaces: Namespaces, wiring: Wiring) -> list[Step]:
    """Everything that is written to procfs, while its descriptor is open."""
    process = spec["process"]
    steps: list[Step] = []
    if process.get("apparmorProfile") or process.get("selinuxLabel"):
        from lamina.runtime.plan.labels import label_steps

        steps += label_steps(process, wiring)
    if (spec.get("linux") or {}).get("sysctl"):
        from lamina.runtime.plan.sysctl import sysctl_steps

        steps += sysctl_steps(spec, namespaces.own, wiring)
    return steps


def kernel_steps(process: dict[str, Any], linux: dict[str, Any]) -> list[Step]:
    """How the kernel is to treat the process; most containers leave that to it."""
    asked = (
        process.get("scheduler"), process.get("ioPriority"), linux.get("memoryPolicy"), linux.get("personality"),
    )  # fmt: skip
    if not any(asked):
        return []
    from lamina.runtime.plan import scheduling

    steps: list[Step] = []
    makers = (
        scheduling.scheduler_steps, scheduling.io_priority_steps,
        scheduling.memory_policy_steps, scheduling.personality_steps,
    )  # fmt: skip
    for wanted, make in zip(asked, makers, strict=True):
        if wanted:
            steps += make(wanted)
    return steps
