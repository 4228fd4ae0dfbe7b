"""Plans that were compiled before, kept by what they were compiled from.

`compile_plan` is pure: the same bundle and the same answers of the host give the same list. Of most starts only the
container's identity, the command and the descriptors are new, and those were left open in what is kept: the identity by
a mark in its place, the command as holes, the descriptors as registers. So such a start packs a few strings, where
compiling and packing some three hundred steps takes longer than the kernel takes to walk them, and importing the
compiler longer still.
"""

from __future__ import annotations

import os
from marshal import dumps, loads

from lamina.linux.packed import Program
from lamina.overlay.spec import MountSpec
from lamina.runtime.bundle import NULL, Wiring
from lamina.runtime.kept import COMPILER, LENGTH, MARK, SHORT, kept, state_of
from lamina.runtime.waits import Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle
    from lamina.runtime.seccomp.cache import Filter

VERSION = 1  # of the meaning of what is kept; the sources' own state is part of the content as well
IN_MEMORY = 32

_FACTS = tuple(name for name in Wiring.__annotations__ if name != "seccomp")
_STACK = tuple(MountSpec.__annotations__)
# most starts of a program are alike: content -> template
_latest: dict[bytes, Template] = {}


class Template:
    """A compiled start with what differs left open: the flags of clone3(2), the program, what it needs of the caller on
    the way, and what differs from what was asked.
    """

    __slots__ = ("flags", "notes", "program", "waits")

    def __init__(self, flags: int, program: Program, waits: tuple[Wait, ...], notes: tuple[str, ...]) -> None:
        self.flags, self.program, self.waits, self.notes = flags, program, waits, notes

    def identified(self, identity: bytes) -> Program:
        """The program for the container *identity*."""
        program = self.program
        if not identity:
            return program
        arena = program.arena.replace(MARK, identity).replace(MARK[:SHORT], identity[:SHORT])
        records, _, *rest = program.parts()
        return Program(records, arena, *rest)


def template_for(bundle: Bundle, wiring: Wiring, filter_: Filter | None, cache_dir: bytes) -> Template | None:
    """The template of *bundle*'s start; None where it has to be compiled each time.

    *wiring* has registers for all descriptors and no seccomp program, which comes from *filter_*. Templates are kept in
    *cache_dir*, which is made if it is missing. Raises what `compile_plan` raises.
    """
    content = _content(bundle, wiring, filter_)
    if content is None:
        return None
    found = _latest.get(content)
    if found is None:

        def compiled() -> bytes:
            return dumps(_compiled(bundle, wiring, filter_), 2)

        flags, parts, waits, notes = loads(kept(content, cache_dir, b".plan", compiled))
        if len(_latest) >= IN_MEMORY:
            _latest.clear()
        found = _latest[content] = Template(
            flags, Program(*parts), tuple(Wait(*wait) for wait in waits), notes
        )
    return found


def _content(bundle: Bundle, wiring: Wiring, filter_: Filter | None) -> bytes | None:
    """Everything that the plan depends on, as bytes, without the identity; None where that cannot be said."""
    identity = bundle.identity
    if wiring.namespaces or wiring.trees or wiring.id_maps:  # descriptors of this one start
        return None
    if wiring.launcher == NULL or len(identity) not in (0, LENGTH) or (filter_ and not filter_.content):
        return None
    asked = {**bundle.spec, "process": {**bundle.spec["process"], "args": None, "env": None}}
    stacks = [(place, _plain(stack)) for place, stack in ((b"", bundle.rootfs), *bundle.overlays)]
    places = (bundle.merged, bundle.readonly, bundle.hide, bundle.attributes, bundle.init, bool(identity))
    manner = (bundle.directory, bundle.no_pivot, bundle.new_keyring, bundle.parts, bundle.networked)
    facts = [_plain(getattr(wiring, name)) for name in _FACTS]
    machine = os.uname()
    making = (VERSION, state_of(*COMPILER), machine.machine, filter_.content if filter_ else b"")
    try:
        content = dumps((making, asked, stacks, places, manner, facts), 2)
    except ValueError:  # something that JSON cannot say either: the compiler knows what to say to it
        return None
    if MARK[:SHORT] in content:
        return None
    return _marked(content, identity)


def _plain(fact: Any) -> Any:
    if isinstance(fact, MountSpec):
        return tuple(getattr(fact, name) for name in _STACK)
    if isinstance(fact, frozenset):
        return sorted(fact)
    if isinstance(fact, tuple):
        return [_plain(part) for part in fact]
    return str(fact) if isinstance(fact, str) else fact


def _marked(data: bytes, identity: bytes) -> bytes:
    if not identity:
        return data
    return data.replace(identity, MARK).replace(identity[:SHORT], MARK[:SHORT])


def _compiled(bundle: Bundle, wiring: Wiring, filter_: Filter | None) -> tuple[Any, ...]:
    from lamina.runtime.plan import compile_plan
    from lamina.values import replace

    plan = compile_plan(bundle, replace(wiring, seccomp=filter_.program() if filter_ else b""))
    records, arena, *rest = plan.assemble().parts()
    waits = tuple((wait.kind, wait.payload) for wait in plan.waits)
    parts = (records, _marked(arena, bundle.identity), *rest)
    return (plan.clone_flags(wiring), parts, waits, plan.notes)
