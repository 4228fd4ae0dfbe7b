"""Recipes compiled: from what was asked and what the host answered to packed steps. Pure: what is not in the arguments
is not in the result, so that a recipe may be kept by them (recipe.py).
"""

from __future__ import annotations

from lamina.linux.constants import AT_EMPTY_PATH, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from lamina.linux.program import Blank, Hole, Reg, Step, Strings, assemble
from lamina.runtime.bundle import Bundle, Joined, Wiring
from lamina.runtime.init import WALK_NAME
from lamina.runtime.plan.created import created_steps, joined_steps
from lamina.runtime.plan.devices import device_notes, devices_of
from lamina.runtime.plan.identity import capabilities_of
from lamina.runtime.plan.namespaces import LATER, arrange, entry_steps
from lamina.runtime.seccomp.words import filter_flags
from lamina.runtime.talk import Manner, Numbers
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from lamina.linux.program import Arg
    from lamina.runtime.container.recipe import Asked, Making, Shape


def made(asked: Asked, seccomp: bytes) -> Making:
    """Everything that `Recipe` keeps. *seccomp* is the compiled filter. Raises what the plan's compiler raises."""
    return _compiled(asked, seccomp)[0]


def steps(
    asked: Asked, seccomp: bytes, strings: Mapping[str, list[bytes] | bytes]
) -> tuple[list[Step], list[Step]]:
    """The same as steps: those before lamina-walk, and those that it walks, with *strings* where some were open."""
    _, first, walked = _compiled(asked, seccomp)
    for step in walked:
        step.args = tuple(_closed(arg, strings) for arg in step.args)
    return first, walked


def _closed(arg: Arg, strings: Mapping[str, list[bytes] | bytes]) -> Arg:
    if not isinstance(arg, (Hole, Blank)):
        return arg
    found = strings[arg.decode() if isinstance(arg, Blank) else str(arg)]
    return found if isinstance(found, bytes) else Strings(found)


def linux_of(asked: Asked) -> dict[str, Any]:
    """The `linux` of what is asked."""
    kind, _, _, above, *rest = asked
    found: dict[str, Any] = (above.get("linux") or {}) if kind == "created" else rest[0]
    return found


def _compiled(asked: Asked, seccomp: bytes) -> tuple[Making, list[Step], list[Step]]:
    kind, shape, facts, *rest = asked
    make = _created if kind == "created" else _joined
    return make(_wiring(facts), seccomp, shape, *rest)


def _wiring(facts: dict[str, Any]) -> Wiring:
    """The wiring of plain values again (recipe.py, `plain`)."""
    sets = {name: frozenset(facts[name]) for name in ("files", "procfs", "modules")}
    return Wiring(
        **{
            **{name: _tuples(fact) for name, fact in facts.items()},
            **sets,
            "nodes": frozenset(_tuples(facts["nodes"])),
            "namespaces": tuple(Joined(*joined) for joined in facts["namespaces"]),
        }
    )


def _tuples(fact: Any) -> Any:
    return tuple(_tuples(part) for part in fact) if isinstance(fact, (list, tuple)) else fact


def _filtered(wiring: Wiring, seccomp: bytes, linux: dict[str, Any]) -> Wiring:
    if not linux.get("seccomp"):
        return replace(wiring, seccomp=seccomp)
    return replace(wiring, seccomp=seccomp, seccomp_flags=filter_flags(linux["seccomp"]))


