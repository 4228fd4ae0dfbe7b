"""Packed steps: kept, filled in, walked here or by a new process. What they are made from is lamina/linux/program.py.

A start that has been compiled before needs this file only. What differs from one start to the next was left open: the
values of some registers (descriptors), and lists of strings (arguments, environment). `Program.fill` closes that.
"""

from __future__ import annotations

import sys

from lamina.linux.fd import Fd
from lamina.values import value

try:
    from lamina.linux import _native as engine
except ImportError:  # no compiler when the package was built: `lamina info` says so
    from lamina.linux import runner as engine  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

# struct step of _native.c, as the module struct has it (which a start does not import): number, six arguments, six
# kinds, has_wanted, wanted, tolerated, skip, leap, save, result
RECORD, RECORD_SIZE = "=q6Q6sBxqQQHHiq", 104
# struct image of lamina_init.c: magic; count, registers, relocations, report (of 4 bytes each); then where in the file
# they are (8): values, steps, arena, offsets, its end
IMAGE_SIZE = 64
MAGIC = b"lamina 1"
FIRST_ARGUMENT = 8  # where in a record; each takes 8 bytes
# what follows data of each length modulo 16: at least a NUL, and then as many as the next needs to be aligned
ENDS = tuple(bytes(16 - rest) for rest in range(16))


