"""From a specification to a start's plan: a flat list of system calls, made without any privilege.

`compile_plan` is pure: it opens, stats and reads nothing. The order of a start is the order of this file.
https://github.com/opencontainers/runtime-spec/blob/main/config.md; docs/runtime.md says what becomes of each field.
"""

from __future__ import annotations

from lamina.errors import LaminaError
from lamina.linux.constants import CLONE_INTO_CGROUP, CLONE_NEWUSER, CLONE_VFORK
from lamina.linux.program import Step, Strings, assemble
from lamina.runtime.command import launcher_strings
from lamina.runtime.plan.devices import device_notes, devices_of
from lamina.runtime.plan.identity import capabilities_of, has_listener, privilege_steps
from lamina.runtime.plan.namespaces import LATER, arrange, entry_steps, network_steps
from lamina.runtime.plan.process import (
    directory_steps,
    launched_steps,
    limit_steps,
    oom_steps,
    room_steps,
    stdio_steps,
)
from lamina.runtime.plan.rootfs import readonly_root_steps
from lamina.runtime.plan.stage import kernel_steps, stage_steps
from lamina.runtime.waits import LISTENER, REPORT, TERMINAL, Wait, sharing_of
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.packed import Program, Reg
    from lamina.runtime.bundle import Bundle, Wiring

__all__ = ["Plan", "Wait", "compile_plan"]


@value
class Plan:
    """A start, ready to be read or run: the flags of clone3(2), and what the new process does until execve(2).

    `given` are the registers that whoever walks the plan sets, the descriptors of this one start; `strings` is what
    goes into the holes of the steps. `waits` are the points at which it needs its parent, in order. `enter` are
    namespaces, as descriptor and CLONE_NEW*, that a helper joins one after the other before it clones. `notes` say what
    differs from what was asked. `alone`: a step reaches whoever shares the memory, unless he waits in vfork.
    """

    flags: int
    steps: tuple[Step, ...]
    given: tuple[Reg, ...] = ()
    strings: tuple[tuple[str, Strings], ...] = ()
    waits: tuple[Wait, ...] = ()
    enter: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    alone: bool = False

    def clone_flags(self, wiring: Wiring) -> int:
        """What clone3(2) is told; how the caller's memory is used, `sharing_of` says."""
        into_cgroup = CLONE_INTO_CGROUP if wiring.cgroup >= 0 else 0
        sharing = sharing_of(self.waits, self.enter)
        if self.alone and not sharing & CLONE_VFORK:
            sharing = 0
        return self.flags | sharing | into_cgroup

    def assemble(self) -> Program:
        """The steps, packed for the walker, with registers and the command still to be filled in."""
        return assemble(self.steps, self.given)

    def __str__(self) -> str:
        from lamina.linux.describe import describe_plan

        return describe_plan(self.flags, self.whole_steps(), self.enter)

    def whole_steps(self) -> tuple[Step, ...]:
        """The steps without holes."""
        strings = dict(self.strings)
        return tuple(step.filled(strings) if strings else step for step in self.steps)

    def document(self) -> dict[str, Any]:
        """The same for programs: the flags by name, namespaces that a helper joins before, what the caller does on the
        way, and each step's number, call, note and text.
        """
        from lamina.linux.constants import flag_names
        from lamina.linux.describe import describe

        steps = [
            {"number": number, "call": step.call, "note": step.note, "text": describe(step)}
            for number, step in enumerate(self.whole_steps(), 1)
        ]
        return {
            "enter": [flag_names("CLONE_NEW", kind) for _, kind in self.enter],
            "clone3": flag_names("CLONE_", self.flags).split("|"),
            "waits": [wait.kind for wait in self.waits],
            "steps": steps,
        }


def compile_plan(bundle: Bundle, wiring: Wiring) -> Plan:
    """The plan of *bundle*'s start. Raises InvalidInput or Unsupported for what cannot be meant or done."""
    spec = bundle.spec
    linux, process = spec.get("linux") or {}, spec["process"]
    terminal = bool(process.get("terminal"))
    if linux.get("seccomp") and not wiring.seccomp:
        raise LaminaError("start: linux.seccomp is given, and no compiled filter")
    namespaces = arrange(spec, wiring)
    held = capabilities_of(process, wiring, everything=bool(namespaces.own & CLONE_NEWUSER))
    entry, waits = entry_steps(spec, namespaces, wiring)
    network, devices = network_steps(spec, namespaces, wiring, networked=bundle.networked)
    stage, copies = stage_steps(bundle, wiring, namespaces, held.bounding)
    steps = [
        *room_steps(wiring),
        # before ids change: then its files in procfs are another's
        *oom_steps(process, wiring.proc),
        *entry,
        *network,
        *stage,
        *stdio_steps(wiring, terminal),
        *directory_steps(process),
        *(readonly_root_steps() if (spec.get("root") or {}).get("readonly") else ()),
        *limit_steps(wiring),
        *kernel_steps(process, linux),
        *privilege_steps(process, held, bundle, wiring, hidden=namespaces.helped),
        *launched_steps(init=bundle.init),
    ]
    waits += [*devices, *copies]
    waits += [Wait(TERMINAL)] if terminal else []
    waits.append(Wait(REPORT))
    waits += [Wait(LISTENER, linux.get("seccomp") or {})] if has_listener(wiring) else []
    notes = held.notes
    if linux.get("devices"):
        notes += device_notes(devices_of(spec), namespaces.own)
    strings = launcher_strings(process, init=bundle.init)
    return Plan(
        namespaces.made & ~LATER,
        tuple(steps),
        wiring.given,
        tuple((name, Strings(words)) for name, words in strings.items()),
        tuple(waits),
        namespaces.enter(),
        notes,
        alone=process.get("oomScoreAdj") is not None,
    )
