"""What making a process comes to, kept by everything it was compiled from.

The compiler is given what is in the key and nothing else (`Asked`, plain values: compiling.py), so two that have the
same key have the same result. Left open is what differs from one container to the next: the descriptors; the root file
system's path; and an id of 64 hexadecimal digits (Docker's, podman's, Kubernetes') wherever it stands in paths and
names, with its first 12 (the host name). A mark of the same length stands for these in the key, *before* anything is
compiled: so what comes out of the compiler has the mark where the id was asked for, and nowhere else.

Recipes are kept below the root of the containers' state, in a directory of our own: see runtime/kept.py.
"""

from __future__ import annotations

import os
from marshal import dumps, loads

from lamina.errors import LaminaError
from lamina.linux.packed import Program
from lamina.runtime.bundle import NULL, Wiring
from lamina.runtime.kept import COMPILER, FILTERS, LENGTH, MARK, SHORT, kept, state_of
from lamina.runtime.waits import Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lamina.linux.program import Step

    # how many descriptors of the caller's are passed on, which numbers the others get, and the first that nobody has
    Shape = tuple[int, tuple[int, ...], int]
    # what is to be made ("created", "joined"), its shape, the host's answers, and what is asked
    Asked = tuple[Any, ...]
    Making = dict[str, Any]

VERSION = 2  # of the meaning of what is kept; the sources' own state is part of the key as well
_HERE = os.path.dirname(__file__)
# what this room's compiler executes besides, and what checks a specification; a test compares
SOURCES = (
    *COMPILER,
    *FILTERS,
    *(
        os.path.normpath(os.path.join(_HERE, path))
        for path in (
            "recipe.py",
            "compiling.py",
            "configuration.py",
            "../plan/created.py",
            "../hooks.py",
            "../rlimits.py",
            "../spec.py",
            "../talk.py",
        )
    ),
)
PLACE = b"/.plans"
IN_MEMORY = 32
_FACTS = tuple(name for name in Wiring.__annotations__ if name not in ("seccomp", "seccomp_flags"))
_SETS = ("files", "procfs", "modules", "nodes")
_DIGITS = frozenset("0123456789abcdef")
# a program that makes containers makes many that are alike: key -> result
_latest: dict[bytes, bytes] = {}


class Recipe:
    """A process that is ready to be made, but for its descriptors and its root's path.

    `first` is walked before lamina-walk is executed, `plan` by that. `flags` are clone3(2)'s, `own` the namespaces that
    the process does not share with us. `waits` are what it needs of us on the way, `notes` what differs from what was
    asked, `last` what a failure after the start is explained by. `elsewhere`: the process that counts is a child that
    it makes. `marks`: making it may mark our memory as not dumpable.
    """

    __slots__ = ("elsewhere", "first", "flags", "last", "marks", "notes", "own", "plan", "waits")

    def __init__(self, making: Making) -> None:
        self.flags: int = making["flags"]
        self.own: int = making["own"]
        self.notes: tuple[str, ...] = making["notes"]
        self.waits = [Wait(*wait) for wait in making["waits"]]
        self.last: tuple[Any, ...] = making["last"]
        self.marks: bool = making["marks"]
        self.elsewhere: bool = making.get("elsewhere", False)
        self.first, self.plan = Program(*making["first"]), Program(*making["plan"])


def recipe_for(asked: Asked, identity: str, root: bytes) -> Recipe:
    """The recipe for what is *asked*, for the container *identity* below *root*; compiled, or from before.

    Raises what the plan's compiler and that of filters raise.
    """
    marked, key = key_of(asked, identity)
    if key is None:
        return Recipe(_made(asked, root))

    def compiled() -> bytes:
        return dumps(_made(loads(key)[-1], root), 2)

    try:
        found = recall(key, root, b".plan", compiled)
    except LaminaError:
        if not marked:
            raise
        return Recipe(_made(asked, root))  # so that the message speaks of this container
    return Recipe(loads(_unmarked(found, marked)))


