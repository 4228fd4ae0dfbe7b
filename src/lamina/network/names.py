"""Which names containers have in a network: a directory with one directory a name, in it one symbolic link an owner.

    <directory>/web/<id>   →  10.79.0.2,fd00::2      the container of that id has these addresses

As with addresses (`leases`), one system call makes an entry whole, nobody waits for anybody, and what a crash leaves
has an owner. So a name is answered by reading one directory, however many containers there are; several may share one.
"""

from __future__ import annotations

import os
from errno import EEXIST, ENOTEMPTY

from lamina.network.dns import text_of as plain_text
from lamina.network.subnet import packed
from lamina.network.subnet import text_of as address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TRIES = 100  # of those who make a name's directory while others remove it
LONGEST = 253


def is_name(text: str) -> bool:
    """Whether it can be asked for: letters, digits, '-' and '_', in labels of at most 63."""
    labels = text.lower().encode(errors="replace").split(b".")
    return len(text) <= LONGEST and bool(plain_text(labels)) and all(len(label) < 64 for label in labels)


def take(directory: bytes, name: str, owner: str, addresses: Iterable[bytes]) -> None:
    """Let *name* mean the container *owner* as well, or anew. Raises FileNotFoundError where the network is gone."""
    place = _place(directory, name)
    text = ",".join(address_text(address) for address in addresses)
    for _ in range(_TRIES):
        try:
            os.symlink(text, f"{place}/{owner}")
            return
        except FileExistsError:
            give_back(directory, name, owner)
        except FileNotFoundError:
            for missing in (os.fsdecode(directory), place):
                try:
                    os.mkdir(missing, 0o700)
                except FileExistsError:
                    pass
    raise OSError(f"the directory of name {name} comes and goes")


def give_back(directory: bytes, name: str, owner: str) -> None:
    """Let *name* no longer mean *owner*; nothing happens where it does not. Raises OSError."""
    place = _place(directory, name)
    try:
        os.unlink(f"{place}/{owner}")
        os.rmdir(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (EEXIST, ENOTEMPTY):  # else somebody else has it too; rmdir(2)
            raise


def find(directory: bytes, name: str) -> list[bytes]:
    """The packed addresses of all that have the name, sorted; of names that are none, and that nobody has, none."""
    found = []
    if not is_name(name):
        return []
    place = _place(directory, name)
    for owner in _listed(place):
        try:
            text = os.readlink(f"{place}/{owner}")
        except OSError:  # given back meanwhile
            continue
        found += [packed(part) for part in text.split(",") if part]
    return sorted(found)


def every(directory: bytes) -> set[tuple[str, str]]:
    """(name, owner) of all entries. Raises OSError."""
    place = os.fsdecode(directory)
    return {(name, owner) for name in _listed(place) for owner in _listed(f"{place}/{name}")}


def is_empty(directory: bytes) -> bool:
    """Whether nobody has a name in it, or it is gone."""
    with_nothing = True
    try:
        with os.scandir(os.fsdecode(directory)) as entries:
            for _ in entries:
                with_nothing = False
                break
    except FileNotFoundError:
        pass
    return with_nothing


def _place(directory: bytes, name: str) -> str:
    return f"{os.fsdecode(directory)}/{name.lower()}"


def _listed(place: str) -> list[str]:
    try:
        return os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