class Reg(str):
    """A register by name: what `save=` fills and what later steps take as an argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"@{self!s}"


@value
class Outcome:
    """How far a walk came. `failed` is the index of the failing step (None: all were walked, or it still runs);
    `errno` its error, 0 when the result merely was not the wanted one; `results` one per step, as the kernel gave it.
    """

    failed: int | None
    errno: int
    results: tuple[int, ...]


@value
class Child:
    """A process that walks, or walked, a program."""

    pid: int
    pidfd: Fd
    program: object
    walker: Any = engine

    def outcome(self) -> Outcome:
        """What the walk has reported so far; final once the child executed something or ended."""
        return _outcome(self.walker.outcome(self.program))

    def settle(self) -> None:
        """Of a child that shares our memory without CLONE_VFORK: it has executed something, or is gone."""
        self.walker.settle(self.program)

    def failure(self) -> tuple[int, int] | None:
        """The index of the step that failed and its errno, as `outcome` has them; None as long as none did."""
        failed, errno, _ = self.walker.outcome(self.program)
        return (failed, errno) if failed >= 0 else None


class Program:
    """Packed steps, ready to be walked here (`walk`) or in a new process (`spawn`) as often as wanted.

    `given` are the registers whose values are still open, the first of all; `holes` are (name, place in the records)
    of the arguments that still have to become lists of strings, or a string. Only a program without any can be walked.
    """

    __slots__ = ("arena", "given", "holes", "records", "registers", "relocations")

    def __init__(
        self,
        records: bytes,
        arena: bytes,
        relocations: bytes,
        registers: bytes,
        given: tuple[str, ...] = (),
        holes: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self.records: bytes = records
        self.arena: bytes = arena
        self.relocations: bytes = relocations
        self.registers: bytes = registers
        self.given: tuple[str, ...] = given
        self.holes: tuple[tuple[str, int], ...] = holes

    def parts(self) -> tuple[Any, ...]:
        """What it consists of, to be kept: `Program(*parts)` is the same again."""
        return (self.records, self.arena, self.relocations, self.registers, self.given, self.holes)

    def fill(self, values: Mapping[str, int], strings: Mapping[str, Sequence[bytes] | bytes]) -> Program:
        """The program with every open register and hole closed. Raises KeyError for one that is missing."""
        registers = _numbers(8, [values[name] for name in self.given])
        registers += self.registers[len(registers) :]
        if not self.holes:
            return Program(self.records, self.arena, self.relocations, registers)
        records, arena = bytearray(self.records), bytearray(self.arena)
        moved: list[int] = []
        places: dict[str, int] = {}
        for name, hole in self.holes:
            if name not in places:
                put = strings[name]
                places[name] = _put(arena, put) if isinstance(put, bytes) else _put_strings(arena, moved, put)
            records[hole : hole + 8] = places[name].to_bytes(8, sys.byteorder)
        relocations = self.relocations + _numbers(4, moved)
        return Program(bytes(records), bytes(arena), relocations, registers)

    def walk(self) -> Outcome:
        """Make the calls in this thread, one after the other, until one fails."""
        return _outcome(engine.walk(self.records, self.arena, self.relocations, self._closed()))

    def image(self, report: int) -> bytes:
        """The program as a file that runtime/init/lamina_init.c maps and walks.

        If a step fails it writes the step's index and errno (two ints) to the descriptor *report* and ends.
        """
        registers = self._closed()
        steps, arena, relocations = self.records, self.arena, self.relocations
        values = IMAGE_SIZE
        first = values + len(registers)
        data = first + len(steps)
        offsets = data + len(arena) + -len(arena) % 16
        counts = (len(steps) // RECORD_SIZE, len(registers) // 8, len(relocations) // 4, report)
        head = MAGIC + _numbers(4, counts)
        head += _numbers(8, (values, first, data, offsets, offsets + len(relocations)))
        return b"".join((head, registers, steps, arena, bytes(-len(arena) % 16), relocations))

    def spawn(
        self,
        flags: int,
        cgroup: int = -1,
        noted: list[Any] | None = None,
        enter: tuple[tuple[int, int], ...] = (),
    ) -> Child:
        """Start a process with clone3(2) *flags*, which makes the calls and ends with status 126 if one fails.

        With CLONE_VFORK this returns when the child has executed a program or is gone; without, `Child` must be kept
        until then, and with CLONE_VM be told (`settle`). The child has default signal dispositions, an empty mask, and
        no code of Python. *cgroup* is a cgroup v2 directory for CLONE_INTO_CGROUP. *enter* are namespaces, as
        (descriptor, CLONE_NEW*), that a helper joins one after the other before it makes the process, which then has a
        copy of our memory (runner.py). Raises OSError when clone3, or joining one of them, fails.

        The child is appended to *noted*, if only as (pid, pidfd, program), before any signal handler of Python's runs.
        """
        noted = [] if noted is None else noted
        packed = (self.records, self.arena, self.relocations, self._closed())
        walker: Any = engine
        if enter:
            from lamina.linux import runner as walker

            walker.spawn(*packed, flags, cgroup, noted, enter)
        else:
            walker.spawn(*packed, flags, cgroup, noted)
        pid, pidfd, program = noted[-1]
        noted[-1] = child = Child(pid, Fd(pidfd), program, walker)
        return child

    def _closed(self) -> bytes:
        if self.given or self.holes:
            still = ", ".join((*self.given, *[name for name, _ in self.holes]))
            raise ValueError(f"a program cannot be walked before it is filled in: {still}")
        return self.registers


def _numbers(width: int, numbers: Iterable[int]) -> bytes:
    """Each as so many bytes in the machine's order. Raises OverflowError for one that is larger."""
    return b"".join([number.to_bytes(width, sys.byteorder, signed=True) for number in numbers])


def _put(arena: bytearray, item: bytes) -> int:
    """Append a string to the arena; where it is."""
    at = len(arena)
    arena += item
    arena += ENDS[len(item) % 16]
    return at


def _put_strings(arena: bytearray, moved: list[int], items: Sequence[bytes]) -> int:
    """Append a NULL-terminated array of pointers to *items* to the arena; *moved* learns where the pointers are."""
    offsets = [_put(arena, item) for item in items]
    start = len(arena)
    arena += _numbers(8, (*offsets, 0))
    arena += ENDS[8 * (len(offsets) + 1) % 16]
    moved += range(start, start + 8 * len(offsets), 8)
    return start


def _outcome(report: tuple[int, int, bytes]) -> Outcome:
    failed, errno, records = report
    results = tuple(
        int.from_bytes(records[end - 8 : end], sys.byteorder, signed=True)
        for end in range(RECORD_SIZE, len(records) + 1, RECORD_SIZE)
    )
    return Outcome(failed if failed >= 0 else None, errno, results)
