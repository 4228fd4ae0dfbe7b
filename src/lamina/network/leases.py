"""Which container has which address of a network: a directory with one symbolic link an address.

    <directory>/10.88.0.5  →  the id of the container that has it
    <directory>/.last      →  the address that was given last; a hint (`.last6`: of IPv6)

symlink(2) takes an address and says whose it is in one exclusive step: no lock, no half, and a crash leaves either
nothing or a lease that names its owner, who can be asked whether it still lives. The next address is looked for behind
the one given last, so that one that was given back rests for a while: neighbours and connections still know it.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT

from lamina.errors import Conflict, InvalidInput
from lamina.linux.descriptors import LOCK_EX, flock
from lamina.linux.fd import Fd
from lamina.network.subnet import Subnet, packed, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LAST, LAST_IPV6 = ".last", ".last6"
_LOOKS = 64  # addresses that are tried one by one before all that are taken are listed


def take(directory: bytes, subnet: Subnet, among: Subnet, reserved: Collection[bytes], owner: str) -> bytes:
    """Take a free address of *among*, a part of *subnet*, for *owner*; it is packed.

    Not the *reserved* ones (the gateway), nor the subnet's first and, of IPv4, last, which mean all of it. Raises
    Conflict when every address is taken.
    """
    first, last = _ends(subnet, among)
    if first > last:
        raise _exhausted(subnet, among)
    hint = LAST if subnet.bits == 32 else LAST_IPV6
    begin = _hint(directory, hint, first, last)
    taken = _skipped(reserved, first, last)
    number = begin
    for tried in range(last - first + 1):
        if tried == _LOOKS:
            taken |= {number for name in leased(directory) if first <= (number := _number(name)) <= last}
            if len(taken) > last - first:
                raise _exhausted(subnet, among)
        if number not in taken and _take(directory, text_of(subnet.packed(number)), owner):
            _note(directory, hint, text_of(subnet.packed(number)))
            return subnet.packed(number)
        number = first if number == last else number + 1
    raise _exhausted(subnet, among)


def take_this(
    directory: bytes, subnet: Subnet, address: bytes, reserved: Collection[bytes], owner: str
) -> None:
    """Take *address* for *owner*; one that it has already stays its own. Raises InvalidInput for one that no container
    can have, Conflict for one that is taken.
    """
    text = text_of(address)
    first, last = _ends(subnet, subnet)
    if not subnet.has(address) or not first <= int.from_bytes(address, "big") <= last:
        ends = f"{text_of(subnet.packed(first))} to {text_of(subnet.packed(last))}"
        raise InvalidInput(
            f"take address {text}: not one for a container in {subnet}",
            remedy=f"there are {ends}; or leave it out",
        )
    if address in reserved:
        raise Conflict(f"address {text}: the gateway of {subnet} has it", remedy="choose another address")
    if not _take(directory, text, owner) and (holder := holder_of(directory, address)) != owner:
        raise Conflict(
            f"address {text}: taken by container {(holder or '?')[:12]}",
            remedy="choose another address, or remove that container",
        )


def give_back(directory: bytes, address: bytes, owner: str) -> None:
    """Give the address back, if it is *owner*'s. Raises OSError."""
    # in turns: else one could give back what somebody else has given back, and a third one taken anew, meanwhile
    with Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as held:
        flock(held, LOCK_EX)
        if holder_of(directory, address) == owner:
            os.unlink(directory + b"/" + text_of(address).encode())


def holder_of(directory: bytes, address: bytes) -> str | None:
    """Who has the address, None for nobody."""
    try:
        return os.readlink(os.fsdecode(directory) + "/" + text_of(address))
    except OSError as error:
        if error.errno in (ENOENT, EINVAL):
            return None
        raise


def leased(directory: bytes) -> dict[str, str]:
    """Every address that is taken, and who has it. Raises OSError."""
    found = {}
    try:
        names = os.listdir(os.fsdecode(directory))
    except FileNotFoundError:
        return {}
    for name in names:
        if name.startswith("."):
            continue
        try:
            found[name] = os.readlink(f"{os.fsdecode(directory)}/{name}")
        except OSError:  # given back meanwhile
            continue
    return found


def drop_stale(directory: bytes, lives: Callable[[str], bool]) -> list[str]:
    """Give back what belongs to owners of whom *lives* says no; the addresses. Raises OSError."""
    dropped = []
    for name, owner in leased(directory).items():
        if not lives(owner):
            give_back(directory, packed(name), owner)
            dropped.append(name)
    return dropped


def _ends(subnet: Subnet, among: Subnet) -> tuple[int, int]:
    """The first and the last address of *among* that a container can have, as numbers."""
    first, last = among.first, among.last
    whole = subnet.bits - subnet.prefix
    if whole >= 2:
        first = max(first, subnet.first + 1)
        if subnet.bits == 32:
            last = min(last, subnet.last - 1)
    return first, last


def _number(text: str) -> int:
    return int.from_bytes(packed(text), "big")


def _skipped(reserved: Collection[bytes], first: int, last: int) -> set[int]:
    numbers = {int.from_bytes(address, "big") for address in reserved}
    return {number for number in numbers if first <= number <= last}


def _take(directory: bytes, text: str, owner: str) -> bool:
    try:
        os.symlink(owner, os.fsdecode(directory) + "/" + text)
    except FileExistsError:
        return False
    return True


def _hint(directory: bytes, hint: str, first: int, last: int) -> int:
    """Where to begin: behind the address that was given last."""
    try:
        number = _number(os.readlink(os.fsdecode(directory) + "/" + hint)) + 1
    except (OSError, InvalidInput):
        return first
    return number if first <= number <= last else first


def _note(directory: bytes, hint: str, text: str) -> None:
    """Two who do it at once overwrite each other's; then the next search takes a step more."""
    name = os.fsdecode(directory) + "/" + hint
    new = f"{name}.{os.getpid()}"
    try:
        os.symlink(text, new)
        os.rename(new, name)
    except OSError:  # only a hint
        pass


def _exhausted(subnet: Subnet, among: Subnet) -> Conflict:
    of = f"{among} of {subnet}" if among != subnet else str(subnet)
    return Conflict(
        f"take an address of {of}: every one is taken",
        remedy="remove containers, or make a network with a larger --subnet",
    )
