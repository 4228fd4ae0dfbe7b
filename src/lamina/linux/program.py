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
used as arguments of later steps.
"""

from __future__ import annotations

import struct

from lamina.linux.fd import Fd
from lamina.linux.numbers import number
from lamina.values import value

try:
    from lamina.linux import _native as engine
except ImportError:  # no compiler when the package was built: `lamina info` says so
    from lamina.linux import runner as engine  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Union

    # the classes below have no `|` for their names in quotes
    Arg = Union[int, bytes, str, None, "Reg", "Strings", "Struct", "Out"]  # noqa: UP007

# struct step of _native.c: number, six arguments, six kinds, has_wanted, wanted, tolerated, skip, leap, save, result
RECORD = struct.Struct("=q6Q6sBxqQQHHiq")
# struct image of lamina_init.c: magic, count, registers, relocations, report, then where in the file they are: values,
# steps, arena, offsets, its end
IMAGE = struct.Struct("=8sIIIi5Q")
MAGIC = b"lamina 1"
VALUE, IN_ARENA, REGISTER = 0, 1, 2
MOST_ERRNOS = 128


class Reg(str):
    """A register by name: what `save=` fills and what later steps take as an argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"@{self!s}"


class Strings(tuple[bytes, ...]):
    """A NULL-terminated array of pointers to strings, as execve(2) takes it."""

    __slots__ = ()


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

    def __repr__(self) -> str:
        from lamina.linux.describe import describe

        return describe(self)


@value
class Outcome:
    """How far a walk came. `failed` is the index of the failing step (None: all were walked, or it still runs);
    `errno` its error, 0 when the result merely was not the wanted one; `results` one per step, as the kernel gave it.
    """

    failed: int | None
    errno: int
    results: tuple[int, ...]


# what follows data of each length modulo 16: at least a NUL, and then as many as the next needs to be aligned
_ENDS = tuple(bytes(16 - rest) for rest in range(16))


class _Packer:
    """Lays constants out in the arena; everything that starts a C object is aligned to 16 bytes."""

    def __init__(self) -> None:
        self.arena = bytearray()
        self.relocations: list[int] = []
        self.registers: dict[str, int] = {}
        self.known: dict[bytes, int] = {}

    def put(self, data: bytes) -> int:
        offset = self.known.get(data)
        if offset is None:
            arena = self.arena
            offset = self.known[data] = len(arena)
            arena += data
            arena += _ENDS[len(data) % 16]
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
            if letter == "P" and not isinstance(field, int):
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
        arena += _ENDS[len(data) % 16]
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
            elif isinstance(arg, str):
                values[i], kinds[i] = self.put(arg.encode("utf-8", "surrogateescape")), IN_ARENA
            elif arg is not None:
                values[i], kinds[i] = self.pointer(arg), IN_ARENA
        tolerated = 0
        for errno in step.tolerate:
            tolerated |= 1 << errno
        save = -1 if step.save is None else self.register(step.save)
        want = step.want
        return RECORD.pack(
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


class Program:
    """Packed steps, ready to be walked here (`walk`) or in a new process (`spawn`) as often as wanted."""

    def __init__(self, steps: Sequence[Step], packer: _Packer, records: bytes) -> None:
        self.steps = steps
        self.packed = (
            records,
            bytes(packer.arena),
            struct.pack(f"{len(packer.relocations)}I", *packer.relocations),
            len(packer.registers),
        )

    def walk(self) -> Outcome:
        """Make the calls in this thread, one after the other, until one fails."""
        return _outcome(engine.walk(*self.packed))

    def image(self, report: int) -> bytes:
        """The program as a file that runtime/init/lamina_init.c maps and walks.

        If a step fails it writes the step's index and errno (two ints) to the descriptor *report* and ends.
        """
        steps, arena, relocations, registers = self.packed
        values = IMAGE.size
        first = values + 8 * registers
        data = first + len(steps)
        offsets = data + len(arena) + -len(arena) % 16
        head = IMAGE.pack(
            MAGIC, len(steps) // RECORD.size, registers, len(relocations) // 4, report,
            values, first, data, offsets, offsets + len(relocations),
        )  # fmt: skip
        return b"".join((head, bytes(8 * registers), steps, arena, bytes(-len(arena) % 16), relocations))

    def spawn(self, flags: int, cgroup: int = -1) -> Child:
        """Start a process with clone3(2) *flags*, which makes the calls and ends with status 126 if one fails.

        With CLONE_VFORK this returns when the child has executed a program or is gone; without, `Child` must be kept
        until then. The child has default signal dispositions, an empty mask, and no code of Python.
        *cgroup* is a cgroup v2 directory for CLONE_INTO_CGROUP. Raises OSError when clone3 itself fails.
        """
        pid, pidfd, program = engine.spawn(*self.packed, flags, cgroup)
        return Child(pid, Fd(pidfd), program)


@value
class Child:
    """A process that walks, or walked, a program."""

    pid: int
    pidfd: Fd
    program: object

    def outcome(self) -> Outcome:
        """What the walk has reported so far; final once the child executed something or ended."""
        return _outcome(engine.outcome(self.program))


def _outcome(report: tuple[int, int, bytes]) -> Outcome:
    failed, errno, records = report
    results = tuple(record[-1] for record in RECORD.iter_unpack(records))
    return Outcome(failed if failed >= 0 else None, errno, results)


def assemble(steps: Sequence[Step]) -> Program:
    """Pack *steps*. Raises ValueError for a register that is used before it is saved, or an unknown call."""
    packer = _Packer()
    return Program(steps, packer, b"".join([packer.record(step) for step in steps]))
