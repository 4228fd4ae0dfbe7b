"""A flat list of system calls, as data: how it is written down, packed, walked and started in a new process.

A container start is such a list. It is built without any privilege, printed by `lamina plan`, compared in golden
tests, and walked by lamina/linux/_native.c (or runner.py, the same in Python) in a process of its own.

    steps = [
        Step("openat", AT_FDCWD, "/srv", O_PATH, 0, save=Reg("srv"), tolerate=(ENOENT,), skip=1),
        Step("fchdir", Reg("srv")),
    ]
    outcome = assemble(steps).walk()

After success the walk goes on behind `leap` further steps; after a tolerated errno behind `skip` further steps; any
other errno, or a result that differs from `want`, ends it. Results are kept in registers, written once by `save=` and
used as arguments of later steps. Packed steps (packed.py) can be kept; what differs from one start to the next is then
a register that is given, or a `Hole`.
"""

from __future__ import annotations

import struct

from lamina.linux.numbers import number
from lamina.linux.packed import ENDS, FIRST_ARGUMENT, RECORD, RECORD_SIZE, Program, Reg
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Union

    # the classes below have no `|` for their names in quotes
    Arg = Union[int, bytes, str, None, "Reg", "Strings", "Struct", "Out", "Hole"]  # noqa: UP007

__all__ = ["Blank", "Hole", "Out", "Reg", "Step", "Strings", "Struct", "assemble"]

VALUE, IN_ARENA, REGISTER = 0, 1, 2


class Strings(tuple[bytes, ...]):
    """A NULL-terminated array of pointers to strings, as execve(2) takes it."""

    __slots__ = ()


class Hole(str):
    """A list of strings that is not known yet, by name: `Program.fill` puts it in."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self!s}>"


class Blank(bytes):
    """A string that is not known yet, by name: `Program.fill` puts it in. As an argument only, not inside a Struct."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self.decode()}>"


class Out(int):
    """Room for so many bytes that the call writes to; nobody else's constant lies there."""

    __slots__ = ()


@value
class Struct:
    """A C structure: `format` as in the struct module, native alignment; a "P" field takes bytes, Strings or Struct."""

    name: str
    format: str
    fields: tuple[int | bytes | Strings | Struct, ...]

    def size(self) -> int:
        """Bytes it takes."""
        return struct.calcsize(self.format)


class Step:
    """One system call of a program. `note` says for people what it is for; `arg_names` are not needed to run it."""

    __slots__ = ("args", "call", "leap", "note", "save", "skip", "tolerate", "want")

    def __init__(
        self,
        call: str,
        *args: Arg,
        save: Reg | None = None,
        tolerate: tuple[int, ...] = (),
        skip: int = 0,
        leap: int = 0,
        want: int | None = None,
        note: str = "",
    ) -> None:
        self.call = call
        self.args = args
        self.save = save
        self.tolerate = tolerate
        self.skip = skip
        self.leap = leap
        self.want = want
        self.note = note

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = object.__hash__

    def filled(self, strings: Mapping[str, Strings]) -> Step:
        """This step with its holes filled; itself if it has none."""
        if not any(isinstance(arg, Hole) for arg in self.args):
            return self
        args = [strings[arg] if isinstance(arg, Hole) else arg for arg in self.args]
        return Step(
            self.call, *args, save=self.save, tolerate=self.tolerate, skip=self.skip, leap=self.leap,
            want=self.want, note=self.note,
        )  # fmt: skip

    def __repr__(self) -> str:
        from lamina.linux.describe import describe

        return describe(self)