def key_of(asked: Any, identity: str) -> tuple[bytes, bytes | None]:
    """The id that is left open (b"" for one that may stand anywhere), and everything that a result depends on; None
    where that cannot be said, and nothing is to be kept.
    """
    machine = os.uname()
    try:
        key = dumps((VERSION, state_of(*SOURCES), machine.machine, machine.release, asked), 2)
    except ValueError:  # something that JSON cannot say either: the compiler knows what to say to it
        return b"", None
    if MARK[:SHORT] in key:
        return b"", None
    if len(identity) != LENGTH or not _DIGITS.issuperset(identity):
        return b"", key
    marked = identity.encode()
    return marked, key.replace(marked, MARK).replace(marked[:SHORT], MARK[:SHORT])


def _unmarked(found: bytes, identity: bytes) -> bytes:
    if not identity:
        return found
    return found.replace(MARK, identity).replace(MARK[:SHORT], identity[:SHORT])


def checked(alike: Any, document: Any, identity: str, root: bytes, check: Callable[[Any], None]) -> None:
    """Raise what *check* raises for *document*, unless *alike*, a document that differs in nothing that is checked, was
    found good before, for the container *identity* or one like it.
    """
    _, key = key_of(("checked", alike), identity)
    if key is not None:

        def good() -> bytes:
            check(loads(key)[-1][1])
            return b"good"

        try:
            recall(key, root, b".good", good)
            return
        except LaminaError:
            pass  # it is said of the document itself
    check(document)


def recall(key: bytes, root: bytes, suffix: bytes, make: Callable[[], bytes]) -> bytes:
    """What *make* makes of *key*, or made before, in this program or another one. Raises InvalidInput for a *root* that
    others may write to: where `.plans` leads there, they would say.
    """
    found = _latest.get(key)
    if found is None:
        try:
            os.makedirs(root, 0o700, exist_ok=True)
        except OSError:
            pass  # nothing is kept then
        else:
            from lamina.runtime.container.directory import check_owner

            check_owner(root, os.stat(root))
        found = kept(key, root + PLACE, suffix, make)
        if len(_latest) >= IN_MEMORY:
            _latest.clear()
        _latest[key] = found
    return found


def _made(asked: Asked, root: bytes) -> Making:
    from lamina.runtime.container.compiling import linux_of, made

    return made(asked, compiled_filter(linux_of(asked), root))


def steps_of(
    asked: Asked, root: bytes, strings: Mapping[str, list[bytes] | bytes]
) -> tuple[list[Step], list[Step]]:
    """The steps before lamina-walk and those that it walks, to say which one failed; *strings*: what was left open."""
    from lamina.runtime.container.compiling import linux_of, steps

    return steps(asked, compiled_filter(linux_of(asked), root), strings)


def plain(wiring: Wiring) -> dict[str, Any]:
    """The host's answers and the new process's descriptors as values that can be part of a key."""
    fields = vars(wiring)
    facts = {name: fields[name] for name in _FACTS}
    facts.update(stdin=NULL, stdout=NULL, stderr=NULL, far=NULL)
    for name in _SETS:
        facts[name] = sorted(facts[name])
    facts["namespaces"] = [(joined.kind, joined.fd, joined.outside) for joined in wiring.namespaces]
    return facts


def compiled_filter(linux: dict[str, Any], root: bytes) -> bytes:
    """The filter of `linux.seccomp`, compiled or found among those compiled before. `defaultFilter`, no word of the
    specification's, has the capabilities by which the default profile goes: to say these is to say all of it.
    """
    if linux.get("defaultFilter") is not None:
        from lamina.runtime.seccomp.cache import default_filter

        return default_filter(linux["defaultFilter"], root + b"/.seccomp").program()
    if not linux.get("seccomp"):
        return b""
    from lamina.runtime.seccomp.cache import filter_for

    return filter_for(linux["seccomp"], root + b"/.seccomp").program()
