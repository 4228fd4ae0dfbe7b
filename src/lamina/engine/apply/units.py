"""Which renames make a selection of changes: pure, from changes to steps and from steps to the journal and back.

A *unit* changes one path by one rename between its place and its slot in an area (places.py):

    add     the slot's entry goes to the place, where nothing was
    swap    the slot's entry and the place's change places
    take    the place's entry goes to the slot
    empty   the place's directory, by then empty, is removed; only where directories cannot be renamed (overlayfs)

An added directory is staged with all that is in it, and a deleted one goes with all that was in it: one unit each. So
no unit lies below another's path (but for `empty`), and their order matters only to who looks meanwhile: what comes
is there before what goes. Attributes of directories that stay are no units but `DirectoryStep`s, and so are the times
that the directories around the units get back.
"""

from __future__ import annotations

from lamina.engine.apply.attributes import Attributes, from_json, to_json
from lamina.engine.apply.journal import raw, text
from lamina.engine.apply.values import HostChange, below
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

ADD, SWAP, TAKE, EMPTY = "add", "swap", "take", "empty"
ORDER = (ADD, SWAP, TAKE, EMPTY)


@value
class Unit:
    """One rename. `path` is relative to `mountpoint`. Inode numbers are 0 where there is no such entry.

    `new_ino` is what was staged, `old_ino` what the host has there, `parent_ino` the directory around it; `area` the
    number of the area whose entry `slot` is this unit's. `attributes`: of a directory to be removed by `empty`.
    `made` are the changes whose entries are staged, parents first; `gone` those whose entries go: not in the journal.
    """

    number: int
    op: str
    mountpoint: bytes
    path: bytes
    area: int = 0
    new_ino: int = 0
    old_ino: int = 0
    parent_ino: int = 0
    attributes: Attributes | None = None
    made: tuple[HostChange, ...] = ()
    gone: tuple[HostChange, ...] = ()

    @property
    def slot(self) -> bytes:
        """Its name in the area."""
        return b"%d" % self.number

    @property
    def host_path(self) -> bytes:
        """The absolute path."""
        return below(self.mountpoint, self.path)

    @property
    def parent(self) -> bytes:
        """The relative path of the directory around it."""
        return self.path.rpartition(b"/")[0]


@value
class DirectoryStep:
    """A directory that stays: its attributes as they were and as they shall be, of which `what` are to be set."""

    mountpoint: bytes
    path: bytes
    ino: int
    old: Attributes
    new: Attributes
    what: frozenset[str]

    @property
    def host_path(self) -> bytes:
        """The absolute path."""
        return below(self.mountpoint, self.path)

    @property
    def depth(self) -> int:
        """How many names its path has."""
        return self.host_path.count(b"/") if self.host_path != b"/" else 0


def units_of(changes: Iterable[HostChange], in_one: Callable[[HostChange], bool]) -> list[Unit]:
    """The units of selected *changes* (in tree order), in the order of their execution.

    *in_one*: whether a directory can be renamed with what is in it.
    """
    drafts: list[Draft] = []
    whole: Draft | None = None
    for change in changes:
        if whole is not None and whole.holds(change):
            (whole.made if change.kind != "deleted" else whole.gone).append(change)
            continue
        whole = None
        after = change.after is not None and change.after.type == "directory"
        before = change.before is not None and change.before.type == "directory"
        if change.kind == "changed" and before:
            continue  # a DirectoryStep
        if before and not in_one(change):
            drafts.append(Draft(change, EMPTY))
            if change.kind == "replaced":
                drafts.append(Draft(change, ADD, made=[change]))
            continue
        op = {"added": ADD, "deleted": TAKE}.get(change.kind, SWAP)
        draft = Draft(change, op, made=[] if op == TAKE else [change], gone=[] if op == ADD else [change])
        drafts.append(draft)
        if before or after:
            whole = draft
    return [draft.unit(number) for number, draft in enumerate(sorted(drafts, key=Draft.order), 1)]


class Draft:
    """A unit while its entries are gathered."""

    def __init__(
        self,
        change: HostChange,
        op: str,
        made: list[HostChange] | None = None,
        gone: list[HostChange] | None = None,
    ) -> None:
        self.change, self.op, self.made, self.gone = change, op, made or [], gone or []

    def holds(self, change: HostChange) -> bool:
        """Whether *change* is below this unit's path, on the same file system."""
        return change.mountpoint == self.change.mountpoint and change.path.startswith(self.change.path + b"/")

    def order(self) -> tuple[int, bytes]:
        """What comes before what goes; directories that are removed one by one from the deepest up."""
        if self.op == EMPTY or (self.op == ADD and self.change.kind == "replaced"):
            # such a directory is emptied and then replaced: after everything that is taken out of it
            return 3, bytes(255 - byte for byte in self.change.path) + b"\xff" + bytes([self.op == ADD])
        return ORDER.index(self.op), self.change.path

    def unit(self, number: int) -> Unit:
        """The unit, as far as it is known before staging."""
        change = self.change
        return Unit(
            number,
            self.op,
            change.mountpoint,
            change.change.path,
            made=tuple(self.made),
            gone=tuple(self.gone),
        )


def unit_record(unit: Unit) -> dict[str, Any]:
    """The unit as the journal has it."""
    return {
        "unit": unit.number,
        "op": unit.op,
        "mountpoint": text(unit.mountpoint),
        "path": text(unit.path),
        "area": unit.area,
        "inos": [unit.new_ino, unit.old_ino, unit.parent_ino],
        "attributes": to_json(unit.attributes) if unit.attributes else None,
    }


def unit_from(record: dict[str, Any]) -> Unit:
    """The way back from `unit_record`."""
    new_ino, old_ino, parent_ino = record["inos"]
    return Unit(
        number=record["unit"],
        op=record["op"],
        mountpoint=raw(record["mountpoint"]),
        path=raw(record["path"]),
        area=record["area"],
        new_ino=new_ino,
        old_ino=old_ino,
        parent_ino=parent_ino,
        attributes=from_json(record["attributes"]) if record["attributes"] else None,
    )


def step_record(step: DirectoryStep) -> dict[str, Any]:
    """The step as the journal has it."""
    return {
        "mountpoint": text(step.mountpoint),
        "path": text(step.path),
        "ino": step.ino,
        "old": to_json(step.old),
        "new": to_json(step.new),
        "what": sorted(step.what),
    }


def step_from(record: dict[str, Any]) -> DirectoryStep:
    """The way back from `step_record`."""
    return DirectoryStep(
        mountpoint=raw(record["mountpoint"]),
        path=raw(record["path"]),
        ino=record["ino"],
        old=from_json(record["old"]),
        new=from_json(record["new"]),
        what=frozenset(record["what"]),
    )
