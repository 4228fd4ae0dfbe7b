"""The tables as they stand: elements added and removed, and everything made anew where somebody flushed it.

Whoever adds something expects the tables to be there. Where they are not (the first time; after `nft flush ruleset`, a
firewall's reload) they are made from what is recorded, all networks and all containers that run, in one transaction. It
is bound to the generation of the rules at which the records were read: so nobody's change in between is lost.
"""

from __future__ import annotations

from errno import EEXIST, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT

from lamina.errors import Conflict, KernelError, Unsupported
from lamina.linux.nftables import (
    MOST_ELEMENTS,
    Element,
    add_elements,
    commit,
    delete_elements,
    delete_table,
    elements,
    generation_of,
    open_nftables,
)
from lamina.linux.nftables import tables as every_table
from lamina.network import egress, rules
from lamina.network.matches import BRIDGE, INET
from lamina.network.model import SYSTEM_TABLE, ports_begin
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from lamina.linux.netlink import Channel
    from lamina.linux.nftables import Message
    from lamina.network.model import Attachment, Network

    Everything = Callable[[], tuple[list[Network], list[Attachment]]]
    Wanted = list[tuple[str, str, list[Element]]]

_ERESTART = 85
_TRIES = 50  # of a transaction that others come before
_ENDINGS = 9  # times in a row that an element goes while it is told anew, or removed
_OF_CONTAINERS = (
    *((BRIDGE, name) for name in rules.BRIDGE_SETS),
    *((INET, name) for name in rules.PORT_MAPS),
    *egress.SETS,
)
REMEDY = "take --network none or --network host"


def add(table: str, wanted: Wanted, everything: Everything) -> None:
    """Add elements to the tables *table*, which are made where they are missing, with *everything* there is.

    An element of a map that is there with another meaning is of somebody who is gone: whoever adds one has claimed it
    before. Raises Unsupported where this host has no nf_tables, KernelError.
    """
    if not wanted:  # nothing of ours is behind a bridge: nf_tables need not be there
        return
    with _opened() as channel:
        try:
            _add(channel, table, wanted)
        except KernelError as error:
            if error.errno != ENOENT:
                raise _translated(error) from error
            make(table, everything, channel=channel)
            try:
                _add(channel, table, wanted)  # it may not be among everything yet
            except KernelError as again:
                if again.errno != ENOENT:
                    raise _translated(again) from again
                make(
                    table, everything, anew=True, channel=channel
                )  # they are an older Lamina's, without some set
                _add(channel, table, wanted)


def _add(channel: Any, table: str, wanted: Wanted) -> None:
    messages = rules.additions(table, wanted)
    try:
        commit(channel, messages)
    except KernelError as error:
        if error.errno != EEXIST:
            raise
        _replace(channel, table, wanted, messages)


def _replace(channel: Any, table: str, wanted: Wanted, messages: list[Message]) -> None:
    """Add elements for which a map has others: those go in the same transaction, bound to the generation in which they
    were seen. So at no time, whoever is killed, is a port that moves without a rule.
    """
    keys: dict[tuple[str, str], set[bytes]] = {}
    for family, known, several in wanted:
        keys.setdefault((family, known), set()).update(one.key for one in several if one.data)
    for _ in range(_TRIES):
        generation = generation_of(channel)
        old = [
            (family, known, [one for one in _there(channel, family, table, known) if one.key in own])
            for (family, known), own in keys.items()
            if own
        ]
        try:
            commit(channel, [*rules.removals(table, [one for one in old if one[2]]), *messages], generation)
            return
        except KernelError as error:
            if error.errno != _ERESTART:
                raise
    raise _never_quiet()


def _never_quiet() -> KernelError:
    return KernelError("netlink", _ERESTART, "nf_tables", hint="somebody changes rules all the time")


def remove(table: str, wanted: Wanted) -> None:
    """Take elements out; those that are not there, with their tables or without, are out. Raises KernelError."""
    if not wanted:
        return
    with _opened() as channel:
        try:
            commit(channel, rules.removals(table, wanted))
        except KernelError as error:
            if error.errno != ENOENT:
                raise _translated(error) from error
            for family, known, several in wanted:
                _remove_each(channel, family, table, known, several)


def _remove_each(channel: Any, family: str, table: str, known: str, several: Iterable[Element]) -> None:
    for element in several:
        try:
            commit(channel, [delete_elements(family, table, known, [element])])
        except KernelError as error:
            if error.errno != ENOENT:
                raise


