"""Names and ids of containers: what they may be, and how one belongs to exactly one container.

A name is a symbolic link `names/<name>` to the id. symlink(2) makes it and fills it in one exclusive step, so a
name is never half taken; nobody follows the link.
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput
from lamina.store import lock
from lamina.store.tree import hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_LATER = _FIRST | frozenset("_.-")
_HEX = "0123456789abcdef"
LONGEST_NAME = 128
ID_LENGTH = 64

_QUALITIES = (
    "amber ashen banded bare basal blue brisk bright brittle broad calm chalky clear cloven coarse cold "
    "curved deep dense dry dusky early eager even faint fine flaky flat folded frosty glassy gentle "
    "golden grainy grey hazy hidden hollow humble icy keen late level light limber lively lone loyal "
    "lucid mellow mild misty mossy narrow neat nimble old olive open pale patient plain polished proud "
    "quick quiet rapid rare red rocky rosy rough round sandy sharp sheer shiny silent silver sleek slim "
    "slow smooth soft solid sparse steady still stony straight sturdy subtle sunny supple swift tall "
    "tender thin tidy tilted tranquil true upper vast veined vivid warm wavy white wide wild windy wise "
    "young"
)
_THINGS = (
    "agate alder arch ash aspen bark basalt bay beech beryl birch bluff bough brook canyon cave cedar "
    "chalk chert clay cliff cloud coal copse coral cove crag creek crust delta drift dune ebony elm "
    "ember fern field film fjord flake flint foil folio fossil frond garnet gneiss gorge granite gravel "
    "grove gypsum hazel heath hill ice island jade jasper kaolin lagoon larch leaf ledge lichen lime "
    "linden loam loess maple marble marl marsh meadow mesa mica mist moor moss oak onyx opal ore page "
    "peak peat pebble petal pine plain plate pond poplar quartz rain reed reef ridge river rowan ruby "
    "sage salt sand scale schist seam shale sheet shell shoal silt slab slate sleet snow spruce stone "
    "strata stream summit talc terrace thicket tide topaz tuff tundra vale veil veneer wafer wave "
    "willow yew zircon"
)


def check_name(name: str) -> str:
    """*name*, if a container may have it: [a-zA-Z0-9][a-zA-Z0-9_.-]*, up to 128. Raises InvalidInput."""
    if not is_name(name):
        raise InvalidInput(
            f"container name {name!r}: not a valid name",
            remedy=f"letters, digits, '_', '.' and '-', beginning with a letter or digit, at most {LONGEST_NAME}",
        )
    return name


def is_name(text: str) -> bool:
    """Whether a container may have *text* as its name."""
    return bool(text) and text[0] in _FIRST and _LATER.issuperset(text) and len(text) <= LONGEST_NAME


def is_id(text: str) -> bool:
    """Whether *text* is a whole id: 64 hexadecimal digits."""
    return len(text) == ID_LENGTH and not text.strip(_HEX)


def ids(entries: list[str]) -> list[str]:
    """Those of *entries* that are whole ids. In a directory of hundreds all are, which is seen at once."""
    if all(map(ID_LENGTH.__eq__, map(len, entries))) and not "".join(entries).strip(_HEX):
        return entries
    return [*filter(is_id, entries)]


def is_id_prefix(text: str) -> bool:
    """Whether *text* may be the beginning of an id."""
    return 0 < len(text) <= ID_LENGTH and not text.strip(_HEX)


def new_id() -> str:
    """A random id: 64 hexadecimal digits."""
    return os.urandom(ID_LENGTH // 2).hex()


def random_name(attempt: int = 0) -> str:
    """A name that is easy to say, such as `quiet_shale`; with a number in the end from the third *attempt* on."""
    first, second, number = os.urandom(1)[0], os.urandom(1)[0], int.from_bytes(os.urandom(2), "big")
    qualities, things = _QUALITIES.split(), _THINGS.split()
    name = f"{qualities[first % len(qualities)]}_{things[second % len(things)]}"
    return f"{name}{number}" if attempt >= 2 else name


def only_one(what: str, reference: str, found: Iterable[str]) -> str | None:
    """The only id among *found* that begins with *reference*, None where there is none; *what* they are the ids of.

    Raises InvalidInput when there are several.
    """
    matches = sorted(identity for identity in found if identity.startswith(reference))
    if len(matches) > 1:
        raise InvalidInput(
            f"{what} {reference}: multiple IDs found with provided prefix ({some(matches, 4)})",
            remedy="give more digits of it, or the name",
        )
    return matches[0] if matches else None


def some(what: Sequence[str], most: int = 3) -> str:
    """Ids and names for a message, in short and not all of them: `one, another, ...`."""
    shown = [text[:12] if is_id(text) else text for text in what[:most]]
    return ", ".join([*shown, "..."] if len(what) > most else shown)


def take(names: bytes, name: str, identity: str, alive: bytes) -> None:
    """Take the checked *name* for the container *identity*.

    *alive* is the directory with one entry a container: a name whose container is not there any more is free.
    Raises Conflict when it is taken.
    """
    link = names + b"/" + name.encode()
    for _ in range(3):
        try:
            os.symlink(identity, link)
            return
        except FileExistsError:
            owner = holder(names, name)
            if owner is not None and os.path.lexists(alive + b"/" + owner.encode()):
                break
            drop_stale(names, name, alive)
    else:
        owner = holder(names, name)
    raise Conflict(
        f"name {name}: taken by container {(owner or '?')[:12]}",
        remedy=f"remove that one ('lamina rm {name}') or choose another name",
    )


def holder(names: bytes, name: str) -> str | None:
    """The id of the container that has the checked *name*, or None."""
    try:
        identity = os.readlink(os.fsdecode(names) + "/" + name)
    except OSError:
        return None
    return identity if is_id(identity) else None


def drop_stale(names: bytes, name: str, alive: bytes) -> None:
    """Release *name* if its container is gone."""
    _drop_if(
        names, name, lambda owner: not is_id(owner) or not os.path.lexists(alive + b"/" + owner.encode())
    )


def drop_all(names: bytes, identity: str) -> None:
    """Release whatever names the container *identity*, which is gone, has."""
    for entry in os.listdir(names):
        name = os.fsdecode(entry)
        if is_name(name) and holder(names, name) == identity:
            _drop_if(names, name, lambda owner: owner == identity)


def drop_alias(names: bytes, name: str, identity: str, own: Callable[[], str]) -> None:
    """Release *name* if it is the container *identity*'s, but not what *own* says it is called: it was renamed."""
    _drop_if(names, name, lambda owner: owner == identity and own() != name)


def _drop_if(names: bytes, name: str, condition: Callable[[str], bool]) -> None:
    """Those who do so take turns: else one could remove what another has just taken anew. Nobody else removes names."""
    link = names + b"/" + name.encode()
    with lock.turn(names, lock.LOCK_EX):
        try:
            identity = os.readlink(link)
        except FileNotFoundError:
            return
        if condition(os.fsdecode(identity)):
            hold(link)
            os.unlink(link)
