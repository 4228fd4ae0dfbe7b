"""The options of the specification's mounts, sorted by who understands them.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options; mount(8) for the words
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.linux import mount_options
from lamina.linux.constants import (
    AT_RECURSIVE,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)
from lamina.values import value

# option: (attributes to set, attributes to clear); with an "r" in front the whole tree below (rro, rnosuid, ...)
ATTRIBUTES = {
    **mount_options.ATTRIBUTES,
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "defaults": (0, 0),
}
PROPAGATION = {
    "private": (MS_PRIVATE, 0),
    "rprivate": (MS_PRIVATE, AT_RECURSIVE),
    "slave": (MS_SLAVE, 0),
    "rslave": (MS_SLAVE, AT_RECURSIVE),
    "shared": (MS_SHARED, 0),
    "rshared": (MS_SHARED, AT_RECURSIVE),
    "unbindable": (MS_UNBINDABLE, 0),
    "runbindable": (MS_UNBINDABLE, AT_RECURSIVE),
}
# what belongs to the file system and not to one mount of it; those that take back are what there is without them
SUPERBLOCK = ("sync", "dirsync", "lazytime", "mand")
TAKEN_BACK = {"async": "sync", "nolazytime": "lazytime", "nomand": "mand", "noiversion": "iversion"}
# how loud the kernel's log is about a failing mount: fsopen(2) never writes there, its errors come back to the caller
LOUDNESS = ("silent", "loud")
_WORDS = (
    "bind",
    "rbind",
    "idmap",
    "ridmap",
    "tmpcopyup",
    "remount",
    "iversion",
    *LOUDNESS,
    *SUPERBLOCK,
    *TAKEN_BACK,
)


@value
class Options:
    """A mount's options.

    `set`, `clear` and `*_below` are MOUNT_ATTR flags for the mount and for the tree below it, `propagation` MS_* and
    AT_RECURSIVE or 0, `bind` and `idmap` AT_RECURSIVE or 0, None without. `superblock` are flags that belong to the
    file system, `iversion` one that only mount(2) can set, `data` what only the file system itself understands.
    """

    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0
    propagation: tuple[int, int] | None = None
    bind: int | None = None
    idmap: int | None = None
    copy_up: bool = False
    remount: bool = False
    iversion: bool = False
    superblock: tuple[str, ...] = ()
    data: tuple[tuple[str, str], ...] = ()


def parse_options(options: list[str]) -> Options:
    """Sort mount *options*; of two that contradict each other the later one counts, as in mount(8).

    As in runc and crun not so of two that are for all below: there what restricts counts (`rro` and `rrw` are `rro`),
    for the kernel clears before it sets. And what is for all below comes last: `rrw` takes back a `ro`, `rro` a `rw`.
    """
    attributes = [0, 0, 0, 0]
    propagation = bind = idmap = None
    data = []
    words: dict[str, bool] = {}
    for option in options:
        if option in ATTRIBUTES:
            _add(attributes, 0, ATTRIBUTES[option])
        elif option in _WORDS:
            if option in ("bind", "rbind"):
                bind = AT_RECURSIVE if option == "rbind" else 0
            elif option in ("idmap", "ridmap"):
                idmap = AT_RECURSIVE if option == "ridmap" else 0
            elif option in TAKEN_BACK:
                words.pop(TAKEN_BACK[option], None)
            else:
                words[option] = True
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif not option:
            continue  # what is left of a list of words that was empty
        elif option.startswith("r") and option[1:] in ATTRIBUTES and option != "rdefaults":
            _add_below(attributes, ATTRIBUTES[option[1:]])
        else:
            key, _, text = option.partition("=")
            data.append((key, text))
    return Options(
        set=attributes[0],
        clear=attributes[1],
        set_below=attributes[2],
        clear_below=attributes[3] & ~(attributes[2] & ~MOUNT_ATTR__ATIME),
        propagation=propagation,
        bind=bind,
        idmap=idmap,
        copy_up="tmpcopyup" in words,
        remount="remount" in words,
        iversion="iversion" in words,
        superblock=tuple(word for word in words if word in SUPERBLOCK),
        data=tuple(data),
    )


def _add(attributes: list[int], at: int, change: tuple[int, int]) -> None:
    add, remove = change
    attributes[at] = attributes[at] & ~remove | add
    attributes[at + 1] = attributes[at + 1] & ~add | remove


def _add_below(attributes: list[int], change: tuple[int, int]) -> None:
    """Of when files were read there is one word at a time: of these the later one counts here as well."""
    add, remove = change
    if remove & MOUNT_ATTR__ATIME:
        attributes[2] &= ~MOUNT_ATTR__ATIME
    attributes[2] |= add
    attributes[3] |= remove


def refuse_for_bind(options: Options, what: str) -> None:
    """Raise InvalidInput if a bind mount is to have what only a file system of its own can have."""
    alien = [*options.superblock, *(["tmpcopyup"] if options.copy_up else [])]
    alien += ["iversion"] if options.iversion else []
    alien += [key for key, _ in options.data]
    if alien:
        raise InvalidInput(
            f"{what}: a bind mount takes no option {alien[0]!r}",
            remedy="what belongs to the whole file system is set where that is mounted",
        )


def option_names() -> list[str]:
    """Every mount option that is not a file system's own."""
    deep = ["r" + name for name in ATTRIBUTES if name != "defaults" and "r" + name not in ATTRIBUTES]
    return sorted({*ATTRIBUTES, *deep, *PROPAGATION, *_WORDS})