def _remove_in_parts(
    channel: Any, family: str, table: str, known: str, several: list[Element]
) -> list[Element]:
    """Remove many of one set, for each transaction is a grace period of the kernel's; those that nobody else has
    removed, or whose time has ended, meanwhile.
    """
    removed: list[Element] = []
    for at in range(0, len(several), MOST_ELEMENTS):
        part = several[at : at + MOST_ELEMENTS]
        for left in range(_ENDINGS, -1, -1):
            try:
                commit(channel, [delete_elements(family, table, known, part)] if part else [])
                removed += part
                break
            except KernelError as error:
                if error.errno != ENOENT or not left:
                    raise
                there = {one.key for one in _there(channel, family, table, known)}
                part = [one for one in part if one.key in there]
    return removed


def make(table: str, everything: Everything, *, anew: bool = False, channel: Any = None) -> None:
    """Make the tables with everything there is, unless they are there; *anew*: in any case. Raises as `add`."""
    with _opened() if channel is None else _Kept(channel) as opened:
        for _ in range(_TRIES):
            try:
                generation = generation_of(opened)
                every = every_table(opened)
                there = [found for found in every if found[1] == table]
                if len(there) == 2 and not anew:
                    return
                _check_apart(table, {name for _, name in every})
                networks, attachments = everything()
                messages = [delete_table(family, name) for family, name in there]
                messages += rules.tables(table)
                for network in networks:
                    messages += rules.additions(table, rules.of_network(network))
                for attachment in attachments:
                    messages += rules.additions(table, rules.of_attachment(attachment))
                messages += _told(opened, table, {one.owner[:12] for one in attachments})
                commit(opened, messages, generation)
                return
            except KernelError as error:
                if error.errno != _ERESTART:
                    raise _translated(error) from error
    raise _never_quiet()


def _told(channel: Any, table: str, alive: set[str]) -> list[Message]:
    """What containers were told that names mean, for the time that is left: they do not ask for what they know."""
    kept = [
        (family, name, element)
        for family, name in egress.TOLD
        for element in _there(channel, family, table, name)
        if element.seconds and _owner(element)[1] in alive
    ]
    return [message for part in _parts(kept) for message in _messages(add_elements, table, part)]


def _check_apart(table: str, known: Iterable[str]) -> None:
    """Each store's tables drop what comes from ports that are called as its containers' are, and are not: so no two may
    call theirs alike. Of 4096 beginnings two stores have the same one once in a while. Raises Conflict.
    """
    beginning = ports_begin(table)
    for other in known:
        if other != table and other.startswith(f"{SYSTEM_TABLE}-") and ports_begin(other) == beginning:
            raise Conflict(
                f"make the rules of a network: another store ({other}) calls the links of its containers "
                f"{beginning}..., as this one ({table}) does",
                remedy="keep this store in another directory; if the other one is gone, 'lamina system check --repair'",
            )


def delete(table: str) -> None:
    """Remove the tables, if they are there: nothing of ours is left in nf_tables. Raises KernelError."""
    with _opened() as channel:
        for family, name in every_table(channel):
            if name == table:
                commit(channel, [delete_table(family, name)])


def delete_idle(table: str) -> bool:
    """Remove the tables unless a container has elements in them; whether they are gone. Raises as `elements_of`.

    It is bound to the generation of the rules before it was looked: who adds elements meanwhile finds the tables, or
    makes them anew.
    """
    with _opened() as channel:
        for _ in range(_TRIES):
            generation = generation_of(channel)
            there = [found for found in every_table(channel) if found[1] == table]
            if any(_there(channel, family, table, name) for family, name in _OF_CONTAINERS):
                return False
            try:
                commit(channel, [delete_table(family, name) for family, name in there], generation)
                return True
            except KernelError as error:
                if error.errno != _ERESTART:
                    raise _translated(error) from error
    return False


def stands(table: str) -> bool:
    """Whether the tables are there. Raises Unsupported, KernelError."""
    with _opened() as channel:
        try:
            return [name for _, name in every_table(channel)].count(table) == 2
        except KernelError as error:
            raise _translated(error) from error


def elements_of(table: str) -> list[tuple[str, str, str, str]]:
    """(family, set, the container's name, the first digits of its id) of every element of a container.

    Raises Unsupported, KernelError.
    """
    with _opened() as channel:
        return [
            (family, name, *_owner(element))
            for family, name in _OF_CONTAINERS
            for element in _there(channel, family, table, name)
        ]


def _owner(element: Element) -> tuple[str, str]:
    title, _, short = element.comment.rpartition(" ")
    return title, short


def _there(channel: Any, family: str, table: str, name: str) -> list[Element]:
    try:
        return elements(channel, family, table, name)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return []


def limited(table: str) -> dict[bytes, str]:
    """The addresses of those who may not reach everything, and the first digits of their ids. Raises KernelError."""
    with _opened() as channel:
        return {
            element.key: _owner(element)[1]
            for name in ("limited4", "limited6")
            for element in _there(channel, INET, table, name)
        }


