"""From a specification to a start's plan: a flat list of system calls, made without any privilege.

`compile_plan` is pure: it opens, stats and reads nothing. The order of a start is the order of this file.
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    CLONE_INTO_CGROUP,
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWUSER,
    CLONE_VFORK,
    CLONE_VM,
)
from lamina.linux.program import Step, Strings, assemble
from lamina.runtime.bundle import NULL
from lamina.runtime.command import launcher_strings
from lamina.runtime.plan.devices import terminal_steps
from lamina.runtime.plan.masks import mask_steps, readonly_path_steps
from lamina.runtime.plan.namespaces import entry_steps, hostname_steps, loopback_steps, namespace_flags
from lamina.runtime.plan.process import (
    command_steps,
    directory_steps,
    limit_steps,
    oom_steps,
    privilege_steps,
    room_steps,
    stdio_steps,
)
from lamina.runtime.plan.rootfs import furniture_steps, pivot_steps, readonly_root_steps, root_steps
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.packed import Program, Reg
    from lamina.runtime.bundle import Bundle, Wiring

__all__ = ["Plan", "compile_plan"]


@value
class Plan:
    """A start, ready to be read or run: the flags of clone3(2), and what the new process does until execve(2).

    `given` are the registers that whoever walks the plan sets, the descriptors of this one start; `strings` is what
    goes into the holes of the steps.
    """

    flags: int
    steps: tuple[Step, ...]
    given: tuple[Reg, ...] = ()
    strings: tuple[tuple[str, Strings], ...] = ()

    def assemble(self) -> Program:
        """The steps, packed for the walker, with registers and the command still to be filled in."""
        return assemble(self.steps, self.given)

    @property
    def mapped(self) -> bool:
        """Whether somebody outside has to write id maps before the new process can go on."""
        return bool(self.flags & CLONE_NEWUSER)

    def clone_flags(self, wiring: Wiring) -> int:
        """What clone3(2) is told. The cgroup namespace is made by a step, once the cgroups are joined; and a parent in
        vfork is stopped until execve: it could not write the maps that the child waits for.
        """
        sharing = CLONE_VM if self.mapped else CLONE_VM | CLONE_VFORK
        into_cgroup = CLONE_INTO_CGROUP if wiring.cgroup >= 0 else 0
        return self.flags & ~CLONE_NEWCGROUP | sharing | into_cgroup

    def __str__(self) -> str:
        from lamina.linux.describe import describe_plan

        return describe_plan(self.flags, self.whole_steps())

    def whole_steps(self) -> tuple[Step, ...]:
        """The steps without holes."""
        strings = dict(self.strings)
        return tuple(step.filled(strings) if strings else step for step in self.steps)

    def document(self) -> dict[str, Any]:
        """The same for programs: the flags by name, and each step's number, call, note and text."""
        from lamina.linux.constants import flag_names
        from lamina.linux.describe import describe

        steps = [
            {"number": number, "call": step.call, "note": step.note, "text": describe(step)}
            for number, step in enumerate(self.whole_steps(), 1)
        ]
        return {"clone3": flag_names("CLONE_", self.flags).split("|"), "steps": steps}


def compile_plan(bundle: Bundle, wiring: Wiring) -> Plan:
    """The plan of *bundle*'s start. Raises InvalidInput or Unsupported for what cannot be meant or done."""
    spec = bundle.spec
    linux = spec.get("linux") or {}
    process = spec["process"]
    terminal = bool(process.get("terminal"))
    flags = namespace_flags(spec)
    if terminal and not {"/dev", "/dev/pts"} <= {str(m["destination"]) for m in spec.get("mounts") or []}:
        raise InvalidInput(
            "give the process a terminal: there is neither a /dev nor a devpts among the mounts"
        )
    readonly = bool((spec.get("root") or {}).get("readonly"))
    steps = [
        *room_steps(wiring),
        *entry_steps(flags, wiring),
        *(loopback_steps() if flags & CLONE_NEWNET else ()),
        *root_steps(bundle, wiring),
        *furniture_steps(bundle, wiring, flags),
        *(terminal_steps(wiring.channel, process.get("consoleSize")) if terminal else ()),
        *oom_steps(process),
        *readonly_path_steps(linux.get("readonlyPaths") or []),
        *mask_steps(linux.get("maskedPaths") or []),
        *hostname_steps(spec),
        *pivot_steps(),
        *stdio_steps(wiring, terminal),
        *directory_steps(process),
        *(readonly_root_steps() if readonly else ()),
        *limit_steps(wiring),
        *privilege_steps(process, wiring),
        *command_steps(process, wiring.launcher != NULL, init=bundle.init),
    ]
    strings = launcher_strings(process, init=bundle.init) if wiring.launcher != NULL else {}
    return Plan(flags, tuple(steps), wiring.given, tuple((k, Strings(v)) for k, v in strings.items()))