class _Packer:
    """Lays constants out in the arena; everything that starts a C object is aligned to 16 bytes."""

    def __init__(self, given: Sequence[str]) -> None:
        self.arena = bytearray()
        self.relocations: list[int] = []
        self.registers: dict[str, int] = {name: index for index, name in enumerate(given)}
        self.known: dict[bytes, int] = {}
        self.holes: list[tuple[str, int]] = []
        self.packed = 0  # records so far

    def put(self, data: bytes) -> int:
        if type(data) is Blank:
            raise ValueError(f"{data!r} is left open, and not an argument")
        offset = self.known.get(data)
        if offset is None:
            arena = self.arena
            offset = self.known[data] = len(arena)
            arena += data
            arena += ENDS[len(data) % 16]
        return offset

    def strings(self, items: Strings) -> int:
        offsets = [self.put(item) for item in items]
        return self._with_pointers(
            struct.pack(f"{len(offsets) + 1}Q", *offsets, 0), range(0, 8 * len(offsets), 8)
        )

    def struct(self, what: Struct) -> int:
        numbers: list[int] = []
        pointers: list[int] = []
        code = what.format
        if "P" not in code:
            return self.put(struct.pack(code, *what.fields))
        for index, (letter, field) in enumerate(zip(code.replace("x", ""), what.fields, strict=True)):
            if letter == "P" and (isinstance(field, Out) or not isinstance(field, int)):
                pointers.append(_offset_of(code, index))
                numbers.append(self.pointer(field))
            elif isinstance(field, int):
                numbers.append(field)
        return self._with_pointers(struct.pack(code, *numbers), pointers)

    def pointer(self, item: bytes | Strings | Struct | Out) -> int:
        if isinstance(item, Out):
            return self._with_pointers(bytes(item), ())
        if isinstance(item, Strings):
            return self.strings(item)
        return self.struct(item) if isinstance(item, Struct) else self.put(item)

    def _with_pointers(self, data: bytes, pointers: Sequence[int]) -> int:
        arena = self.arena
        offset = len(arena)
        arena += data
        arena += ENDS[len(data) % 16]
        self.relocations += [offset + p for p in pointers]
        return offset

    def register(self, name: str) -> int:
        return self.registers.setdefault(name, len(self.registers))

    def record(self, step: Step) -> bytes:
        values = [0, 0, 0, 0, 0, 0]
        kinds = bytearray(6)
        arg: Any
        for i, arg in enumerate(step.args):
            kind = type(arg)  # nearly all are one of these four
            if kind is int:
                values[i] = arg & 0xFFFFFFFFFFFFFFFF
            elif kind is Reg:
                found = self.registers.get(arg)
                if found is None:
                    raise ValueError(f"{step.call}: register {arg!r} is used before any step saves it")
                values[i], kinds[i] = found, REGISTER
            elif kind is bytes:
                values[i], kinds[i] = self.put(arg), IN_ARENA
            elif kind is Struct:
                values[i], kinds[i] = self.struct(arg), IN_ARENA
            elif isinstance(arg, int) and kind is not Out:
                values[i] = arg & 0xFFFFFFFFFFFFFFFF
            elif kind is Hole or kind is Blank:
                kinds[i] = IN_ARENA
                name = str(arg) if kind is Hole else arg.decode()
                self.holes.append((name, self.packed * RECORD_SIZE + FIRST_ARGUMENT + 8 * i))
            elif isinstance(arg, str):
                values[i], kinds[i] = self.put(arg.encode("utf-8", "surrogateescape")), IN_ARENA
            elif arg is not None:
                values[i], kinds[i] = self.pointer(arg), IN_ARENA
        tolerated = 0
        for errno in step.tolerate:
            tolerated |= 1 << errno
        save = -1 if step.save is None else self.register(step.save)
        want = step.want
        self.packed += 1
        return struct.pack(
            RECORD,
            number(step.call), *values, bytes(kinds), want is not None, want or 0,
            tolerated & 0xFFFFFFFFFFFFFFFF, tolerated >> 64, step.skip, step.leap, save, 0,
        )  # fmt: skip


def _offset_of(code: str, index: int) -> int:
    """Where field *index* of the struct *code* (one letter a field, x for padding) begins."""
    seen = -1
    for position, letter in enumerate(code):
        seen += letter != "x"
        if seen == index:
            return struct.calcsize(code[: position + 1]) - struct.calcsize(letter)
    raise IndexError(index)


def assemble(steps: Sequence[Step], given: Sequence[str] = ()) -> Program:
    """Pack *steps*; *given* are registers that `Program.fill` sets, which no step saves.

    Raises ValueError for a register that is used before it is saved, or an unknown call.
    """
    packer = _Packer(given)
    records = b"".join([packer.record(step) for step in steps])
    return Program(
        records,
        bytes(packer.arena),
        struct.pack(f"{len(packer.relocations)}I", *packer.relocations),
        bytes(8 * len(packer.registers)),
        tuple(str(name) for name in given),
        tuple(packer.holes),
    )