def tell(table: str, wanted: list[tuple[str, str, Element]]) -> None:
    """Add elements that go by themselves, or have those that are there stay for their new time. Raises KernelError."""
    with _opened() as channel:
        for part in _parts(wanted):
            # what is there already stays as it is when it is added, and what is not there could not be deleted
            adding, deleting = _messages(add_elements, table, part), _messages(delete_elements, table, part)
            for left in range(_ENDINGS, -1, -1):
                try:
                    commit(channel, [*adding, *deleting, *adding])
                    break
                except KernelError as error:
                    if error.errno != ENOENT or not left:  # the time of one that was there may end meanwhile
                        raise


def untell(table: str, wanted: list[tuple[str, str, Element]]) -> None:
    """Take such elements away, if they are there. Raises KernelError."""
    with _opened() as channel:
        for part in _parts(wanted):
            try:
                commit(channel, _messages(delete_elements, table, part))
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
                for family, name, element in part:
                    _remove_each(channel, family, table, name, [element])


def _parts(wanted: list[tuple[str, str, Element]]) -> Iterable[list[tuple[str, str, Element]]]:
    """Each element once, and no more of them at a time than one message takes."""
    every = list(
        {(family, name, element.key): (family, name, element) for family, name, element in wanted}.values()
    )
    return (every[at : at + MOST_ELEMENTS] for at in range(0, len(every), MOST_ELEMENTS))


def _messages(
    make_one: Callable[[str, str, str, list[Element]], Message],
    table: str,
    part: list[tuple[str, str, Element]],
) -> list[Message]:
    """One for each set."""
    by_set: dict[tuple[str, str], list[Element]] = {}
    for family, name, element in part:
        by_set.setdefault((family, name), []).append(element)
    return [make_one(family, table, name, several) for (family, name), several in by_set.items()]


def take_counted(table: str, wanted: Callable[[Element], bool]) -> list[Element]:
    """The elements that count what was dropped, of those *wanted*; their counting begins anew. Raises KernelError."""
    found = []
    with _opened() as channel:
        for family, name in egress.DROPPED:
            counted = [one for one in _there(channel, family, table, name) if wanted(one)]
            found += _remove_in_parts(channel, family, table, name, counted)
    return found


def left_over(
    table: str, lives: Callable[[str], bool], sets: Iterable[tuple[str, str]] = _OF_CONTAINERS
) -> list[str]:
    """What containers of whom *lives* (given the first 12 digits of an id) says no have left in the tables, in *sets*;
    as text. It is removed. Raises KernelError.
    """
    found = []
    with _opened() as channel:
        for family, name in sets:
            gone = [one for one in _there(channel, family, table, name) if not lives(_owner(one)[1])]
            _remove_in_parts(channel, family, table, name, gone)
            found += [f"element of {family} {table} {name} of container {one.comment}" for one in gone]
    return found


def left_by_networks(
    table: str, known: Iterable[Network], *, remove: bool = False
) -> list[tuple[str, str, str]]:
    """(family, set, the network's name) of elements that no network of those *known* has; with *remove* they go.

    Raises Unsupported, KernelError.
    """
    wanted = {
        (family, name, element.key)
        for network in known
        for family, name, several in rules.of_network(network)
        for element in several
    }
    found = []
    with _opened() as channel:
        for name in rules.NETWORK_SETS:
            there = _there(channel, INET, table, name)
            for element, behind in zip(there, [*there[1:], Element(b"")], strict=False):
                if not element.comment or (INET, name, element.key) in wanted:
                    continue
                found.append((INET, name, element.comment))
                if remove:
                    # an interval's end follows it, without a comment
                    gone = replace(element, end=b"" if behind.comment else behind.key)
                    _remove_each(channel, INET, table, name, [gone])
    return found


class _Kept:
    """A socket that somebody else closes."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def __enter__(self) -> Any:
        return self.channel

    def __exit__(self, *_: object) -> None:
        pass


def _opened() -> Channel:
    try:
        return open_nftables()
    except KernelError as error:
        raise _translated(error) from error


def _translated(error: KernelError) -> Exception:
    """What people can do about it."""
    if error.errno in (EPROTONOSUPPORT, EOPNOTSUPP):
        return Unsupported(
            "make the rules of a network: this kernel has no nf_tables",
            remedy=f"modprobe nf_tables, or {REMEDY}",
        )
    if error.errno == EPERM:
        return Unsupported(
            "make the rules of a network: only root of this network namespace may", remedy=REMEDY
        )
    if error.errno == ENOENT and error.target.startswith("rule "):
        return Unsupported(
            f"make the rules of a network: this kernel lacks an expression of nf_tables ({error.target})",
            remedy="load its modules (nft_fib_inet, nft_limit, nft_masq, nft_nat, nft_ct, nf_tables_bridge), or "
            + REMEDY,
        )
    return error
