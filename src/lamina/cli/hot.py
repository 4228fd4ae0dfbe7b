"""What the warm process of this face needs to know (lamina.warm): which modules commands import, and which commands
are better off in a process of their own.

A worker belongs to no terminal: it has the caller's descriptors, so it can write to one, ask for its size and read
from it, but it is in nobody's foreground or background, and has no /dev/tty. So on a terminal it does what only
writes. tests/warm/test_warm_hot.py compares MODULES with what the verbs load.
"""

from __future__ import annotations

from lamina.argv import quick
from lamina.cli.options import GLOBAL
from lamina.warm.copies import DRAWING_UP, LISTING, NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# what the verbs of HOT import, by package
_WITHIN = {
    "lamina": "document errors values",
    "lamina.argv": "declare quick",
    "lamina.cli": (
        "applying asked convert detached durations each entry inspecting listing output pager quoting report "
        "sizes style template transcript units usage waiting when"
    ),
    "lamina.cli.options": "attached further run",
    "lamina.cli.verbs": (
        "create execute image_inspect images inspect kill logs ps rename restart rm run start stop "
        "version wait"
    ),
    "lamina.engine": (
        "accounts answers base checking completed container creating default_network design detaching discard engine "
        "executing host host_config images inspect keeping layers life listing logging moment mount_notation mounted "
        "name_files naming network_events network_facts network_record networking networks notation obtain options "
        "own_files picture places plugging port_claims publishing quantities recover remembered responders run "
        "settling translate view_verbs"
    ),
    "lamina.engine.health": "checks results",
    "lamina.image": "platform reference",
    "lamina.image.documents": "config manifest media moment reading",
    "lamina.linux": (
        "call capabilities constants fd files mountinfo namespaces netlink nftables numbers packed process procfs "
        "program rtnetlink signals"
    ),
    "lamina.network": (
        "claims dns egress firewall forwarding leases links matches model names rules subnet"  # of starts with one
    ),
    "lamina.overlay": "copying spec steps",
    "lamina.runtime": (
        "bundle capabilities command copy_up facts identity kept launch rlimits talk template users waits"
    ),
    "lamina.runtime.cgroups": "cgroup joining layout making resources v1",
    "lamina.runtime.container": "birth compiling directory further recipe",
    "lamina.runtime.plan": (
        "cgroup_mounts created devices identity masks mounts namespaces options paths process procfs "
        "rootfs stage waits"
    ),
    "lamina.runtime.seccomp": "architectures assembler cache compiler profile rules words",
    "lamina.store": (
        "blobs claims containers digest durable garbage images layers leases lock names networks record "
        "references root scratch stage successors tags trace tree volumes way"
    ),
    "lamina.supervisor": "foreground interpreter keys pump signals stdio",
    "lamina.supervisor.logs": "following frames rotation",
}
_OTHERS = (
    "datetime",
    "hashlib",
    "json",
    "locale",
    "msgspec",
    "pathlib",
    "re",
    "shutil",
    "subprocess",
    "threading",
    "time",
)
MODULES = (*(f"{package}.{name}" for package, names in _WITHIN.items() for name in names.split()), *_OTHERS)

# verbs that many people, or programs, call often
HOT = (
    *("run", "exec", "create", "start", "stop", "restart", "kill", "wait", "rename", "rm"),
    *("ps", "images", "inspect", "logs", "version", "image ls", "image inspect"),
)
# verbs that may be done with standard streams on a terminal: they read nothing from it and start no pager
_FURTHER = (
    "top",
    "pause",
    "unpause",
    "update",
    "port",
    "rmi",
    "tag",
    "history",
    "explain",
    "why",
    *("snapshot create", "snapshot ls", "snapshot inspect", "snapshot rm", "rewind", "rollback"),
)
ONLY_WRITING = frozenset(
    {*HOT, *_FURTHER, "completion", "volume ls", "volume inspect", "volume create"},
)
# verbs that draw up a container or a process, and so look at most of what is imported; and those that make hundreds of
# objects where there are hundreds of containers
KINDS = {
    **dict.fromkeys(("run", "exec", "create", "start", "restart"), DRAWING_UP),
    **dict.fromkeys(("ps", "images", "inspect"), LISTING),
}
# options with which they do: these read from the terminal, or make it the container's
TAKING = ("interactive", "tty", "attach")
# an option that says something of the caller's parent, which a worker's is not
OF_THE_PARENT = "--lifetime"


def does_well_without(argv: Sequence[str], terminals: Sequence[int]) -> bool:
    """Whether a worker may do the command *argv*; *terminals* are those of 0, 1 and 2 that are terminals."""
    if any(word.startswith(OF_THE_PARENT) for word in argv):
        return False
    if not terminals:
        return True
    from lamina.cli.entry import load, named

    words = quick.options(GLOBAL.options, argv, interspersed=False)
    found = named(words[1]) if words is not None else None
    if found is None:
        return False
    name, rest = found
    if name not in ONLY_WRITING:
        return False
    values = quick.parse(load(name).VERB, rest)
    return values is not None and not any(values.get(key) for key in TAKING)


def rehearse() -> None:
    """Touch what reading a command line takes."""
    from lamina.cli.entry import load, named

    words = quick.options(GLOBAL.options, ("run", "--rm", "-e", "A=1", "image", "true"), interspersed=False)
    assert words is not None
    found = named(words[1])
    assert found is not None
    quick.parse(load(found[0]).VERB, found[1])


def kind(argv: Sequence[str]) -> int:
    """Which pages the command *argv* is going to write to: see lamina.warm.copies."""
    return next((KINDS[word] for word in argv if word in KINDS), NONE)


def lingering() -> list[int]:
    """What is removed from now on is given back to the file system when this process has said how it ended: the
    descriptors that are to be left open for that.
    """
    from lamina.engine.discard import linger

    return linger()