def _created(
    wiring: Wiring,
    seccomp: bytes,
    shape: Shape,
    spec: dict[str, Any],
    directory: bytes,
    rootfs: bytes | None,
    no_pivot: bool,
    new_keyring: bool,
    manner: tuple[Any, ...],
) -> tuple[Making, list[Step], list[Step]]:
    """The first process of a container. A *rootfs* of None is left open."""
    linux, process = spec.get("linux") or {}, spec["process"]
    wiring = _filtered(wiring, seccomp, linux)
    root = Blank(b"root") if rootfs is None else rootfs
    bundle = Bundle(spec, root, root, directory=directory, no_pivot=no_pivot, new_keyring=new_keyring)
    namespaces = arrange(spec, wiring)
    held = capabilities_of(process, wiring, bool(namespaces.own & CLONE_NEWUSER))
    numbers, how = Numbers(shape[0]), Manner(*manner)
    entry, _ = entry_steps(spec, namespaces, wiring)
    steps, waits = created_steps(bundle, wiring, numbers, how, namespaces, held)
    begin = next(i for i, step in enumerate(steps) if step.call == "recvmsg")
    making = {
        "flags": namespaces.made & ~LATER,
        "own": namespaces.own,
        "waits": tuple((wait.kind, wait.payload) for wait in waits),
        "notes": (*held.notes, *device_notes(devices_of(spec), namespaces.own)),
        # what `start` must know to explain a failure after the wait: the calls from there on
        "last": (begin, tuple(step.call for step in steps[begin:])),
    }
    return _packed(making, entry, steps, shape)


def _joined(
    wiring: Wiring,
    seccomp: bytes,
    shape: Shape,
    process: dict[str, Any],
    linux: dict[str, Any],
    pidfd: int,
    flags: int,
    tasks: tuple[int, ...],
    owned: tuple[int, ...],
    root: int,
    places: int,
    asks: bool = False,
) -> tuple[Making, list[Step], list[Step]]:
    """A further process of a container, whose command, looked for at so many *places*, is left open. *asks*: it waits
    until its maker has noted it.
    """
    wiring = _filtered(wiring, seccomp, linux)
    held = capabilities_of(process, wiring, bool(flags & CLONE_NEWUSER))
    numbers = Numbers(shape[0])
    steps = joined_steps(
        process, linux, held, wiring, numbers, pidfd, flags, tasks,
        owned=owned, root=root, places=places, asks=asks,
    )  # fmt: skip
    making = {**_joining(flags), "notes": held.notes}
    return _packed(making, [], steps, shape)


def _joining(own: int) -> Making:
    """A pid or time namespace has only those who were born into it."""
    born = bool(own & (CLONE_NEWPID | CLONE_NEWTIME))
    return {"flags": 0, "own": own, "waits": (), "notes": (), "last": (), "elsewhere": born}


def packed(steps: Sequence[Step], shape: Shape, *, own: int) -> tuple[Making, list[Step]]:
    """Steps that are kept nowhere, of hooks in a container's namespaces *own*; and those before lamina-walk."""
    making = _joining(own)
    making, first, _ = _packed(making, [], steps, shape)
    return making, first


def _packed(
    making: Making, entry: Sequence[Step], steps: Sequence[Step], shape: Shape
) -> tuple[Making, list[Step], list[Step]]:
    """What is walked before lamina-walk is executed puts the descriptors in their places: they were given in this
    order, and what was not given is closed.
    """
    preserved, given, more = shape
    numbers = Numbers(preserved)
    streams = [Reg(f"stream{number}") for number in range(3)]
    copies = [Reg(f"given{index}") for index in range(len(given))]
    first = [Step("dup3", stream, number, 0) for number, stream in enumerate(streams)]
    first += [Step("dup3", copy, number, 0) for copy, number in zip(copies, given, strict=True)]
    first += entry
    first += [
        Step("close_range", more, 0xFFFFFFFF, 0, note="nothing else of the host goes along"),
        Step(
            "execveat", numbers.launcher, b"", Strings((WALK_NAME, str(numbers.program).encode())),
            Strings(), AT_EMPTY_PATH,
        ),
    ]  # fmt: skip
    making["first"] = assemble(first, [*streams, *copies]).parts()
    making["plan"] = assemble(steps).parts()
    # ids that change in a child that shares our memory mark that memory as not dumpable, ours too (prctl(2))
    making["marks"] = any(step.call.startswith("setres") for step in entry)
    return making, first, list(steps)
